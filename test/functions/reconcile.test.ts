import { eq } from 'drizzle-orm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { escrowAbi, stakeAbi, testTokenAbi } from '../../contracts/abi.ts'
import type { Context, PotKey } from '../../functions/context.ts'
import { getAccount, listPayments } from '../../functions/services/accounts.ts'
import { booksReader } from '../../functions/services/chainReader.ts'
import { addUp, readEvents, readPayments } from '../../functions/services/ledger.ts'
import { reconcile } from '../../functions/services/reconcile.ts'
import type { Database } from '../../functions/store/database.ts'
import { chainEvents, drifts, journalTotals, receipts, runners } from '../../functions/store/schema.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { receiptToJson } from '../../protocol/receipt.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'
import { openTestDatabase } from '../fixtures/database.ts'
import { indexAll } from '../fixtures/indexed.ts'
import { slash } from '../fixtures/slash.ts'

let it: Awaited<ReturnType<typeof openContracts>>
let database: Database
let alerts: object[] = []
let clock = Math.floor(Date.now() / 1000)
const disposers: (() => Promise<unknown>)[] = []
const runner = signerOf('runner')
const treasury = signerOf('treasury').address

const index = () => indexAll(database, it)
const compare = async () => {
  alerts = []
  const books = booksReader(it.publicClient, it.contracts)
  return (await reconcile({ database, books, treasury, now: clock, log: (_, fields) => alerts.push(fields ?? {}) }))
    .drifts
}
const escrow = (functionName: string, args: readonly unknown[]) => ({
  address: it.contracts.escrow,
  abi: escrowAbi,
  functionName,
  args,
})

beforeAll(async () => {
  const opened = await openTestDatabase()
  disposers.push(opened.dispose)
  database = opened.database
  it = await openContracts()
  disposers.push(() => it.chain.stop())
  await it.registerPck()
  await it.register(runner)
  await it.fund('buyer', 100_000n)
}, 120_000)

afterAll(async () => {
  for (const dispose of disposers.reverse()) await dispose()
})

