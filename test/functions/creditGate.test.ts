import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { AssayError } from '../../functions/errors.ts'
import { ChannelBook } from '../../functions/mailbox/channelBook.ts'
import { CreditGate } from '../../functions/mailbox/creditGate.ts'
import { Relay } from '../../functions/mailbox/relay.ts'
import { Credit } from '../../functions/services/credit.ts'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import {
  decodeFrame,
  encodeJobAnswer,
  encodeJobRefusal,
  encodeJobRequest,
  type JobAnswer,
  type JobRequest,
  splitFrames,
} from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { domain, keyOf, model } from './edgeSetup.ts'
import { openSql } from './sqlite.ts'

const start = 1_800_000_000_000
const price = 10n
const buyer = keyOf('buyer')
const runners = [keyOf('one').address, keyOf('two').address] as const
const channelsEach = 2

type Channel = { terms: Terms; id: Hex; voucher: { cumulative: bigint; signature: Uint8Array } }
/** Channels of each runner, signed once: what a test changes is what happens to their jobs. */
const channels: Channel[][] = []
beforeAll(async () => {
  for (const runner of runners) {
    const made: Channel[] = []
    for (let at = 0; at < channelsEach; at++) {
      const terms: Terms = {
        buyer: buyer.address,
        runner,
        model,
        publisher: keyOf('publisher').address,
        price,
        royaltyBps: 0,
        feeBps: 0,
        expiresAt: BigInt(start / 1000 + 3_600),
        salt: toHex(sha256(utf8(`${runner} ${at}`))),
      }
      const id = channelOf(domain, terms)
      const cumulative = 10n ** 9n
      made.push({
        terms,
        id,
        voucher: { cumulative, signature: await buyer.sign(voucherDigest(domain, { channel: id, cumulative })) },
      })
    }
    channels.push(made)
  }
})

type Fate = 'answer' | 'refuse' | 'fail' | 'run and be silent' | 'answer late' | 'let wait'

