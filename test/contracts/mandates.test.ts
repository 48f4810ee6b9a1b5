import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { escrowAbi } from '../../contracts/abi.ts'
import { fromHex, toHex } from '../../protocol/bytes.ts'
import { compactSignature, orderClaims, packClaims } from '../../protocol/claims.ts'
import { openContracts, signerOf } from './setup.ts'

type Setup = Awaited<ReturnType<typeof openContracts>>
const status = { settled: 0, partial: 1, badVoucher: 3, noFunds: 8, mandateExceeded: 9 } as const

let it: Setup
let snapshot: `0x${string}`
const runner = signerOf('runner')
const agent = signerOf('agent')

beforeAll(async () => {
  it = await openContracts()
  await it.registerPck()
  await it.register(runner)
  await it.fund('buyer', 100_000n)
  snapshot = await it.testClient.snapshot()
}, 60_000)
beforeEach(async () => {
  await it.testClient.revert({ id: snapshot })
  snapshot = await it.testClient.snapshot()
})
afterAll(async () => {
  await it?.chain.stop()
})

const call = (functionName: string, args: readonly unknown[]) => ({
  address: it.contracts.escrow,
  abi: escrowAbi,
  functionName,
  args,
})

describe('a mandated key', () => {
  type Bounds = { cap?: bigint; channelCap?: bigint; seconds?: bigint; anyModel?: boolean; models?: `0x${string}`[] }
  const authorize = async ({
    cap = 1_000n,
    channelCap = 1_000n,
    seconds = 3_600n,
    anyModel = true,
    models = [],
  }: Bounds = {}) =>
    it.send('buyer', call('authorize', [agent.address, cap, channelCap, (await it.now()) + seconds, anyModel, models]))
  const spend = async (cumulative: bigint, of?: Awaited<ReturnType<Setup['terms']>>, by = agent) => {
    const terms = of ?? (await it.terms(runner))
    const made = await it.claim(terms, { cumulative, voucher: cumulative, voucherSigner: by, kind: 'mandate' })
    const { statuses } = await it.settle(runner, [made])
    return { status: statuses[0], paid: await it.read<bigint>('settled', [made.channel]) }
  }

  test('behavior: spends within its bounds, of the buyer who named it', async () => {
    await authorize()
    expect(await spend(400n)).toEqual({ status: status.settled, paid: 400n })
    const [balance] = await it.read<readonly [bigint, bigint, bigint]>('accounts', [signerOf('buyer').address])
    expect(balance).toBe(99_600n)
  })

  test('refusal: past its cap, over any number of channels and however often', async () => {
    await authorize()
    expect(await spend(700n)).toEqual({ status: status.settled, paid: 700n })
    expect(await spend(700n)).toEqual({ status: status.partial, paid: 300n })
    expect(await spend(700n)).toEqual({ status: status.mandateExceeded, paid: 0n })
  })

  test('refusal: past its cap within one batch', async () => {
    await authorize()
    const claims = await Promise.all(
      [1, 2, 3].map(async () =>
        it.claim(await it.terms(runner), { cumulative: 600n, voucher: 600n, voucherSigner: agent, kind: 'mandate' }),
      ),
    )
    expect((await it.settle(runner, claims)).statuses).toEqual([status.settled, status.partial, status.mandateExceeded])
  })

  test('refusal: past what one channel may take', async () => {
    await authorize({ channelCap: 300n })
    const terms = await it.terms(runner)
    expect(await spend(200n, terms)).toEqual({ status: status.settled, paid: 200n })
    expect(await spend(500n, terms)).toEqual({ status: status.partial, paid: 300n })
    expect(await spend(900n, terms)).toEqual({ status: status.mandateExceeded, paid: 300n })
  })

  test('refusal: after its expiry, and at once after it is revoked', async () => {
    await authorize({ seconds: 30n })
    await it.testClient.increaseTime({ seconds: 60 })
    await it.testClient.mine({ blocks: 1 })
    expect((await spend(100n)).status).toBe(status.mandateExceeded)
    await authorize()
    expect((await spend(100n)).status).toBe(status.settled)
    await it.send('buyer', call('revoke', [agent.address]))
    expect((await spend(100n)).status).toBe(status.badVoucher)
  })

  test('refusal: another model than it was given; a mandate named again forgets the models before', async () => {
    const model = toHex(new Uint8Array(32).fill(9))
    await authorize({ anyModel: false, models: [model] })
    expect((await spend(100n)).status).toBe(status.mandateExceeded)
    expect((await spend(100n, await it.terms(runner, { model }))).status).toBe(status.settled)
    await authorize({ anyModel: false })
    expect((await spend(100n, await it.terms(runner, { model }))).status).toBe(status.mandateExceeded)
  })

  test('refusal: a key nobody named, a key another buyer named, and the buyer under a mandate', async () => {
    expect((await spend(100n)).status).toBe(status.badVoucher)
    await it.fund('other buyer', 1_000n)
    await it.send(
      'other buyer',
      call('authorize', [agent.address, 1_000n, 1_000n, (await it.now()) + 3_600n, true, []]),
    )
    expect((await spend(100n)).status).toBe(status.badVoucher)
    expect((await spend(100n, undefined, signerOf('buyer'))).status).toBe(status.badVoucher)
  })

  test('refusal: mandates that bound nothing', async () => {
    const later = (await it.now()) + 3_600n
    const zero = `0x${'00'.repeat(20)}`
    for (const args of [
      [zero, 1n, 1n, later, true, []],
      [signerOf('buyer').address, 1n, 1n, later, true, []],
      [agent.address, 0n, 1n, later, true, []],
      [agent.address, 1n, 0n, later, true, []],
      [agent.address, 1n, 1n, 1n, true, []],
    ]) {
      await expect(it.send('buyer', call('authorize', args))).rejects.toThrow('BadMandate')
    }
    await expect(it.send('buyer', call('revoke', [agent.address]))).rejects.toThrow('BadMandate')
  })
})

