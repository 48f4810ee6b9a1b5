import { describe, expect, test } from 'vitest'
import { Carrier } from '../../functions/mailbox/carrier.ts'
import { firstEnded } from '../../functions/mailbox/firstEnded.ts'
import type { MailboxNamespace, Relayed, RelayedTogether } from '../../functions/platform.ts'
import { joinFrames, splitFrames } from '../../protocol/frames.ts'

const load = { queued: 3, capacity: 9 }
const runner = `0x${'ab'.repeat(20)}`
const job = (number: number, size = 1) => new Uint8Array(size).fill(number).buffer
const frameOf = (number: number) => new Uint8Array([2, number])
const together = (bodies: ArrayBuffer, answered: (number: number) => boolean): RelayedTogether => {
  const numbers = splitFrames(new Uint8Array(bodies)).map((bytes) => bytes[0]!)
  const answers = numbers.map((number) => (answered(number) ? frameOf(number) : new Uint8Array(0)))
  return { load, answers: joinFrames(answers).buffer, problems: numbers.map(() => null) }
}

/** A mailbox whose calls are answered by hand, and timers that run by hand. */
function setUp() {
  const alone: { number: number; resolve: (value: Relayed) => void; reject: (error: Error) => void }[] = []
  const shared: { bodies: ArrayBuffer; resolve: (value: RelayedTogether) => void; reject: (error: Error) => void }[] =
    []
  const timers = new Map<object, { at: number; run: () => void }>()
  const kept: Promise<void>[] = []
  let now = 0
  const stub = {
    job: (_: string, body: ArrayBuffer) =>
      new Promise<Relayed>((resolve, reject) => {
        alone.push({ number: new Uint8Array(body)[0]!, resolve, reject })
      }),
    jobs: (_: string, bodies: ArrayBuffer) =>
      new Promise<RelayedTogether>((resolve, reject) => {
        shared.push({ bodies, resolve, reject })
      }),
  }
  const carrier = new Carrier({
    mailbox: { idFromName: (name: string) => name, get: () => stub } as unknown as MailboxNamespace,
    now: () => now,
    after(ms, run) {
      const timer = {}
      timers.set(timer, { at: now + ms, run })
      return () => void timers.delete(timer)
    },
  })
  return {
    alone,
    shared,
    kept,
    timers,
    ask: (body: ArrayBuffer) => carrier.carry(runner, body, (work) => void kept.push(work)),
    /** Lets time pass; `gone` are timers of a request that no longer lives. */
    async pass(ms: number, gone = (_at: number) => false) {
      now += ms
      for (const [timer, { at, run }] of [...timers]) {
        if (at > now || gone(at)) continue
        timers.delete(timer)
        run()
      }
      await new Promise((resolve) => setImmediate(resolve))
    },
  }
}

