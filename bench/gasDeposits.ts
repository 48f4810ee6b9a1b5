import { escrowAbi, testTokenAbi } from '../contracts/abi.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import { sha256 } from '../protocol/hash.ts'
import type { openContracts } from '../test/contracts/setup.ts'
import type { Row } from './main.ts'

type Contracts = Awaited<ReturnType<typeof openContracts>>
const forEver = 2n ** 40n

/** Measures each way to deposit in whole transactions, to an account that has a deposit already; the baseline is a signed transfer of the same token (EIP-3009). */
export async function run(it: Contracts): Promise<Row[]> {
  const snapshot = await it.testClient.snapshot()
  const { address: buyer } = it.wallet('buyer').account
  const token = { address: it.contracts.token, abi: testTokenAbi } as const
  const escrow = { address: it.contracts.escrow, abi: escrowAbi } as const
  const amount = 1_000n
  await it.send('buyer', { ...token, functionName: 'mint', args: [buyer, 100n * amount] })
  // The payee of the baseline has tokens already, as the escrow has.
  const payee = it.wallet('publisher').account.address
  await it.send('publisher', { ...token, functionName: 'mint', args: [payee, amount] })
  const transfer = await sign(it, 'TransferWithAuthorization', payee, amount)
  const baseline = Number(
    (await it.send('provider', { ...token, functionName: 'transferWithAuthorization', args: transfer })).gasUsed,
  )
  const rows: Row[] = []
  const add = (figure: string, gas: bigint) => {
    const value = Number(gas)
    rows.push({ figure, value, unit: 'gas', baseline, ratio: value / baseline, bar: null, met: null })
  }

  await it.send('buyer', { ...token, functionName: 'approve', args: [it.contracts.escrow, 2n ** 256n - 1n] })
  const approved = await it.send('buyer', { ...escrow, functionName: 'deposit', args: [buyer, amount] })
  add('deposit after an approval', approved.gasUsed)
  await it.send('buyer', { ...token, functionName: 'approve', args: [it.contracts.escrow, 0n] })
  const { v, r, s } = await permit(it, amount)
  const permitted = await it.send('buyer', {
    ...escrow,
    functionName: 'depositWithPermit',
    args: [buyer, amount, forEver, v, r, s],
  })
  add('deposit with a permit (EIP-2612)', permitted.gasUsed)
  const [, , ...rest] = await sign(it, 'ReceiveWithAuthorization', it.contracts.escrow, amount)
  const authorized = await it.send('provider', {
    ...escrow,
    functionName: 'depositWithAuthorization',
    args: [buyer, ...rest],
  })
  add('deposit with an authorization (EIP-3009)', authorized.gasUsed)
  const inbox = await it.read<Hex>('inboxOf', [buyer])
  for (const which of ['first', 'again']) {
    await it.send('buyer', { ...token, functionName: 'transfer', args: [inbox, amount] })
    const credited = await it.send('provider', { ...escrow, functionName: 'depositFromInbox', args: [buyer] })
    add(`deposit from an inbox, ${which}, above the transfer to it`, credited.gasUsed)
  }
  await it.testClient.revert({ id: snapshot })
  // A reverted chain has forgotten its newest block hash.
  await it.testClient.mine({ blocks: 2 })
  return rows
}

const domainOf = (it: Contracts) => ({
  name: 'Assay test dollar',
  version: '1',
  chainId: it.chain.chainId,
  verifyingContract: it.contracts.token,
})
const field = (name: string, type: string) => ({ name, type })

/** Signs an EIP-3009 authorization of the buyer; gives the arguments of the token's call. */
async function sign(
  it: Contracts,
  primaryType: 'ReceiveWithAuthorization' | 'TransferWithAuthorization',
  to: Hex,
  value: bigint,
): Promise<readonly unknown[]> {
  const { account } = it.wallet('buyer')
  const nonce = toHex(sha256(new TextEncoder().encode(primaryType)))
  const fields = [
    field('from', 'address'),
    field('to', 'address'),
    field('value', 'uint256'),
    field('validAfter', 'uint256'),
    field('validBefore', 'uint256'),
    field('nonce', 'bytes32'),
  ]
  const message = { from: account.address, to, value, validAfter: 0n, validBefore: forEver, nonce }
  const signature = await it
    .wallet('buyer')
    .signTypedData({ account, domain: domainOf(it), primaryType, types: { [primaryType]: fields }, message })
  return [account.address, to, value, 0n, forEver, nonce, signature]
}

/** Signs an EIP-2612 permit of the buyer for the escrow. */
async function permit(it: Contracts, value: bigint): Promise<{ v: number; r: Hex; s: Hex }> {
  const { account } = it.wallet('buyer')
  const nonce = await it.publicClient.readContract({
    address: it.contracts.token,
    abi: testTokenAbi,
    functionName: 'nonces',
    args: [account.address],
  })
  const signature = await it.wallet('buyer').signTypedData({
    account,
    domain: domainOf(it),
    primaryType: 'Permit',
    types: {
      Permit: [
        field('owner', 'address'),
        field('spender', 'address'),
        field('value', 'uint256'),
        field('nonce', 'uint256'),
        field('deadline', 'uint256'),
      ],
    },
    message: { owner: account.address, spender: it.contracts.escrow, value, nonce, deadline: forEver },
  })
  return {
    r: signature.slice(0, 66) as Hex,
    s: `0x${signature.slice(66, 130)}`,
    v: Number.parseInt(signature.slice(130), 16),
  }
}
