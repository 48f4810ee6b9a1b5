import { encodeAbiParameters, getContractAddress, keccak256, toHex } from 'viem'
import { testTokenAbi } from '../contracts/abi.ts'
import { buildContracts } from '../dev/contracts.ts'
import { fromHex } from '../protocol/bytes.ts'
import { type openContracts, signerOf } from '../test/contracts/setup.ts'
import type { Row } from './main.ts'

/** Measures what a job costs where each has an escrow of its own: two whole transactions, of a buyer and a provider who have both had jobs before. */
export async function run(it: Awaited<ReturnType<typeof openContracts>>): Promise<Row[]> {
  const { abi, bytecode } = buildContracts(undefined, ['bench/contracts/PerJobEscrow.sol']).PerJobEscrow!
  const wallet = it.wallet('deployer')
  const { account } = wallet
  const nonce = BigInt(await it.publicClient.getTransactionCount({ address: account.address }))
  const hash = await wallet.deployContract({
    abi,
    bytecode,
    args: [it.contracts.token],
    account,
    chain: wallet.chain ?? null,
  })
  await it.publicClient.waitForTransactionReceipt({ hash })
  const address = getContractAddress({ from: account.address, nonce })
  const token = { address: it.contracts.token, abi: testTokenAbi } as const
  const price = 1_000n
  await it.send('buyer', { ...token, functionName: 'mint', args: [it.wallet('buyer').account.address, 10n * price] })
  await it.send('buyer', { ...token, functionName: 'approve', args: [address, 2n ** 256n - 1n] })
  const provider = it.wallet('provider').account.address
  const runner = signerOf('runner')
  let gas = 0n
  for (const job of [1n, 2n, 3n]) {
    const digest = toHex(job, { size: 32 })
    const opened = await it.send('buyer', {
      address,
      abi,
      functionName: 'open',
      args: [provider, runner.address, price, digest],
    })
    const signed = keccak256(encodeAbiParameters([{ type: 'uint256' }, { type: 'bytes32' }], [job, digest]))
    const signature = toHex(await runner.sign(fromHex(signed, 32)))
    const [r, s, v] = [signature.slice(0, 66), `0x${signature.slice(66, 130)}`, Number(`0x${signature.slice(130)}`)]
    const answered = await it.send('provider', { address, abi, functionName: 'answer', args: [job, digest, v, r, s] })
    gas = opened.gasUsed + answered.gasUsed
  }
  const figure = 'a job in an escrow of its own: opened, answered with a signature, paid (two transactions)'
  return [{ figure, value: Number(gas), unit: 'gas', baseline: null, ratio: null, bar: null, met: null }]
}
