import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AssayError } from '../../functions/errors.ts'
import { AnswerCache } from '../../functions/mailbox/answerCache.ts'
import { Relay, type RelayDeps } from '../../functions/mailbox/relay.ts'
import { fromHex, utf8 } from '../../protocol/bytes.ts'
import {
  decodeFrame,
  encodeJobAnswer,
  encodeJobRefusal,
  type Frame,
  type JobAnswer,
  type JobRequest,
  splitFrames,
} from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { createSigner } from '../../protocol/secp256k1.ts'
import { jobFrame, signAnswers } from './fakeRunner.ts'

const domain = { chainId: 31_337, escrow: `0x${'5e'.repeat(20)}` as const }
const signer = createSigner(sha256(utf8('test key: runner')))

/** Opens a relay whose clock and timers the test turns. */
function open(over: Partial<RelayDeps> = {}) {
  let at = 1_000_000
  const timers: { at: number; run: () => void }[] = []
  const messages: JobRequest[][] = []
  const answered: JobAnswer[] = []
  const relay = new Relay({
    send: (message) =>
      messages.push(
        splitFrames(message.slice()).map((frame) => decodeFrame(frame) as { type: 'jobRequest' } & JobRequest),
      ),
    now: () => at,
    after: (ms, run) => timers.push({ at: at + ms, run }),
    firstTicket: 0xffff_fffe,
    answered: (answer) => answered.push(answer),
    ...over,
  })
  const advance = (ms: number) => {
    const until = at + ms
    for (;;) {
      timers.sort((a, b) => a.at - b.at)
      const next = timers[0]
      if (!next || next.at > until) break
      timers.shift()
      at = Math.max(at, next.at)
      next.run()
    }
    at = until
  }
  const answer = async (requests: readonly JobRequest[]) => {
    const answers = requests.length === 0 ? [] : await signAnswers(signer, domain, requests)
    for (const each of answers) {
      const frame = encodeJobAnswer(each)
      const decoded = decodeFrame(frame)
      if (decoded.type === 'jobAnswer') relay.settle(frame, decoded)
    }
    relay.spoke()
  }
  return { relay, messages, answered, advance, answer }
}
const connected = (hello = { capacity: 1_000, credit: 1_000 }, over: Partial<RelayDeps> = {}) => {
  const it = open(over)
  it.relay.opened()
  it.relay.hello(hello)
  return it
}
const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'answered',
    (error: AssayError) => `${error.code} ${error.extra?.accepted}`,
  )
const reasonOf = (frame: Uint8Array) => {
  expect(decodeFrame(frame)).toMatchObject({ type: 'jobRefusal', reason: 'cancelled', ticket: 0 })
}
const caught = (run: () => unknown) => {
  try {
    run()
    return 'taken'
  } catch (error) {
    return `${(error as AssayError).code} ${(error as AssayError).extra?.accepted}`
  }
}

describe('AnswerCache', () => {
  test('remembers, tells another body, forgets the oldest by generations, and keeps no large request', () => {
    const cache = new AnswerCache()
    const answer = new Uint8Array(3 * 1024 * 1024)
    for (let job = 0; job < 9; job++) cache.put(`c:${job}`, utf8('ask'), answer)
    expect(cache.find('c:8', utf8('ask'))).toEqual(answer)
    expect(cache.find('c:8', utf8('ash'))).toBe('other')
    expect(cache.find('c:0', utf8('ask'))).toBeNull()
    cache.put('large', new Uint8Array(20_000), utf8('answer'))
    expect(cache.find('large', new Uint8Array(20_000))).toBeNull()
  })
})