/** Two mailboxes over one account, on a clock of their own; runners do with each job what `fate` says. */
function open({ deposit = 1_000n } = {}) {
  let time = start
  let timers: { at: number; run: () => void; of: number }[] = []
  let fate: () => Fate = () => 'answer'
  const world = { questions: 0, losesAnswers: false, handed: 0 }
  const totals = new Map<Hex, bigint>()
  const journal = new Map<string, JobAnswer>()
  const now = () => time

  const credit = new Credit({
    sql: openSql(),
    now,
    funds: async (asked) => ({ deposit, settled: asked.map(() => 0n) }),
    recall: async (runner) => mailboxes[runners.indexOf(runner as never)]!.gate.giveBack(buyer.address),
  })

  function openMailbox(which: number, sql = openSql()) {
    // What is left of a mailbox that was stopped does nothing more.
    const life = { over: false }
    const after = (ms: number, run: () => void) => {
      if (!life.over) timers.push({ at: time + ms, run, of: which })
    }
    const held: (() => void)[] = []
    const relay = new Relay({
      now,
      after,
      firstTicket: 1,
      send(message) {
        if (life.over) return
        for (const bytes of splitFrames(message)) {
          const frame = decodeFrame(bytes)
          if (frame.type === 'cancel') letGo(keyOfJob(frame))
          else serve(frame as { type: 'jobRequest' } & JobRequest)
        }
      },
      released: (job) => gate.released(job),
      answered(answer, request) {
        gate.answered(answer.receipt)
        book.note(runners[which]!, answer, request)
      },
    })
    /** Runs a job, or finds it among those run before, as a runner does in its journal; gives what sends the answer. */
    const answer = (request: JobRequest, status: number) => {
      const channel = toHex(request.channel)
      const key = `${channel}:${request.job}`
      const made = journal.get(key) ?? run(request, channel, status)
      journal.set(key, made)
      const { ticket } = request
      return () => relay.settle(encodeJobAnswer({ ...made, ticket }), { ...made, ticket })
    }
    const run = (request: JobRequest, channel: Hex, status: number): JobAnswer => {
      const cumulative = (totals.get(channel) ?? 0n) + (status === 0 ? price : 0n)
      totals.set(channel, cumulative)
      const detail = new Uint8Array(32)
      return {
        ticket: request.ticket,
        receipt: { channel: request.channel.slice(), job: request.job, status, cumulative, finishedAt: 1n, detail },
        detail: { input: detail, output: detail, execution: detail, price: status === 0 ? price : 0n },
        signature: new Uint8Array(65),
        proof: { index: 0, count: 1, path: [] },
        body: new Uint8Array(0),
      }
    }
    const queued = new Map<string, number>()
    const keyOfJob = ({ channel, job }: Pick<JobRequest, 'channel' | 'job'>) => `${toHex(channel)}:${job}`
    function letGo(key: string): void {
      const ticket = queued.get(key)
      if (ticket === undefined) return
      queued.delete(key)
      const refusal = { ticket, reason: 'cancelled', detail: '' } as const
      after(1, () => relay.settle(encodeJobRefusal(refusal), refusal))
    }
    function serve(request: JobRequest): void {
      world.handed++
      const copy = { ...request, channel: request.channel.slice() }
      const what = fate()
      if (what === 'refuse') {
        const refusal = { ticket: copy.ticket, reason: 'at_capacity', detail: '' } as const
        after(1, () => relay.settle(encodeJobRefusal(refusal), refusal))
      } else if (what === 'run and be silent') answer(copy, 0)
      else if (what === 'let wait') {
        // What it has journalled it answers; it begins nothing else.
        if (journal.has(keyOfJob(copy))) after(1, answer(copy, 0))
        else queued.set(keyOfJob(copy), copy.ticket)
      } else if (what === 'answer late') held.push(answer(copy, 0))
      else after(1, answer(copy, what === 'answer' ? 0 : 2))
    }
    const book = new ChannelBook({ domain, sql, now, after, pause: async () => {} })
    const gate = new CreditGate({
      relay,
      book,
      sql,
      domain,
      now,
      after,
      vouched: async () => false,
      async lease(of, request) {
        expect(of).toBe(buyer.address)
        if (life.over) throw new Error('over')
        world.questions++
        // A question travels on whatever becomes of who asked it, some longer than later ones.
        const onItsWay = Promise.withResolvers<void>()
        timers.push({ at: time + (world.questions % 3) * 20, run: onItsWay.resolve, of: -1 })
        await onItsWay.promise
        const answer = await credit.lease(request)
        if (world.losesAnswers || life.over) throw new Error('lost')
        return answer
      },
    })
    book.prepare()
    gate.prepare()
    relay.opened()
    relay.hello({ capacity: 1_000 })
    return { relay, book, gate, sql, held, life }
  }
  const mailboxes = runners.map((_, which) => openMailbox(which))

  const settle = async () => {
    for (let turn = 0; turn < 30; turn++) await Promise.resolve()
  }
  /** Lets time pass, timer by timer. */
  const wait = async (ms: number) => {
    const until = time + ms
    await settle()
    for (;;) {
      timers.sort((a, b) => a.at - b.at)
      if (timers.length === 0 || timers[0]!.at > until) break
      const next = timers.shift()!
      time = Math.max(time, next.at)
      next.run()
      await settle()
    }
    time = until
  }
  const jobs = [0n, 0n]
  let gathered = 0
  const ask = (which: number, channel: number, job = ++jobs[which]!, deadlineMs = 1_000) => {
    const { id, terms, voucher } = channels[which]![channel]!
    const frame = encodeJobRequest({
      ticket: 0,
      channel: fromHex(id, 32),
      job,
      context: new Uint8Array(8),
      deadlineMs,
      opening: { terms, enc: new Uint8Array(32) },
      voucher,
      body: utf8(`${job}`),
    })
    return mailboxes[which]!.gate.submit(runners[which]!, frame).then(
      (bytes) => (bytes[0] === 2 ? 'answered' : 'refused'),
      (error: unknown) => (error instanceof AssayError ? error.code : Promise.reject(error)),
    )
  }
  return {
    world,
    credit,
    wait,
    ask,
    jobs,
    as(what: Fate | (() => Fate)) {
      fate = typeof what === 'function' ? what : () => what
    },
    /** Sends the answers that were held back. */
    deliver(which: number) {
      for (const send of mailboxes[which]!.held.splice(0)) send()
    },
    /** Stops a mailbox without a word and starts it over its disk. */
    crash(which: number) {
      timers = timers.filter(({ of }) => of !== which)
      mailboxes[which]!.life.over = true
      mailboxes[which] = openMailbox(which, mailboxes[which]!.sql)
    },
    claimable: () => [...totals.values()].reduce((sum, total) => sum + total, 0n),
    /** Calls every lease back and shows what is left. */
    async gather() {
      await wait(61_000)
      await credit.lease({
        runner: '0x99',
        turn: ++gathered,
        open: 0n,
        least: 10n ** 30n,
        wish: 0n,
        voidAt: 0,
        channels: [],
      })
      return credit.view()
    },
  }
}

