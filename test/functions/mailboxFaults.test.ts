import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRandom } from '../../dev/sample/glyphs.ts'
import { toHex, utf8 } from '../../protocol/bytes.ts'
import { decodeFrame, encodeJobAnswer, type JobAnswer, type JobRequest } from '../../protocol/frames.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { type FakeRunner, jobFrame, openRunner, signAnswers } from './fakeRunner.ts'

/** A runner with a journal behind a bad line: the same job gets the same answer however often it comes, and the line cuts, repeats, delays and reorders. */

let edge: TestEdge
beforeAll(async () => {
  edge = await openEdge()
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

type Fault = 'none' | 'repeat' | 'delay' | 'reorder' | 'cut before the answer' | 'cut after the answer'

async function play(fault: Fault, seed: number) {
  const random = createRandom(seed)
  const by = keyOf(`runner with fault ${fault}`)
  const runner = by.address
  await edge.addRunner(runner)
  const journal = new Map<string, JobAnswer>()
  const counts = { runs: 0, replays: 0, cuts: 0 }
  let fake: FakeRunner | null = null
  let stopped = false

  const answersOf = async (requests: JobRequest[]) => {
    const fresh = requests.filter(({ job }) => !journal.has(String(job)))
    counts.runs += fresh.length
    counts.replays += requests.length - fresh.length
    const bodies = fresh.map((each) => ({ ...each, body: each.body.slice(), channel: each.channel.slice() }))
    if (fresh.length > 0)
      for (const answer of await signAnswers(by, domain, bodies)) journal.set(String(answer.receipt.job), answer)
    return requests.map(({ ticket, job }) => encodeJobAnswer({ ...journal.get(String(job))!, ticket }))
  }
  const handle = async (requests: JobRequest[], own: FakeRunner) => {
    const frames = await answersOf(requests)
    const strikes = random() < 0.4
    if (strikes && fault === 'cut before the answer') {
      counts.cuts++
      return own.socket.terminate()
    }
    if (fault === 'delay') await sleep(random() * 60)
    if (fault === 'reorder') frames.sort(() => random() - 0.5)
    if (fault === 'reorder') await sleep(random() * 20)
    if (own.socket.readyState !== 1) return
    if (strikes && fault === 'cut after the answer') {
      counts.cuts++
      own.send(...frames.slice(0, Math.ceil(frames.length / 2)))
      return setTimeout(() => own.socket.terminate(), 1)
    }
    own.send(...frames)
    if (fault === 'repeat') own.send(...frames, ...frames)
  }
  const connect = async (): Promise<void> => {
    const hello = { models: [model], capacity: 200, credit: 32 }
    fake = await openRunner({ url: edge.url, domain, runner, by, hello, handle })
    void fake.closed.then(() => (stopped ? undefined : sleep(20).then(connect)))
  }
  await connect()

  const channel = seed
  /** Asks as the SDK does: the same bytes again until they are answered. */
  const ask = async (job: number): Promise<string> => {
    for (let attempt = 0; attempt < 60; attempt++) {
      const body = jobFrame(BigInt(job), utf8(`body ${job}`), { channel, deadlineMs: 15_000 })
      const response = await fetch(`${edge.url}/v1/runners/${runner}/jobs`, { method: 'POST', body })
      if (!response.ok) {
        await response.text()
        await sleep(30)
        continue
      }
      const answer = decodeFrame(new Uint8Array(await response.arrayBuffer()))
      if (answer.type !== 'jobAnswer') throw new Error('not an answer')
      expect(answer.receipt.job).toBe(BigInt(job))
      return toHex(answer.body)
    }
    throw new Error(`Job ${job} was never answered.`)
  }
  const jobs = Array.from({ length: 120 }, (_, index) => index + 1)
  const outputs: string[] = []
  for (let start = 0; start < jobs.length; start += 30)
    outputs.push(...(await Promise.all(jobs.slice(start, start + 30).map(ask))))
  stopped = true
  const stored = await until(async () => {
    const rows = await edge.sql<{ n: string }>('SELECT count(*) AS n FROM receipts WHERE runner = $1', [runner])
    return Number(rows[0]!.n) === jobs.length && rows
  })
  await fake!.close()
  return {
    counts,
    outputs,
    expected: jobs.map((job) => toHex(utf8(`body ${job}`).reverse())),
    stored: Number(stored[0]!.n),
  }
}

const faults: Fault[] = ['none', 'repeat', 'delay', 'reorder', 'cut before the answer', 'cut after the answer']
test.each(faults.map((fault, index) => [fault, index + 1] as const))(
  'fault: %s. Every buyer gets its own answer, every job runs once, every receipt is kept once',
  async (fault, seed) => {
    const { counts, outputs, expected, stored } = await play(fault, seed)
    expect(outputs).toEqual(expected)
    expect([counts.runs, stored]).toEqual([120, 120])
    if (fault.startsWith('cut')) expect(counts.cuts).toBeGreaterThan(0)
  },
  40_000,
)