describe('Relay', () => {
  test('behavior: jobs of one turn leave in one message; the answer carries ticket 0', async () => {
    const { relay, messages, advance, answer } = connected()
    const first = relay.submit(jobFrame(1n, utf8('a')))
    const second = relay.submit(jobFrame(2n, utf8('b')))
    advance(0)
    expect(messages.map((jobs) => jobs.map(({ job }) => job))).toEqual([[1n, 2n]])
    await answer(messages[0]!)
    const decoded = decodeFrame(await first)
    expect(decoded).toMatchObject({ type: 'jobAnswer', ticket: 0 })
    expect((await second).length).toBeGreaterThan(0)
  })

  test('behavior: while two messages are on their way jobs are gathered, and leave when the runner speaks, when a batch is full, or after two milliseconds', async () => {
    const { relay, messages, advance, answer } = connected()
    let number = 0n
    const ask = (count: number) => {
      for (let i = 0; i < count; i++) relay.submit(jobFrame(++number, utf8('x'))).catch(() => {})
    }
    ask(1)
    advance(0)
    ask(1)
    advance(0)
    ask(40)
    advance(1)
    expect(messages.map(({ length }) => length)).toEqual([1, 1])
    await answer(messages[0]!)
    advance(0)
    expect(messages.map(({ length }) => length)).toEqual([1, 1, 40])
    ask(1)
    advance(0)
    ask(30)
    advance(2)
    expect(messages.map(({ length }) => length)).toEqual([1, 1, 40, 1, 30])
    ask(64)
    advance(0)
    expect(messages.at(-1)).toHaveLength(64)
  })

  test('behavior: never more on the wire than the credit, never more in hand than the capacity', async () => {
    const { relay, messages, advance, answer } = connected({ capacity: 10, credit: 3 })
    const jobs = Array.from({ length: 10 }, (_, index) => codeOf(relay.submit(jobFrame(BigInt(index + 1), utf8('x')))))
    expect(caught(() => relay.submit(jobFrame(11n, utf8('x'))))).toBe('at_capacity false')
    advance(10)
    expect(messages.flat()).toHaveLength(3)
    await answer(messages[0]!.slice(0, 2))
    advance(10)
    expect(messages.flat()).toHaveLength(5)
    for (let seen = 3; seen < 12; seen++) {
      advance(10)
      await answer(messages.flat().filter(({ job }) => Number(job) >= 3))
    }
    expect(new Set(await Promise.all(jobs))).toEqual(new Set(['answered']))
  })

  test('behavior: the same body joins or gets the answer it had; another body is a conflict', async () => {
    const { relay, messages, advance, answer } = connected()
    const first = relay.submit(jobFrame(1n, utf8('a')))
    expect(relay.submit(jobFrame(1n, utf8('a')))).toBe(first)
    expect(caught(() => relay.submit(jobFrame(1n, utf8('b'))))).toBe('job_conflict false')
    advance(0)
    await answer(messages[0]!)
    const again = await relay.submit(jobFrame(1n, utf8('a')))
    expect([...again]).toEqual([...(await first)])
    expect(caught(() => relay.submit(jobFrame(1n, utf8('b'))))).toBe('job_conflict false')
    expect(messages).toHaveLength(1)
  })

  test('behavior: a broken connection loses nothing: what the runner may have is sent again, the rest goes elsewhere at once', async () => {
    const { relay, messages, advance, answer } = connected({ capacity: 10, credit: 1 })
    const sent = codeOf(relay.submit(jobFrame(1n, utf8('a'), { deadlineMs: 30_000 })))
    const waiting = codeOf(relay.submit(jobFrame(2n, utf8('b'))))
    advance(1)
    relay.lost()
    expect(await waiting).toBe('runner_unreachable false')
    expect(caught(() => relay.submit(jobFrame(3n, utf8('c'))))).toBe('runner_unreachable false')
    advance(5_000)
    relay.opened()
    advance(1)
    expect(messages).toHaveLength(1)
    relay.hello({ capacity: 10, credit: 1 })
    advance(1)
    expect(messages[1]!.map(({ job, ticket }) => [job, ticket])).toEqual(
      messages[0]!.map(({ job, ticket }) => [job, ticket]),
    )
    await answer(messages[1]!)
    expect(await sent).toBe('answered')
  })

  test('refusal: a runner that does not come back', async () => {
    const { relay, advance } = connected()
    const sent = codeOf(relay.submit(jobFrame(1n, utf8('a'), { deadlineMs: 60_000 })))
    advance(1)
    relay.lost()
    advance(10_200)
    expect(await sent).toBe('runner_unreachable true')
  })

  test('refusal: a deadline, told apart by whether the runner may have the job; the wire carries what is left of it', async () => {
    const { relay, messages, advance } = connected({ capacity: 10, credit: 1 })
    const slow = codeOf(relay.submit(jobFrame(1n, utf8('a'), { deadlineMs: 400 })))
    const stuck = codeOf(relay.submit(jobFrame(2n, utf8('b'), { deadlineMs: 300 })))
    advance(0)
    expect(messages[0]![0]!.deadlineMs).toBe(400)
    advance(600)
    expect([await slow, await stuck]).toEqual(['deadline true', 'deadline false'])
    const { relay: other, messages: seen, advance: turn } = open()
    other.opened()
    void other.submit(jobFrame(1n, utf8('a'), { deadlineMs: 500 })).catch(() => {})
    turn(200)
    other.hello({ capacity: 1 })
    turn(1)
    expect(seen[0]![0]!.deadlineMs).toBe(300)
  })

  test('attack: an answer to another job than was asked is an error, and reaches nobody', async () => {
    const { relay, messages, advance } = connected()
    const victim = codeOf(relay.submit(jobFrame(1n, utf8('a'), { deadlineMs: 1_000 })))
    advance(0)
    const [forged] = await signAnswers(signer, domain, [{ ...messages[0]![0]!, job: 2n }])
    const frame = encodeJobAnswer(forged!)
    expect(() => relay.settle(frame, forged!)).toThrow(AssayError)
    advance(1_200)
    expect(await victim).toBe('deadline true')
  })

  test('attack: an answer or refusal to a ticket nobody was given changes nothing', async () => {
    const { relay, answered } = connected()
    const frame = encodeJobRefusal({ ticket: 77, reason: 'unfunded', detail: '' })
    relay.settle(frame, { ticket: 77 })
    const [answer] = await signAnswers(signer, domain, [
      { ...(decodeFrame(jobFrame(1n, utf8('a'))) as JobRequest), ticket: 78 },
    ])
    relay.settle(encodeJobAnswer(answer!), answer!)
    expect(answered).toHaveLength(0)
  })

  test('attack: bodies that add up to more than the object may hold are refused', () => {
    const { relay } = connected({ capacity: 1_000, credit: 1_000 })
    const body = new Uint8Array(16 * 1024 * 1024)
    void relay.submit(jobFrame(1n, body)).catch(() => {})
    void relay.submit(jobFrame(2n, body)).catch(() => {})
    expect(caught(() => relay.submit(jobFrame(3n, body)))).toBe('at_capacity false')
  })

  test('a cancelled job never reaches the runner; of one it has the runner is asked to let go', async () => {
    const sent: Frame[] = []
    const send = (message: Uint8Array) => void sent.push(...splitFrames(message.slice()).map(decodeFrame))
    const { relay, advance } = connected({ capacity: 10, credit: 1 }, { send })
    const first = codeOf(relay.submit(jobFrame(1n, utf8('a'))).then(reasonOf))
    const second = codeOf(relay.submit(jobFrame(2n, utf8('b'))))
    advance(0)
    const channel = `0x${'07'.repeat(32)}`
    expect([relay.cancel(channel, 1n), relay.cancel(channel, 2n), relay.cancel(channel, 3n)]).toEqual([
      'asked',
      'ended',
      'unknown',
    ])
    expect(await second).toBe('cancelled false')
    expect(sent.map(({ type }) => type)).toEqual(['jobRequest', 'cancel'])
    expect(sent[1]).toEqual({ type: 'cancel', channel: fromHex(channel, 32), job: 1n })
    // The runner may have been quicker: what it says is how the job ends.
    const { ticket } = sent[0] as JobRequest
    const frame = encodeJobRefusal({ ticket, reason: 'cancelled', detail: '' })
    relay.settle(frame, { ticket })
    expect(await first).toBe('answered')
    expect(relay.cancel(channel, 1n)).toBe('unknown')
    expect(caught(() => relay.submit(jobFrame(3n, utf8('c')), { isWanted: () => false }))).toBe('cancelled false')
  })

  test('a job whose time is over is given up at the runner too: what it lets go of is released, a receipt that was there first counts', async () => {
    const sent: Frame[] = []
    const released: bigint[] = []
    const { relay, advance, answer, answered } = connected(
      { capacity: 10, credit: 10 },
      {
        send: (message) => void sent.push(...splitFrames(message.slice()).map(decodeFrame)),
        released: ({ job }) => void released.push(job),
      },
    )
    const ends = [1n, 2n].map((job) => codeOf(relay.submit(jobFrame(job, utf8('a'), { deadlineMs: 500 }))))
    advance(0)
    advance(700)
    expect(await Promise.all(ends)).toEqual(['deadline true', 'deadline true'])
    const requests = sent.filter((frame) => frame.type === 'jobRequest')
    expect(sent.flatMap((frame) => (frame.type === 'cancel' ? [frame.job] : []))).toEqual([1n, 2n])
    const { ticket } = requests[0]!
    relay.settle(encodeJobRefusal({ ticket, reason: 'cancelled', detail: '' }), { ticket })
    await answer([requests[1]!])
    expect([released, answered.map(({ receipt }) => receipt.job)]).toEqual([[1n], [2n]])
    // Said twice, or on another connection, it means nothing.
    relay.settle(encodeJobRefusal({ ticket, reason: 'cancelled', detail: '' }), { ticket })
    expect(released).toEqual([1n])
  })

  test('attack: an answer to another job than the one given up is not taken for it', async () => {
    const { relay, advance, messages } = connected()
    const end = codeOf(relay.submit(jobFrame(1n, utf8('a'), { deadlineMs: 500 })))
    advance(0)
    advance(700)
    expect(await end).toBe('deadline true')
    const [asked] = messages.flat()
    const [other] = await signAnswers(signer, domain, [{ ...asked!, job: 2n }])
    expect(caught(() => relay.settle(encodeJobAnswer(other!), other!))).toMatch(/^bad_frame/)
  })

  test('property: whatever breaks and whenever, every job ends once, and what is answered was asked', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom('ask', 'answer', 'lost', 'open', 'wait', 'replace'), { minLength: 5, maxLength: 60 }),
        async (steps) => {
          const { relay, messages, advance, answer } = connected({ capacity: 20, credit: 4 })
          const ends: Promise<string>[] = []
          let number = 0n
          let up = true
          for (const step of steps) {
            if (step === 'ask') {
              try {
                ends.push(codeOf(relay.submit(jobFrame(++number, utf8(String(number))))))
              } catch {}
            } else if (step === 'answer' && up) await answer(messages.flat())
            else if (step === 'lost' && up) {
              relay.lost()
              up = false
            } else if (step === 'open' || step === 'replace') {
              relay.opened()
              relay.hello({ capacity: 20, credit: 4 })
              up = true
            } else if (step === 'wait') advance(50)
            expect(relay.load.queued).toBeLessThanOrEqual(20)
          }
          advance(20_000)
          const settled = await Promise.all(ends)
          expect(settled.every((end) => /^(answered|runner_unreachable|deadline)/.test(end))).toBe(true)
          expect(relay.load.queued).toBe(0)
        },
      ),
      { numRuns: 200 },
    )
  })
})