describe('a credit gate', () => {
  test('behavior: the account is asked a few times in a thousand jobs', async () => {
    const { ask, wait, world, gather } = open({ deposit: 100_000n })
    for (let batch = 0; batch < 50; batch++) {
      const answers = Promise.all(Array.from({ length: 20 }, (_, index) => ask(0, index % 2)))
      await wait(100)
      expect(new Set(await answers)).toEqual(new Set(['answered']))
    }
    expect(world.handed).toBe(1_000)
    expect(world.questions).toBeLessThanOrEqual(20)
    expect(await gather()).toEqual({ deposit: 100_000n, owed: 10_000n, leased: 0n, available: 90_000n })
  })

  test('behavior: what is refused, fails or costs nothing comes back whole', async () => {
    const { ask, wait, as, gather } = open({ deposit: 50n })
    for (const what of ['refuse', 'fail'] as const) {
      as(what)
      for (let turn = 0; turn < 12; turn++) {
        const answer = ask(0, 0)
        await wait(100)
        expect(await answer).toBe(what === 'refuse' ? 'refused' : 'answered')
      }
    }
    expect(await gather()).toEqual({ deposit: 50n, owed: 0n, leased: 0n, available: 50n })
  })

  test('behavior: a job that was run in silence stays held, until a later total tells of it', async () => {
    const { ask, wait, as, gather } = open({ deposit: 100n })
    as('run and be silent')
    const silent = ask(0, 0)
    await wait(2_000)
    expect(await silent).toBe('deadline')
    expect(await gather()).toMatchObject({ owed: 0n, leased: 10n, available: 90n })
    as('answer')
    const next = ask(0, 0)
    await wait(100)
    expect(await next).toBe('answered')
    expect(await gather()).toEqual({ deposit: 100n, owed: 20n, leased: 0n, available: 80n })
  })

  test('behavior: a job still waiting at its runner when its time is over is let go of, and comes back whole', async () => {
    const { ask, wait, as, gather } = open({ deposit: 50n })
    as('let wait')
    for (let turn = 0; turn < 12; turn++) {
      const waiting = ask(0, 0)
      await wait(1_500)
      expect(await waiting).toBe('deadline')
    }
    expect(await gather()).toEqual({ deposit: 50n, owed: 0n, leased: 0n, available: 50n })
  })

  test('behavior: a receipt that comes after its buyer gave up is what the job cost', async () => {
    const { ask, wait, as, deliver, gather } = open({ deposit: 100n })
    as('answer late')
    const late = ask(0, 0)
    await wait(1_500)
    expect(await late).toBe('deadline')
    deliver(0)
    expect(await gather()).toEqual({ deposit: 100n, owed: 10n, leased: 0n, available: 90n })
  })

  test('behavior: answers out of order, and later totals before earlier ones, add up', async () => {
    const { ask, wait, as, deliver, gather } = open({ deposit: 1_000n })
    as('answer late')
    const late = [ask(0, 0), ask(0, 0), ask(0, 0)]
    await wait(50)
    as('answer')
    const early = ask(0, 0)
    await wait(50)
    expect(await early).toBe('answered')
    deliver(0)
    expect(await Promise.all(late)).toEqual(['answered', 'answered', 'answered'])
    expect(await gather()).toEqual({ deposit: 1_000n, owed: 40n, leased: 0n, available: 960n })
  })

  test('behavior: the same job twice while both wait for credit is one job', async () => {
    const { ask, wait, world, gather } = open({ deposit: 100n })
    const twice = [ask(0, 0, 7n), ask(0, 0, 7n), ask(0, 0, 7n)]
    await wait(100)
    expect(await Promise.all(twice)).toEqual(['answered', 'answered', 'answered'])
    expect(world.handed).toBe(1)
    expect(await gather()).toMatchObject({ owed: 10n, leased: 0n, available: 90n })
  })

  test('behavior: an account that does not answer refuses jobs, and costs nothing once it does', async () => {
    const { ask, wait, world, gather } = open({ deposit: 100n })
    world.losesAnswers = true
    const lost = ask(0, 0)
    await wait(100)
    expect(await lost).toBe('unavailable')
    expect(world.handed).toBe(0)
    world.losesAnswers = false
    const answered = ask(0, 0)
    await wait(100)
    expect(await answered).toBe('answered')
    expect(await gather()).toMatchObject({ owed: 10n, leased: 0n, available: 90n })
  })

  test('behavior: stopped amid jobs, it holds back what may have been handed out since it last wrote, and no more than that', async () => {
    const { ask, wait, crash, gather, as } = open({ deposit: 100_000n })
    for (let turn = 0; turn < 3; turn++) {
      const answer = ask(0, 0)
      await wait(100)
      expect(await answer).toBe('answered')
    }
    as('answer late')
    void ask(0, 0)
    await wait(100)
    crash(0)
    as('answer')
    const after = ask(0, 0)
    await wait(100)
    expect(await after).toBe('answered')
    const { owed, leased, available } = await gather()
    expect(owed).toBe(50n)
    // Of some 2,560 leased: a slice of a sixteenth, and what the disk had not heard the end of.
    expect(leased).toBeGreaterThanOrEqual(10n)
    expect(leased).toBeLessThanOrEqual(250n)
    expect(owed + leased + available).toBe(100_000n)
  })

  test('behavior: totals it has heard and not written are held too when it is stopped', async () => {
    // A slice is sixteen jobs here, so the last of them has the purse written amid totals that are not.
    const it = open({ deposit: 100_000n })
    for (let turn = 0; turn < 17; turn++) {
      const answer = it.ask(0, 0)
      await it.wait(turn === 0 ? 100 : 5)
      expect(await answer).toBe('answered')
    }
    it.crash(0)
    const { owed, leased } = await it.gather()
    expect(it.claimable()).toBe(170n)
    expect(owed + leased).toBeGreaterThanOrEqual(170n)
  })

  test('behavior: what a stopped mailbox holds back comes free once nothing of it can be claimed', async () => {
    const { ask, wait, crash, gather } = open({ deposit: 100n })
    void ask(0, 0)
    await wait(100)
    crash(0)
    expect((await gather()).leased).toBeGreaterThan(0n)
    await wait(3 * 86_400_000)
    expect(await gather()).toMatchObject({ owed: 0n, leased: 0n, available: 100n })
  })

  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ do: fc.constant('ask' as const), which: fc.nat(1), channel: fc.nat(1) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('again' as const), which: fc.nat(1), channel: fc.nat(1) }) },
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constant('wait' as const),
        which: fc.nat(1),
        channel: fc.constantFrom(1, 100, 3_000, 61_000),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('deliver' as const), which: fc.nat(1), channel: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('lose' as const), which: fc.nat(1), channel: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('crash' as const), which: fc.nat(1), channel: fc.nat(1) }) },
  )
  const fates: Fate[] = ['answer', 'answer', 'answer', 'refuse', 'fail', 'run and be silent', 'answer late', 'let wait']

  test('property: whatever runners, buyers and crashes do, what can be claimed never passes the deposit', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 20, maxLength: 90 }),
        fc.array(fc.nat(6), { minLength: 90, maxLength: 90 }),
        fc.constantFrom(150n, 5_000n),
        async (steps, chosen, deposit) => {
          const it = open({ deposit })
          let turn = 0
          it.as(() => fates[chosen[turn++ % chosen.length]!]!)
          for (const { do: what, which, channel } of steps) {
            if (what === 'ask') void it.ask(which, channel)
            else if (what === 'again') void it.ask(which, channel, it.jobs[which]! > 0n ? it.jobs[which]! : undefined)
            else if (what === 'wait') await it.wait(channel)
            else if (what === 'deliver') it.deliver(which)
            else if (what === 'lose') it.world.losesAnswers = !it.world.losesAnswers
            else it.crash(which)
            expect(it.claimable()).toBeLessThanOrEqual(deposit)
          }
          it.world.losesAnswers = false
          await it.wait(130_000)
          expect(it.claimable()).toBeLessThanOrEqual(deposit)
          // Whatever was lost count of, at least what can be claimed is reserved.
          const { owed, leased } = await it.gather()
          expect(owed + leased).toBeGreaterThanOrEqual(it.claimable())
        },
      ),
      { numRuns: 120 },
    )
  }, 60_000)

  test('property: without crashes and silence nothing leaks: in the end only what was earned is reserved', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 20, maxLength: 60 }),
        fc.array(fc.nat(4), { minLength: 60, maxLength: 60 }),
        async (steps, chosen) => {
          const it = open({ deposit: 150n })
          let turn = 0
          it.as(() => fates[chosen[turn++ % chosen.length]!]!)
          for (const { do: what, which, channel } of steps) {
            if (what === 'ask') void it.ask(which, channel)
            else if (what === 'again') void it.ask(which, channel, it.jobs[which]! > 0n ? it.jobs[which]! : undefined)
            else if (what === 'wait') await it.wait(channel)
            else if (what === 'lose') it.world.losesAnswers = !it.world.losesAnswers
          }
          it.world.losesAnswers = false
          await it.wait(130_000)
          const owed = it.claimable()
          expect(await it.gather()).toEqual({ deposit: 150n, owed, leased: 0n, available: 150n - owed })
        },
      ),
      { numRuns: 60 },
    )
  }, 60_000)
})
