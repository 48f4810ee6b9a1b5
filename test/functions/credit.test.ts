import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Credit, type LeaseRequest, type Returned } from '../../functions/services/credit.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { openSql } from './sqlite.ts'

const runners = ['a1', 'b2', 'c3'].map((byte): Hex => `0x${byte.repeat(20)}`)
const start = 1_800_000_000_000
const day = 86_400

/** An account over a chain of one buyer, and what each mailbox may give back. */
function open({ deposit = 1_000n } = {}) {
  let time = start
  const chain = { deposit, settled: new Map<Hex, bigint>(), away: false, reads: 0 }
  const returns = new Map<Hex, Returned | Error>()
  const recalled: Hex[] = []
  const sql = openSql()
  const credit = new Credit({
    sql,
    now: () => time,
    async funds(channels) {
      if (chain.away) throw new Error('away')
      chain.reads++
      return { deposit: chain.deposit, settled: channels.map((channel) => chain.settled.get(channel) ?? 0n) }
    },
    async recall(runner) {
      recalled.push(runner)
      const returned = returns.get(runner)
      if (returned === undefined || returned instanceof Error) throw returned ?? new Error('nobody there')
      return returned
    },
  })
  let turns = 0
  const ask = (runner: Hex, change: Partial<LeaseRequest> = {}) =>
    credit.lease({
      runner,
      turn: ++turns,
      open: 0n,
      least: 10n,
      wish: 100n,
      voidAt: Math.floor(time / 1000) + 2 * day,
      channels: [],
      ...change,
    })
  return { sql, credit, chain, returns, recalled, ask, wait: (seconds: number) => (time += seconds * 1000) }
}
const channel = (number: number): Hex => `0x${number.toString(16).padStart(64, '0')}`
const spent = (number: number, amount: bigint, days = 2) => ({
  channel: channel(number),
  spent: amount,
  voidAt: Math.floor(start / 1000) + days * day,
})
const least = (a: bigint, b: bigint) => (a < b ? a : b)
const [one, two] = runners as [Hex, Hex, Hex]