describe('reconcile', () => {
  test('behavior: after deposits, settlements, division and withdrawals the books agree, and only the receipts are missing', async () => {
    const made = await it.claim(await it.terms(runner), { cumulative: 700n, voucher: 900n })
    const other = await it.claim(await it.terms(runner, { royaltyBps: 0 }), { cumulative: 50n, voucher: 50n })
    await it.settle(runner, [made])
    await it.settle(runner, [other])
    await it.send('buyer', escrow('distribute', [runner.address, signerOf('publisher').address, 1_000]))
    await it.send('provider', escrow('withdrawEarnings', [signerOf('provider').address]))
    await it.settle(runner, [await it.claim(made.claim.terms, { cumulative: 800n, voucher: 900n })])
    await index()
    const found = await compare()
    expect(found.map(({ kind, subject, found: seen }) => [kind, subject, seen]).sort()).toEqual(
      [made.channel, other.channel].map((channel) => ['receipts', channel, 'none']).sort(),
    )
    for (const { claim, channel } of [made, other]) {
      await database.insert(receipts).values({
        channel,
        job: '1',
        runner: runner.address,
        receipt: receiptToJson({ ...claim.receipt, cumulative: 800n }),
        detail: {},
        proof: {},
        signature: '0x',
      })
    }
    expect(await compare()).toEqual([])
    expect(alerts).toEqual([])
  })

  test("behavior: a buyer's money and payments in one view each, page by page", async () => {
    const buyer = signerOf('buyer').address
    const [balance, requested, withdrawableAt] = await it.read<readonly [bigint, bigint, bigint]>('accounts', [buyer])
    const payeeOf = async (_: Hex, pots: readonly PotKey[]) => ({ earnings: 0n, slashes: 0n, pots: pots.map(() => 0n) })
    const registry = { accountOf: async () => ({ balance, requested, withdrawableAt }), payeeOf }
    const context = { database, registry, account: null, settings: { FEE_BPS: 100 } } as unknown as Context
    expect(await getAccount(context, buyer)).toEqual({
      address: buyer,
      deposit: '99150',
      available: '99150',
      reserved: '0',
      reservedFor: null,
      requested: '0',
      withdrawableAt: null,
      earnings: { withdrawable: '0', undivided: '0' },
      stake: null,
    })
    const all = await listPayments(context, buyer, { limit: 10 })
    expect(all.payments.map(({ amount, settledTotal }) => [amount, settledTotal])).toEqual([
      ['100', '800'],
      ['50', '50'],
      ['700', '700'],
    ])
    const first = await listPayments(context, buyer, { limit: 2 })
    const rest = await listPayments(context, buyer, { limit: 2, cursor: Number(first.nextCursor) })
    expect([...first.payments, ...rest.payments]).toEqual(all.payments)
    expect(rest.nextCursor).toBeNull()
    expect((await listPayments(context, signerOf('stranger').address, { limit: 10 })).payments).toEqual([])
  })

  test('behavior: of pots those that hold something count, a provider for the runners registered here', async () => {
    const asked: (readonly PotKey[])[] = []
    const payeeOf = async (_: Hex, pots: readonly PotKey[]) => {
      asked.push(pots)
      return { earnings: 0n, slashes: 0n, pots: pots.map(({ royaltyBps }) => (royaltyBps === 0 ? 50n : 100n)) }
    }
    const accountOf = async () => ({ balance: 0n, requested: 0n, withdrawableAt: 0n })
    const context = { database, registry: { accountOf, payeeOf }, account: null, settings: { FEE_BPS: 100 } }
    const undivided = async (party: string) =>
      (await getAccount(context as unknown as Context, signerOf(party).address)).earnings.undivided
    expect(await undivided('publisher')).toBe('10')
    expect(asked[0]?.map(({ royaltyBps }) => royaltyBps).sort()).toEqual([0, 1_000])
    expect(await undivided('provider')).toBe('0')
    const json = {}
    await database.insert(runners).values({
      signer: runner.address,
      provider: signerOf('provider').address,
      hpkeKey: '0x',
      statement: '0x',
      evidence: json,
      collateral: json,
      registration: json,
      verdict: json,
      evidenceDigest: '0x',
      verifiedAt: clock,
      validUntil: clock,
    })
    expect(await undivided('provider')).toBe('139')
    const paid = await listPayments(context as unknown as Context, signerOf('buyer').address, { limit: 1 })
    expect(paid.payments[0]).toMatchObject({ runner: runner.address, provider: signerOf('provider').address })
    await it.send('buyer', escrow('distribute', [runner.address, signerOf('publisher').address, 0]))
    await index()
    expect(await undivided('provider')).toBe('89')
    expect(asked.at(-1)).toMatchObject([{ runner: runner.address, royaltyBps: 1_000 }])
    expect(await compare()).toEqual([])
  })

  test('behavior: what was asked back is not available, and a chain that does not answer is said', async () => {
    const account = { balance: 100n, requested: 400n, withdrawableAt: 1_800_000_000n }
    const payeeOf = async () => ({ earnings: 0n, slashes: 0n, pots: [] })
    const asked = {
      account: null,
      database,
      settings: {},
      registry: { accountOf: async () => account, payeeOf },
    } as unknown as Context
    expect(await getAccount(asked, treasury)).toMatchObject({
      available: '0',
      requested: '100',
      withdrawableAt: '2027-01-15T08:00:00.000Z',
    })
    const away = {
      account: null,
      database,
      settings: {},
      registry: { accountOf: () => Promise.reject(new Error('refused')), payeeOf },
    } as unknown as Context
    await expect(getAccount(away, treasury)).rejects.toMatchObject({ code: 'unavailable' })
  })

  test('behavior: what slashes owe is compared payee by payee', async () => {
    const staked = signerOf('staked runner')
    await it.register(staked)
    const token = { address: it.contracts.token, abi: testTokenAbi } as const
    await it.send('provider', { ...token, functionName: 'mint', args: [signerOf('provider').address, 1_001n] })
    await it.send('provider', { ...token, functionName: 'approve', args: [it.contracts.stake, 1_001n] })
    const stake = (party: string, functionName: string, args: readonly unknown[]) =>
      it.send(party, { address: it.contracts.stake, abi: stakeAbi, functionName, args })
    await stake('provider', 'stake', [staked.address, 1_001n])
    await slash(it, staked)
    await stake('publisher', 'pay', [signerOf('buyer').address])
    await index()
    expect((await compare()).filter(({ kind }) => kind !== 'receipts')).toEqual([])
    const { slashes } = addUp(await readEvents(database), treasury)
    expect(Object.fromEntries(slashes)).toEqual({
      [signerOf('buyer').address]: 0n,
      [signerOf('publisher').address]: 100n,
      '0x000000000000000000000000000000000000dead': 501n,
    })
    // An event that names another payee than the contract owes is told.
    const [event] = await database.select().from(chainEvents).where(eq(chainEvents.name, 'Slashed'))
    const told = (args: Record<string, string>) =>
      database.update(chainEvents).set({ args }).where(eq(chainEvents.name, 'Slashed'))
    await told({ ...event!.args, reporter: signerOf('stranger').address })
    expect((await compare()).filter(({ kind }) => kind === 'slashes')).toMatchObject([
      { subject: signerOf('stranger').address, expected: '100', found: '0' },
    ])
    await told(event!.args)
    await database.delete(drifts)
  })

  test('behavior: a payment above every receipt seen here is told, with where its receipt is', async () => {
    await database.update(receipts).set({ receipt: { cumulative: '10' } })
    const found = await compare()
    expect(found.every(({ kind, found: seen }) => kind === 'receipts' && seen === '10')).toBe(true)
    expect(found).toHaveLength(2)
    expect(found[0]?.cause).toContain('journal')
    await database.update(receipts).set({ receipt: { cumulative: '800' } })
    expect(await compare()).toEqual([])
  })

  test('behavior: tokens sent without a deposit are told and belong to nobody', async () => {
    const { address } = it.wallet('buyer').account
    const token = { address: it.contracts.token, abi: testTokenAbi } as const
    await it.send('buyer', { ...token, functionName: 'mint', args: [address, 5n] })
    await it.send('buyer', { ...token, functionName: 'transfer', args: [it.contracts.escrow, 5n] })
    await index()
    expect(await compare()).toMatchObject([{ kind: 'held', cause: expect.stringContaining('without a deposit') }])
  })

  test('behavior: a missed event is a drift of every book it touched, recorded once, repaired never', async () => {
    const [deposited] = await database.select().from(chainEvents).where(eq(chainEvents.name, 'Deposited'))
    await database
      .update(chainEvents)
      .set({ args: { ...deposited!.args, amount: '100001' } })
      .where(eq(chainEvents.name, 'Deposited'))
    const found = await compare()
    expect(found.map(({ kind }) => kind).sort()).toEqual(['deposit', 'held'])
    expect(alerts).toHaveLength(2)
    const before = (await database.select().from(drifts)).length
    await compare()
    expect((await database.select().from(drifts)).length).toBe(before)
    const [still] = await database.select().from(chainEvents).where(eq(chainEvents.name, 'Deposited'))
    expect(still?.args.amount).toBe('100001')
    await database.update(chainEvents).set({ args: deposited!.args }).where(eq(chainEvents.name, 'Deposited'))
  })

  test('behavior: events that contradict themselves are told as such', async () => {
    const settled = await database.select().from(chainEvents).where(eq(chainEvents.name, 'Settled'))
    const { block, logIndex } = settled.sort((a, b) => a.block - b.block)[0]!
    await database.delete(chainEvents).where(eq(chainEvents.block, block))
    expect(logIndex).toBeGreaterThanOrEqual(0)
    expect(await compare()).toMatchObject([{ kind: 'events', cause: expect.stringContaining('rebuild') }])
  })
})

