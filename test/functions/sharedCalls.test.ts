import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { utf8 } from '../../protocol/bytes.ts'
import { decodeFrame, encodeJobRefusal } from '../../protocol/frames.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { type FakeRunner, honest, jobFrame, openRunner } from './fakeRunner.ts'

let edge: TestEdge
beforeAll(async () => {
  edge = await openEdge()
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

/** Connects a runner that answers even jobs at once, refuses every seventh, and holds odd ones until it is told. */
async function connect(name: string) {
  const by = keyOf(name)
  await edge.addRunner(by.address)
  const held: Parameters<ReturnType<typeof honest>>[0][number][] = []
  const answer = honest(by, domain)
  const fake: FakeRunner = await openRunner({
    url: edge.url,
    domain,
    runner: by.address,
    by,
    hello: { models: [model], capacity: 1_000 },
    handle: async (requests, it) => {
      const refused = requests.filter(({ job }) => job % 7n === 0n)
      for (const { ticket } of refused) it.send(encodeJobRefusal({ ticket, reason: 'bad_seal', detail: 'No.' }))
      held.push(...requests.filter(({ job }) => job % 7n !== 0n && job % 2n === 1n))
      const even = requests.filter(({ job }) => job % 7n !== 0n && job % 2n === 0n)
      if (even.length > 0) await answer(even, it)
    },
  })
  const post = async (job: bigint, signal?: AbortSignal) => {
    const response = await fetch(`${edge.url}/v1/runners/${by.address}/jobs`, {
      method: 'POST',
      body: jobFrame(job, utf8(`body of ${job}`), { channel: 40, deadlineMs: 30_000 }),
      ...(signal ? { signal } : {}),
    })
    if (!response.ok) return { job, code: ((await response.json()) as { code: string }).code }
    const frame = decodeFrame(new Uint8Array(await response.arrayBuffer()))
    if (frame.type !== 'jobAnswer') throw new Error('not an answer')
    return { job: frame.receipt.job, body: new TextDecoder().decode(frame.body.slice().reverse()) }
  }
  const release = () => answer(held.splice(0), fake)
  return { fake, post, held, release }
}
const expected = (job: bigint) => (job % 7n === 0n ? { job, code: 'bad_seal' } : { job, body: `body of ${job}` })

describe('calls that jobs share', () => {
  test('property: however jobs share calls, each buyer gets what is his, and nobody waits for another', async () => {
    const { fake, post, held, release } = await connect('sharing')
    const jobs = Array.from({ length: 200 }, (_, at) => BigInt(at + 1))
    const quick = jobs.filter((job) => job % 2n === 0n || job % 7n === 0n)
    const slow = jobs.filter((job) => !quick.includes(job))
    const slowOnes = Promise.all(slow.map((job) => post(job)))
    // The quick ones go in rounds beside the slow ones, which are held back all the time.
    for (let at = 0; at < quick.length; at += 20) {
      const round = quick.slice(at, at + 20)
      expect(await Promise.all(round.map((job) => post(job)))).toEqual(round.map(expected))
    }
    await until(async () => held.length === slow.length)
    await release()
    expect(await slowOnes).toEqual(slow.map(expected))
    // A refusal is not kept, so a job refused between its shared call's return and its own question is handed over again; an answer is.
    const answered = fake.requests.filter(({ job }) => job % 7n !== 0n)
    expect(answered).toHaveLength(jobs.filter((job) => job % 7n !== 0n).length)
    expect(new Set(fake.requests.map(({ job }) => job)).size).toBe(jobs.length)
    await fake.close()
  }, 30_000)

  test('attack: buyers who hang up cost those who share their calls nothing', async () => {
    const { fake, post, held, release } = await connect('hanging up')
    let job = 1n
    const others: Promise<unknown>[] = []
    const wanted: bigint[] = []
    for (let round = 0; round < 8; round++) {
      const leaving = new AbortController()
      // Whoever comes second makes the call that the next ones share.
      const gone = [1, 2, 3].map(() => {
        job += 14n
        return post(job, leaving.signal).catch(() => 'gone')
      })
      for (let each = 0; each < 6; each++) {
        job += 14n
        wanted.push(job + 2n)
        others.push(post(job + 2n))
      }
      await until(async () => held.length >= 1 + round)
      leaving.abort()
      expect(await Promise.all(gone)).toEqual(['gone', 'gone', 'gone'])
    }
    await until(async () => wanted.every((number) => held.some((request) => request.job === number)))
    await release()
    expect(await Promise.all(others)).toEqual(wanted.map(expected))
    await fake.close()
  }, 60_000)
})