describe('Carrier', () => {
  test('a lone job goes at once; those that come while it is under way share one call', async () => {
    const { ask, alone, shared, pass, kept, timers } = setUp()
    const first = ask(job(1))
    expect(alone.map(({ number }) => number)).toEqual([1])
    const others = [ask(job(2)), ask(job(3)), ask(job(4))]
    expect(shared).toHaveLength(0)
    await pass(0)
    expect(shared).toHaveLength(1)
    shared[0]!.resolve(together(shared[0]!.bodies, () => true))
    alone[0]!.resolve({ ...load, frame: frameOf(1) })
    expect(await first).toEqual({ ...load, frame: frameOf(1) })
    expect(await Promise.all(others)).toEqual([2, 3, 4].map((number) => ({ ...load, frame: frameOf(number) })))
    expect(alone).toHaveLength(1)
    expect(kept).toHaveLength(1)
    expect(timers.size).toBe(0)
    void ask(job(5))
    expect(alone).toHaveLength(2)
  })

  test('each job hears its own problem; one that has not ended asks by itself', async () => {
    const { ask, alone, shared, pass } = setUp()
    void ask(job(1))
    const [answered, refused, slow] = [ask(job(2)), ask(job(3)), ask(job(4))]
    await pass(0)
    const problem = { code: 'at_capacity', message: 'Full.', hint: undefined, extra: { accepted: false } }
    const result = together(shared[0]!.bodies, (number) => number === 2)
    shared[0]!.resolve({ ...result, problems: [null, problem, null] })
    expect(await answered).toEqual({ ...load, frame: frameOf(2) })
    expect(await refused).toEqual({ ...load, problem })
    await pass(0)
    expect(alone.map(({ number }) => number)).toEqual([1, 4])
    alone[1]!.resolve({ ...load, frame: frameOf(4) })
    expect(await slow).toEqual({ ...load, frame: frameOf(4) })
  })

  test('a shared call that fails fails nobody: each asks by itself and hears what becomes of it', async () => {
    const { ask, alone, shared, pass } = setUp()
    void ask(job(1))
    const [good, bad] = [ask(job(2)), ask(job(3))]
    await pass(0)
    shared[0]!.reject(new Error('the object was reset'))
    await pass(0)
    expect(alone.map(({ number }) => number)).toEqual([1, 2, 3])
    alone[1]!.resolve({ ...load, frame: frameOf(2) })
    alone[2]!.reject(new Error('overloaded'))
    expect(await good).toEqual({ ...load, frame: frameOf(2) })
    await expect(bad).rejects.toThrow('overloaded')
  })

  test('a call whose maker is gone holds up nobody for ever, and nobody new', async () => {
    const { ask, alone, shared, pass } = setUp()
    void ask(job(1))
    const stranded = ask(job(2))
    // The timer that would have made the call went with its request.
    await pass(500, (at) => at === 0)
    void ask(job(3)).catch(() => {})
    await pass(600, (at) => at === 0)
    const fresh = ask(job(4))
    await pass(0, (at) => at === 0)
    expect(splitFrames(new Uint8Array(shared[0]!.bodies)).map((bytes) => bytes[0])).toEqual([4])
    shared[0]!.resolve(together(shared[0]!.bodies, () => true))
    expect(await fresh).toEqual({ ...load, frame: frameOf(4) })
    await pass(12_000, (at) => at === 0)
    expect(alone.map(({ number }) => number)).toEqual([1, 2, 3])
    alone[1]!.resolve({ ...load, frame: frameOf(2) })
    expect(await stranded).toEqual({ ...load, frame: frameOf(2) })
  })

  test('a large job pays for its own call; a call has at most 256 jobs and a mebibyte', async () => {
    const { ask, alone, shared, pass } = setUp()
    void ask(job(1))
    void ask(job(2, 64 * 1024 + 1))
    expect(alone.map(({ number }) => number)).toEqual([1, 2])
    for (let each = 0; each < 257; each++) void ask(job(3))
    for (let each = 0; each < 17; each++) void ask(job(4, 64 * 1024))
    await pass(0)
    const sizes = shared.map(({ bodies }) => splitFrames(new Uint8Array(bodies)).length)
    expect(sizes).toEqual([256, 16, 2])
  })
})

describe('firstEnded', () => {
  const never = new Promise<void>(() => {})

  test('gives what ended with the first, and null for the others', async () => {
    const [a, b, c] = [0, 1, 2].map(() => Promise.withResolvers<string>())
    const ended = firstEnded([a!.promise, b!.promise, c!.promise], {
      limit: never,
      pause: async () => c!.resolve('c'),
    })
    b!.resolve('b')
    expect(await ended).toEqual([null, 'b', 'c'])
  })

  test('does not pause when all have ended, nor wait beyond the limit', async () => {
    const pause = () => Promise.reject(new Error('nothing to wait for'))
    expect(await firstEnded([Promise.resolve(1), Promise.resolve(2)], { limit: never, pause })).toEqual([1, 2])
    const limited = firstEnded([new Promise<number>(() => {})], { limit: Promise.resolve(), pause: async () => {} })
    expect(await limited).toEqual([null])
  })
})