describe('an account', () => {
  test('behavior: mailboxes get a part of what is left each, and never more than the deposit together', async () => {
    const { ask, credit } = open({ deposit: 100n })
    const granted: bigint[] = []
    for (let turn = 0; turn < 3; turn++) {
      for (const runner of runners) {
        const answer = await ask(`${runner.slice(0, -1)}${turn}` as Hex)
        if ('granted' in answer) granted.push(answer.granted)
      }
    }
    expect(granted.reduce((a, b) => a + b)).toBeLessThanOrEqual(100n)
    expect(granted.slice(0, 3)).toEqual([25n, 18n, 14n])
    expect(await ask('0x99', { least: 60n })).toMatchObject({ available: expect.any(BigInt) })
    const { deposit, leased, available } = await credit.view()
    expect(leased + available).toBe(deposit)
  })

  test('behavior: what receipts claim stays counted until it is settled, and then leaves deposit and claim together', async () => {
    const { ask, chain, credit, wait } = open({ deposit: 100n })
    await ask(one)
    await ask(one, { open: 0n, least: 0n, wish: 0n, channels: [spent(1, 70n)] })
    expect(await credit.view()).toMatchObject({ owed: 70n, leased: 0n, available: 30n })
    chain.deposit = 40n
    chain.settled.set(channel(1), 60n)
    wait(20)
    expect(await credit.view()).toMatchObject({ deposit: 40n, owed: 10n, available: 30n })
    await ask(one, { least: 0n, wish: 0n, channels: [spent(1, 65n)] })
    expect(await credit.view()).toMatchObject({ owed: 10n })
  })

  test('behavior: an address without a deposit leaves nothing on the disk, however it is asked about', async () => {
    const { sql, ask, credit, chain } = open({ deposit: 0n })
    const tables = () => sql.exec('SELECT name FROM sqlite_master').toArray()
    expect(await ask(one)).toEqual({ available: 0n })
    expect(await ask(one, { least: 0n })).toEqual({ available: 0n })
    expect(await credit.view()).toEqual({ deposit: 0n, owed: 0n, leased: 0n, available: 0n })
    expect(tables()).toEqual([])
    chain.deposit = 50n
    expect(await ask(one)).toMatchObject({ granted: 12n })
    expect(tables().length).toBeGreaterThan(0)
  })

  test('behavior: a lost answer is asked for again and counted once', async () => {
    const { ask, credit } = open({ deposit: 100n })
    for (let attempt = 0; attempt < 5; attempt++) await ask(one, { least: 20n, wish: 20n })
    expect(await credit.view()).toMatchObject({ leased: 20n, available: 80n })
  })

  test('refusal: a question that was overtaken by a later one changes nothing', async () => {
    const { ask, credit } = open({ deposit: 100n })
    await ask(one, { turn: 7, open: 40n, least: 0n, wish: 0n })
    await expect(ask(one, { turn: 6, open: 0n, least: 1n })).rejects.toThrow('overtaken')
    await expect(ask(one, { turn: 7, open: 0n, least: 1n })).rejects.toThrow('overtaken')
    expect(await credit.view()).toMatchObject({ leased: 40n })
    await ask(one, { turn: 8, open: 10n, least: 0n, wish: 0n })
    expect(await credit.view()).toMatchObject({ leased: 10n })
  })

  test('behavior: what a mailbox holds that is never heard of again is let go of once nothing of it can be claimed', async () => {
    const { ask, credit, wait } = open({ deposit: 100n })
    await ask(one, { least: 40n })
    wait(2 * day - 1)
    expect(await credit.view()).toMatchObject({ leased: 40n, available: 60n })
    wait(2)
    expect(await credit.view()).toMatchObject({ leased: 0n, available: 100n })
  })

  test('behavior: leases that are over are called back once credit is short; a mailbox that cannot be asked keeps its own', async () => {
    const { ask, returns, recalled, wait, credit } = open({ deposit: 100n })
    await ask(one, { least: 60n })
    await ask(two, { least: 30n })
    returns.set(one, { open: 5n, channels: [spent(1, 20n)] })
    expect(await ask('0x99', { least: 30n })).toEqual({ available: 10n })
    expect(recalled).toEqual([])
    wait(61)
    expect(await ask('0x99', { least: 30n })).toMatchObject({ granted: 30n })
    expect(recalled).toEqual([one, two])
    expect(await credit.view()).toMatchObject({ owed: 20n, leased: 5n + 30n + 30n, available: 15n })
  })

  test('behavior: a withdrawal asked for is heard of within seconds, a deposit as soon as it is missed', async () => {
    const { ask, chain, wait } = open({ deposit: 100n })
    await ask(one)
    chain.deposit = 20n
    wait(16)
    expect(await ask(two, { least: 30n })).toEqual({ available: 0n })
    chain.deposit = 200n
    wait(2)
    expect(await ask(two, { least: 30n })).toMatchObject({ granted: expect.any(BigInt) })
  })

  test('behavior: the chain is read a few times a minute, not at every lease; while it is away nothing new is granted', async () => {
    const { ask, chain, wait } = open({ deposit: 1_000_000n })
    for (let turn = 0; turn < 50; turn++) {
      await ask(one)
      wait(1)
    }
    expect(chain.reads).toBeLessThanOrEqual(5)
    chain.away = true
    wait(20)
    await expect(ask(one)).rejects.toThrow('away')
    chain.away = false
    expect(await ask(one)).toMatchObject({ granted: expect.any(BigInt) })
  })

  test('property: whatever mailboxes do, lose and settle, what they may still hand out never passes the deposit', async () => {
    type Mailbox = { free: bigint; open: bigint; spent: bigint; seen: bigint; stuck: bigint }
    const action = fc.record({
      kind: fc.constantFrom('lease', 'hand', 'answer', 'refuse', 'crash', 'settle', 'wait', 'lost_answer'),
      who: fc.nat(2),
      amount: fc.bigInt(1n, 30n),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(action, { minLength: 30, maxLength: 120 }), async (actions) => {
        const { ask, chain, wait, returns } = open({ deposit: 100n })
        const mailboxes = runners.map((): Mailbox => ({ free: 0n, open: 0n, spent: 0n, seen: 0n, stuck: 0n }))
        const channelsOf = (who: number) => [spent(who, mailboxes[who]!.seen)]
        for (const { kind, who, amount } of actions) {
          const mailbox = mailboxes[who]!
          runners.forEach((runner, at) => {
            returns.set(runner, new Error(`not asked in this test ${at}`))
          })
          if (kind === 'lease' || kind === 'lost_answer') {
            const answer = await ask(runners[who]!, {
              open: mailbox.open + mailbox.free + mailbox.stuck,
              least: amount,
              wish: amount * 2n,
              channels: channelsOf(who),
            })
            if (kind === 'lease' && 'granted' in answer) mailbox.free += answer.granted
          } else if (kind === 'hand') {
            const handed = least(mailbox.free, amount)
            mailbox.free -= handed
            mailbox.open += handed
          } else if (kind === 'answer') {
            const cost = least(mailbox.open, amount)
            mailbox.open -= cost
            mailbox.spent += cost
            // A receipt tells the whole total, also what was missed before.
            if (cost > 0n) mailbox.seen = mailbox.spent
          } else if (kind === 'refuse') {
            const freed = least(mailbox.open, amount)
            mailbox.open -= freed
            mailbox.free += freed
          } else if (kind === 'crash') {
            // What was under way may have been run: the total the runner claims grows, unseen, and stays held.
            mailbox.spent += mailbox.open
            Object.assign(mailbox, { open: 0n, stuck: mailbox.stuck + mailbox.open })
          } else if (kind === 'settle') {
            const paid = chain.settled.get(channel(who)) ?? 0n
            chain.deposit -= mailbox.spent - paid
            chain.settled.set(channel(who), mailbox.spent)
          } else if (kind === 'wait') wait(5)
          const claimable = mailboxes.reduce(
            (sum, each, at) => sum + each.free + each.open + each.spent - (chain.settled.get(channel(at)) ?? 0n),
            0n,
          )
          expect(claimable).toBeLessThanOrEqual(chain.deposit)
        }
      }),
      { numRuns: 300 },
    )
  })
})