describe('packed claims', () => {
  test('refusal: bytes cut off, added or changed in their counts', async () => {
    const made = await it.claim(await it.terms(runner), { cumulative: 100n, voucher: 100n })
    const { signature } = await it.signBatch(runner, [made.leaf])
    const packed = packClaims({ claims: [made.claim], signature: fromHex(signature) })
    const ask = (bytes: Uint8Array) =>
      it.publicClient.simulateContract({
        ...call('settleChannels', [toHex(bytes)]),
        account: it.wallet('provider').account,
      } as never)
    for (let length = 0; length < packed.length; length += 11) {
      await expect(ask(packed.slice(0, length))).rejects.toThrow('MalformedClaims')
    }
    await expect(ask(Uint8Array.from([...packed, 0]))).rejects.toThrow('MalformedClaims')
    const at = (offset: number, value: number) => {
      const changed = packed.slice()
      changed[offset] = value
      return changed
    }
    // Claims in all, groups, mode, claims in the group, kind of voucher.
    for (const [offset, value] of [
      [85, 2],
      [85, 0],
      [86, 2],
      [86, 0],
      [87, 2],
      [88 + 71, 2],
      [88 + 71, 0],
      [88 + 72, 3],
    ] as const) {
      await expect(ask(at(offset, value))).rejects.toThrow('MalformedClaims')
    }
  })

  test('behavior: claims of several listings go together, each paid into its own pot', async () => {
    const other = await it.terms(runner, { royaltyBps: 2_000 })
    const claims = [
      await it.claim(await it.terms(runner), { cumulative: 100n, voucher: 100n }),
      await it.claim(other, { cumulative: 100n, voucher: 100n }),
      await it.claim(await it.terms(runner), { cumulative: 100n, voucher: 100n }),
    ]
    const ordered = orderClaims(claims, ({ claim }) => claim.terms)
    expect(ordered.map(({ claim }) => claim.terms.royaltyBps)).toEqual([1_000, 1_000, 2_000])
    expect((await it.settle(runner, ordered)).statuses).toEqual([0, 0, 0])
    const pot = async (royaltyBps: number) =>
      it.read<bigint>('pots', [await it.read('potId', [runner.address, signerOf('publisher').address, royaltyBps])])
    expect([await pot(1_000), await pot(2_000)]).toEqual([200n, 100n])
  })

  test('behavior: a preview tells what settling would pay, and does not', async () => {
    const made = await it.claim(await it.terms(runner), { cumulative: 300n, voucher: 200n })
    const packed = packClaims({ claims: [made.claim], signature: new Uint8Array(65).fill(27, 64) })
    expect(await it.read('preview', [toHex(packed)])).toEqual([[0], [200n]])
    expect(await it.read('settled', [made.channel])).toBe(0n)
  })

  test('refusal: signatures in another form than r, a low s and v', () => {
    expect(() => compactSignature(new Uint8Array(64))).toThrow('65 bytes')
    expect(() => compactSignature(new Uint8Array(65))).toThrow('65 bytes')
    expect(() => compactSignature(new Uint8Array(65).fill(0xff, 32, 64).fill(27, 64))).toThrow('65 bytes')
  })
})

describe('the guardian', () => {
  test('behavior: refuses new deposits, never an exit or a settlement', async () => {
    const deposit = call('deposit', [signerOf('buyer').address, 1n])
    await it.send('deployer', call('pauseDeposits', [true]))
    await expect(it.send('buyer', deposit)).rejects.toThrow('DepositsArePaused')
    const made = await it.claim(await it.terms(runner), { cumulative: 100n, voucher: 100n })
    expect((await it.settle(runner, [made])).statuses).toEqual([0])
    await it.send('buyer', call('requestWithdrawal', [500n]))
    await it.testClient.increaseTime({ seconds: 61 })
    await it.testClient.mine({ blocks: 1 })
    await it.send('buyer', call('withdraw', []))
    await it.send('buyer', call('distribute', [runner.address, signerOf('publisher').address, 1_000]))
    await it.send('provider', call('withdrawEarnings', [signerOf('provider').address]))
    await it.send('deployer', call('pauseDeposits', [false]))
    await it.fund('buyer', 10n)
  })

  test('refusal: anyone else', async () => {
    await expect(it.send('provider', call('pauseDeposits', [true]))).rejects.toThrow('NotGuardian')
  })
})
