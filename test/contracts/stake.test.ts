import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { stakeAbi, testTokenAbi } from '../../contracts/abi.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Receipt } from '../../protocol/receipt.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import type { Terms } from '../../protocol/terms.ts'
import { openContracts, signerOf } from './setup.ts'

type Setup = Awaited<ReturnType<typeof openContracts>>
const delay = 14 * 24 * 3_600

describe('Stake', () => {
  let it: Setup
  let snapshot: Hex
  beforeAll(async () => {
    it = await openContracts()
    await it.registerPck()
    await it.register(runner)
    snapshot = await it.testClient.snapshot()
  })
  beforeEach(async () => {
    await it.testClient.revert({ id: snapshot })
    await it.testClient.mine({ blocks: 2 })
    snapshot = await it.testClient.snapshot()
  })
  afterAll(async () => {
    await it?.chain.stop()
  })

  const runner = signerOf('runner')
  const call = (party: string, functionName: string, args: readonly unknown[]) =>
    it.send(party, { address: it.contracts.stake, abi: stakeAbi, functionName, args })
  const view = (functionName: string, args: readonly unknown[]) =>
    it.publicClient.readContract({ address: it.contracts.stake, abi: stakeAbi, functionName, args } as never)
  const put = async (party: string, amount: bigint) => {
    const { address } = it.wallet(party).account
    const token = { address: it.contracts.token, abi: testTokenAbi } as const
    await it.send(party, { ...token, functionName: 'mint', args: [address, amount] })
    await it.send(party, { ...token, functionName: 'approve', args: [it.contracts.stake, amount] })
    await call(party, 'stake', [runner.address, amount])
  }
  const balance = (address: string) =>
    it.publicClient.readContract({
      address: it.contracts.token,
      abi: testTokenAbi,
      functionName: 'balanceOf',
      args: [address as Hex],
    })

  /** Signs receipts in one batch, as a runner does, and shows each as the contract takes it. */
  const signed = async (terms: Terms, receipts: Partial<Receipt>[], by: Signer = runner) => {
    const made = await Promise.all(
      receipts.map((receipt) => it.claim(terms, { cumulative: 100n, voucher: 100n, receipt })),
    )
    const { proofs, signature } = await it.signBatch(
      by,
      made.map(({ leaf }) => leaf),
    )
    return made.map(({ onChain }, at) => ({
      receipt: onChain,
      proof: { index: proofs[at]!.index, count: proofs[at]!.count, path: proofs[at]!.path.map(toHex) },
      batchSignature: signature,
    }))
  }

  test('behavior: two answers to one job, each among others in its own batch, cost a registered runner its stake', async () => {
    await put('publisher', 1_000n)
    await put('provider', 500n)
    const terms = await it.terms(runner)
    const [, first] = await signed(terms, [{ job: 6n }, { job: 7n }, { job: 8n, cumulative: 200n }])
    const [second] = await signed(terms, [{ job: 7n, detail: sha256(new Uint8Array([9])) }, { job: 9n }])
    await call('other provider', 'slash', [terms, first, second])
    expect(await view('stakes', [runner.address])).toEqual([0n, 0n, 0n, true])

    await call('other provider', 'pay', [terms.buyer])
    await call('other provider', 'withdraw', [it.wallet('other provider').account.address])
    const burn = (await view('BURN', [])) as string
    await call('other provider', 'pay', [burn])
    expect(await balance(terms.buyer)).toBe(600n)
    expect(await balance(it.wallet('other provider').account.address)).toBe(150n)
    expect(await balance(burn)).toBe(750n)
    expect(await balance(it.contracts.stake)).toBe(0n)
  })

  test('behavior: what a runner signed twice and the same, but for the time, costs nothing', async () => {
    await put('provider', 1_000n)
    const terms = await it.terms(runner)
    const finishedAt = await it.now()
    const [first] = await signed(terms, [{ job: 7n, finishedAt }])
    const [again] = await signed(terms, [{ job: 7n, finishedAt: finishedAt + 30n }])
    await expect(call('publisher', 'slash', [terms, first, again])).rejects.toThrow('NothingDiffers')
  })

  test('behavior: another key cannot slash a runner, nor can receipts under the terms of another', async () => {
    await put('provider', 1_000n)
    const terms = await it.terms(runner)
    const stranger = signerOf('stranger')
    const [mine] = await signed(terms, [{ job: 7n }])
    const [forged] = await signed(terms, [{ job: 7n, status: 1 }], stranger)
    await expect(call('publisher', 'slash', [terms, mine, forged])).rejects.toThrow('WrongSigner')
    const [other] = await signed({ ...terms, runner: stranger.address }, [{ job: 7n, status: 1 }])
    await expect(call('publisher', 'slash', [terms, mine, other])).rejects.toThrow('WrongSigner')
  })

  test('behavior: only the registered provider gets a stake back, after the delay, even when its runner is long gone', async () => {
    await put('publisher', 1_000n)
    await it.policyCall('kill', [])
    await expect(call('publisher', 'requestExit', [runner.address, 1_000n])).rejects.toThrow('NotTheProvider')
    await call('provider', 'requestExit', [runner.address, 1_000n])
    const { address } = it.wallet('provider').account
    await it.testClient.increaseTime({ seconds: delay - 60 })
    await it.testClient.mine({ blocks: 1 })
    await expect(call('provider', 'exit', [runner.address, address])).rejects.toThrow('TooEarly')
    await it.testClient.increaseTime({ seconds: 61 })
    await it.testClient.mine({ blocks: 1 })
    await call('provider', 'exit', [runner.address, address])
    expect(await balance(address)).toBe(1_000n)
  })

  test('behavior: a key nobody has registered takes no stake', async () => {
    await expect(call('publisher', 'stake', [signerOf('stranger').address, 1n])).rejects.toThrow('RunnerUnknown')
  })
})
