import { stakeAbi, testTokenAbi } from '../contracts/abi.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import type { openContracts, signerOf } from '../test/contracts/setup.ts'
import type { Row } from './main.ts'

/** Measures stakes and slashes of a registered runner in whole transactions, batches of one, and of 256 as a busy runner signs them. */
export async function run(
  it: Awaited<ReturnType<typeof openContracts>>,
  runner: ReturnType<typeof signerOf>,
): Promise<Row[]> {
  const snapshot = await it.testClient.snapshot()
  const rows: Row[] = []
  const call = async (party: string, functionName: string, args: readonly unknown[]) =>
    (await it.send(party, { address: it.contracts.stake, abi: stakeAbi, functionName, args })).gasUsed
  const add = (figure: string, gas: bigint) =>
    rows.push({ figure, value: Number(gas), unit: 'gas', baseline: null, ratio: null, bar: null, met: null })
  const { address } = it.wallet('provider').account
  const token = { address: it.contracts.token, abi: testTokenAbi } as const
  await it.send('provider', { ...token, functionName: 'mint', args: [address, 3_000n] })
  await it.send('provider', { ...token, functionName: 'approve', args: [it.contracts.stake, 2n ** 256n - 1n] })
  add('stake on a runner, first', await call('provider', 'stake', [runner.address, 1_000n]))
  add('stake on a runner, more', await call('provider', 'stake', [runner.address, 1_000n]))
  add('ask for a stake back', await call('provider', 'requestExit', [runner.address, 500n]))
  await it.testClient.increaseTime({ seconds: 14 * 24 * 3_600 })
  await it.testClient.mine({ blocks: 1 })
  add('take a stake back', await call('provider', 'exit', [runner.address, address]))
  for (const size of [1, 256]) {
    const before = await it.testClient.snapshot()
    add(
      `slash on two receipts from batches of ${size}`,
      await call('publisher', 'slash', await proof(it, runner, size)),
    )
    if (size === 1) add('pay what a slash owes', await call('publisher', 'pay', [it.wallet('buyer').account.address]))
    await it.testClient.revert({ id: before })
  }
  await it.testClient.revert({ id: snapshot })
  // A reverted chain has forgotten its newest block hash.
  await it.testClient.mine({ blocks: 2 })
  return rows
}

/** Makes the arguments of a slash: one job with two running totals, each receipt the first of its batch. */
async function proof(
  it: Awaited<ReturnType<typeof openContracts>>,
  runner: ReturnType<typeof signerOf>,
  size: number,
): Promise<readonly unknown[]> {
  const terms = await it.terms(runner)
  const fill = await it.claim(terms, { cumulative: 300n, voucher: 300n, receipt: { job: 2n } })
  const shown = async (cumulative: bigint) => {
    const { leaf, onChain } = await it.claim(terms, { cumulative, voucher: cumulative })
    const { proofs, signature } = await it.signBatch(runner, [
      leaf,
      ...Array.from({ length: size - 1 }, () => fill.leaf),
    ])
    const path: Hex[] = proofs[0]!.path.map(toHex)
    return { receipt: onChain, proof: { index: 0, count: size, path }, batchSignature: signature }
  }
  return [terms, await shown(100n), await shown(200n)]
}