describe('journals and receipts', () => {
  const channel = `0x${'c1'.repeat(32)}` as Hex
  const say = async (cumulative: string, { vouched = '1000', at = clock }: { vouched?: string; at?: number } = {}) => {
    await database.delete(journalTotals)
    await database.insert(journalTotals).values({ runner: runner.address, channel, cumulative, vouched, at })
  }
  const compared = async () =>
    (await compare())
      .filter(({ subject }) => subject === channel)
      .map(({ kind, expected, found }) => [kind, expected, found])
  beforeAll(async () => {
    // What the tests above broke is not looked at here.
    await database.delete(chainEvents)
    for (const [job, cumulative, finishedAt] of [
      ['1', '100', clock - 3_600],
      ['2', '200', clock - 10],
    ] as const)
      await database.insert(receipts).values({
        channel,
        job,
        runner: runner.address,
        receipt: { channel, job, status: 0, cumulative, finishedAt: String(finishedAt), detail: '0x' },
        detail: {},
        proof: {},
        signature: '0x',
      })
  })

  test('behavior: a journal that knows what was known when it spoke agrees', async () => {
    await say('200')
    expect(await compared()).toEqual([])
    // What came after it spoke is not held against it.
    await say('100', { at: clock - 1_800 })
    expect(await compared()).toEqual([])
  })

  test('behavior: a journal restored from an older copy is told, with who has the receipt', async () => {
    await say('100')
    expect(await compared()).toEqual([['journal_behind', '200', '100']])
  })

  test('behavior: receipts the edge never saw are told once they had the time to come', async () => {
    await say('300')
    expect(await compared()).toEqual([])
    clock += 301
    expect(await compared()).toEqual([['journal_ahead', '300', '200']])
  })

  test('behavior: work beyond the voucher is told', async () => {
    await say('200', { vouched: '150' })
    expect(await compared()).toEqual([['uncovered', '200', '150']])
  })
})

describe('the ledger', () => {
  test('refusal: payments cut off', () => {
    expect(() => readPayments(`0x${'00'.repeat(83)}`)).toThrow()
    expect(readPayments('0x')).toEqual([])
  })

  test('refusal: more withdrawn than deposited, a pot divided that nobody filled', () => {
    const buyer = `0x${'01'.repeat(20)}`
    expect(() => addUp([{ name: 'Withdrawn', args: { buyer, amount: '1' } }], treasury)).toThrow('more from')
    const pot = { runner: buyer, publisher: buyer, royaltyBps: '100' }
    const args = { ...pot, provider: buyer, toProvider: '1', toPublisher: '1', toTreasury: '0' }
    expect(() => addUp([{ name: 'Distributed', args }], treasury)).toThrow('was divided')
  })
})
