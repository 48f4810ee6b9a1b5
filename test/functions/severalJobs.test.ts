import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Context } from '../../functions/context.ts'
import { type EndedTogether, relayTogether } from '../../functions/mailbox/relayTogether.ts'
import type { ExecutionContext, MailboxStub, RelayedTogether } from '../../functions/platform.ts'
import { jobDoor } from '../../functions/routes/jobs.ts'
import { utf8 } from '../../protocol/bytes.ts'
import { FrameSplitter } from '../../protocol/frameSplitter.ts'
import {
  decodeFrame,
  encodeHello,
  encodeJobAnswer,
  encodeJobRefusal,
  encodeLoad,
  type JobRequest,
  joinFrames,
  setTicket,
  splitFrames,
} from '../../protocol/frames.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { type FakeRunner, honest, jobFrame, openRunner, signAnswers } from './fakeRunner.ts'

const jobsType = 'application/vnd.assay.jobs'
let edge: TestEdge
beforeAll(async () => {
  edge = await openEdge()
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

let channels = 60

/** A job of a request: the ticket its asker chose, its number and its body. */
type Asked = { ticket: number; job: bigint; body: string; deadlineMs?: number }

/** Connects a runner of its own for one test, and gives what asks it for several jobs at once. */
async function connect(name: string, options: Partial<Parameters<typeof openRunner>[0]> = {}) {
  const by = keyOf(name)
  const runner = by.address
  await edge.addRunner(runner)
  const hello = { models: [model], capacity: 1_000 }
  const fake = await openRunner({ url: edge.url, domain, runner, by, hello, handle: honest(by, domain), ...options })
  const channel = channels++
  const frameOf = ({ ticket, job, body, deadlineMs = 5_000 }: Asked) => {
    const frame = jobFrame(job, utf8(body), { channel, deadlineMs })
    setTicket(frame, ticket)
    return frame
  }
  const send = (body: Uint8Array<ArrayBuffer>, init: RequestInit = {}) =>
    fetch(`${edge.url}/v1/runners/${runner}/jobs`, {
      method: 'POST',
      body,
      ...init,
      headers: { 'content-type': jobsType, ...init.headers },
    })
  const ask = (asked: Asked[], init?: RequestInit) => send(joinFrames(asked.map(frameOf)), init)
  const single = async (job: bigint, body: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${edge.url}/v1/runners/${runner}/jobs`, {
      method: 'POST',
      body: frameOf({ ticket: 0, job, body }),
      headers,
    })
    return { status: response.status, bytes: new Uint8Array(await response.arrayBuffer()) }
  }
  return { fake, by, runner, frameOf, send, ask, single }
}

/** Says what a frame of an answer says. */
function said(bytes: Uint8Array) {
  const frame = decodeFrame(bytes)
  if (frame.type === 'jobAnswer')
    return { ticket: frame.ticket, body: new TextDecoder().decode(frame.body.slice().reverse()) }
  if (frame.type !== 'problem') throw new Error(`not for an asker: ${frame.type}`)
  return { ticket: frame.ticket, code: frame.problem.code, accepted: frame.problem.accepted }
}

/** Reads an answer as it comes; `next` gives what the next frame says, and null at the end. */
function reading(response: Response) {
  const splitter = new FrameSplitter()
  const reader = response.body!.getReader()
  const frames: Uint8Array[] = []
  return {
    async next() {
      while (frames.length === 0) {
        const { done, value } = await reader.read()
        if (done) {
          splitter.end()
          return null
        }
        frames.push(...splitter.push(value))
      }
      return said(frames.shift()!)
    },
    stop: () => reader.cancel(),
  }
}

const all = async (response: Response) => splitFrames(new Uint8Array(await response.arrayBuffer())).map(said)
const jobsOf = (count: number, from = 1) =>
  Array.from({ length: count }, (_, at) => ({ ticket: 7 * at + 1_000, job: BigInt(from + at), body: `body ${at}` }))
const byTicket = (a: { ticket: number }, b: { ticket: number }) => a.ticket - b.ticket

describe('several jobs of one request', () => {
  test('behavior: are answered in one piece under the tickets their asker chose, with the load', async () => {
    const { fake, ask } = await connect('several')
    const asked = jobsOf(64)
    const response = await ask(asked)
    expect([response.status, response.headers.get('content-type')]).toEqual([200, jobsType])
    expect(response.headers.get('assay-load')).toBe('0/1000')
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
    expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    const bytes = new Uint8Array(await response.arrayBuffer())
    expect(response.headers.get('content-length')).toBe(String(bytes.length))
    expect(splitFrames(bytes).map(said).sort(byTicket)).toEqual(asked.map(({ ticket, body }) => ({ ticket, body })))
    expect(fake.requests).toHaveLength(64)
    await fake.close()
  })

  test('behavior: one job, the type in capitals, and a job asked twice', async () => {
    const { fake, ask, single } = await connect('one of several')
    const headers = { 'content-type': 'Application/VND.Assay.Jobs; v=1' }
    expect(await all(await ask([{ ticket: 0xffff_ffff, job: 1n, body: 'a' }], { headers }))).toEqual([
      { ticket: 0xffff_ffff, body: 'a' },
    ])
    const twice = [1, 2, 3].map((ticket) => ({ ticket, job: ticket === 3 ? 2n : 1n, body: 'a' }))
    expect((await all(await ask(twice))).sort(byTicket)).toEqual([1, 2, 3].map((ticket) => ({ ticket, body: 'a' })))
    expect(decodeFrame((await single(2n, 'a')).bytes)).toMatchObject({ type: 'jobAnswer', ticket: 0 })
    expect(fake.requests).toHaveLength(2)
    await fake.close()
  })

  test('refusal: what is not several jobs is refused as a whole, and nothing of it is handed on', async () => {
    const { fake, send, ask, frameOf } = await connect('malformed')
    const good = frameOf({ ticket: 1, job: 1n, body: 'x' })
    const refused = async (body: Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => {
      const response = await send(body, { headers })
      expect(response.headers.get('content-type')).toBe('application/problem+json')
      const { code, hint } = (await response.json()) as Record<string, unknown>
      expect(String(hint)).toMatch(/\w{3,}.*\.$/)
      return [response.status, code]
    }
    const invalid = [400, 'invalid_request']
    expect(await refused(new Uint8Array(0))).toEqual(invalid)
    expect(await refused(good)).toEqual(invalid)
    expect(await refused(joinFrames([good]).subarray(0, -1))).toEqual(invalid)
    expect(await refused(joinFrames([good, good]))).toEqual(invalid)
    const answer = (
      await signAnswers(keyOf('x'), domain, [decodeFrame(good) as JobRequest & { type: 'jobRequest' }])
    )[0]!
    const strangers = [
      new Uint8Array(0),
      new Uint8Array([1]),
      good.subarray(0, 40),
      new Uint8Array([99, 0, 0, 0, 2]),
      encodeJobAnswer({ ...answer, ticket: 2 }),
      encodeJobRefusal({ ticket: 2, reason: 'draining', detail: '' }),
      encodeHello({ models: [], capacity: 1 }),
      encodeLoad({ queued: 0, capacity: 1 }),
    ]
    for (const stranger of strangers) expect(await refused(joinFrames([good, stranger]))).toEqual(invalid)
    const many = jobsOf(65).map(frameOf)
    expect(await refused(joinFrames(many))).toEqual(invalid)
    expect(await refused(joinFrames([good]), { prefer: 'respond-async' })).toEqual(invalid)
    const large = joinFrames([frameOf({ ticket: 1, job: 1n, body: 'x'.repeat(8 * 1024 * 1024) })])
    expect(await refused(large)).toEqual([413, 'payload_too_large'])
    // What an edge says that takes one job at a time, and what the SDK knows it by.
    const asOne = { 'content-type': 'application/octet-stream' }
    expect(await refused(joinFrames([good]), asOne)).toEqual([422, 'bad_frame'])
    expect(fake.requests).toHaveLength(0)
    expect(await all(await ask([{ ticket: 1, job: 1n, body: 'x' }]))).toEqual([{ ticket: 1, body: 'x' }])
    await fake.close()
  })

  test('behavior: a problem is that of its job alone, worded as where it is posted by itself', async () => {
    const by = keyOf('refuses some')
    const { fake, ask, single } = await connect('refuses some', {
      handle: async (requests, it) => {
        const refused = requests.filter(({ job }) => job % 2n === 0n)
        for (const { ticket } of refused) it.send(encodeJobRefusal({ ticket, reason: 'bad_seal', detail: 'No.' }))
        await honest(by, domain)(
          requests.filter(({ job }) => job % 2n === 1n),
          it,
        )
      },
    })
    expect((await all(await ask(jobsOf(3)))).sort(byTicket)).toEqual([
      { ticket: 1_000, body: 'body 0' },
      { ticket: 1_007, code: 'bad_seal', accepted: false },
      { ticket: 1_014, body: 'body 2' },
    ])
    const response = await ask([{ ticket: 5, job: 1n, body: 'another' }])
    const [frame] = splitFrames(new Uint8Array(await response.arrayBuffer()))
    const { problem } = decodeFrame(frame!) as { type: 'problem'; problem: Record<string, unknown> }
    const alone = JSON.parse(new TextDecoder().decode((await single(1n, 'another')).bytes))
    expect(problem).toEqual({ ...alone, requestId: response.headers.get('x-request-id') })
    expect(problem).toMatchObject({ code: 'job_conflict', status: 409, accepted: false })
    await fake.close()
  })

  test('behavior: jobs beyond the capacity are told another runner, and the others are served', async () => {
    const other = keyOf('has room')
    const served = `0x${'f3'.repeat(32)}`
    const listing = { model: served, publisher: other.address, payout: other.address, price: '1', royaltyBps: 0 }
    await edge.sql(
      `INSERT INTO models (digest, owner, name, version, manifest, listing, signature) VALUES ($1, 'o', $1, '1', '{}', $2, '0x')`,
      [served, JSON.stringify({ ...listing, unit: 'job', validUntil: '9999999999', nonce: '1' })],
    )
    await edge.addRunner(other.address, { tee: 'tdx', tcbStatus: 'UpToDate', measurement: {}, claims: [] })
    const hello = { models: [served], capacity: 10 }
    const room = await openRunner({ url: edge.url, domain, runner: other.address, by: other, hello })
    await until(async () => {
      const body = JSON.stringify({ model: served })
      const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body }
      return (await fetch(`${edge.url}/v1/matches`, init)).status === 200
    })
    const { fake, ask } = await connect('small', { hello: { models: [served], capacity: 2 } })
    const headers = { 'assay-match': JSON.stringify({ model: served }) }
    const response = await ask(jobsOf(4), { headers })
    const frames = splitFrames(new Uint8Array(await response.arrayBuffer())).map((bytes) => decodeFrame(bytes))
    const problems = frames.filter((frame) => frame.type === 'problem')
    expect(problems.map(({ ticket }) => ticket)).toEqual([1_014, 1_021])
    const answers = frames.filter((frame) => frame.type === 'jobAnswer')
    expect(answers.map(({ ticket }) => ticket)).toEqual([1_000, 1_007])
    for (const { problem } of problems)
      expect(problem).toMatchObject({
        code: 'at_capacity',
        accepted: false,
        next: { runner: { signer: other.address } },
      })
    // What asks for no other runner is told none.
    expect(JSON.stringify(await all(await ask(jobsOf(4, 10))))).not.toContain('next')
    await Promise.all([fake.close(), room.close()])
    const gone = await ask(jobsOf(2, 20))
    expect([gone.status, await all(gone)]).toEqual([
      200,
      [1_000, 1_007].map((ticket) => ({ ticket, code: 'runner_unreachable', accepted: false })),
    ])
  })

  /** Connects a runner that answers even jobs at once and holds odd ones until it is told. */
  async function holding(name: string) {
    const by = keyOf(name)
    const held: JobRequest[] = []
    const answer = honest(by, domain)
    const connected = await connect(name, {
      handle: async (requests, it) => {
        held.push(...requests.filter(({ job }) => job % 2n === 1n))
        const even = requests.filter(({ job }) => job % 2n === 0n)
        if (even.length > 0) await answer(even, it)
      },
    })
    const release = (fake: FakeRunner, count = held.length) => answer(held.splice(0, count), fake)
    return { ...connected, held, release }
  }

  test('behavior: a slow job holds no fast one back, however many end one by one', async () => {
    const { fake, ask, held, release } = await holding('slow and fast')
    const answer = reading(await ask(jobsOf(30)))
    const fast: unknown[] = []
    for (let count = 0; count < 15; count++) fast.push(await answer.next())
    expect(fast).toEqual(jobsOf(30).flatMap(({ ticket, job, body }) => (job % 2n === 0n ? [{ ticket, body }] : [])))
    await until(async () => held.length === 15)
    for (let at = 0; at < 15; at++) {
      await release(fake, 1)
      expect(await answer.next()).toEqual({ ticket: 1_000 + 14 * at, body: `body ${2 * at}` })
    }
    expect(await answer.next()).toBeNull()
    expect(new Set(fake.requests.map(({ job }) => job)).size).toBe(30)
    expect(fake.requests).toHaveLength(30)
    await fake.close()
  })

  test('behavior: jobs slower than a call lasts are answered all the same, and a deadline is that of the first asking', async () => {
    const { fake, ask, held, release } = await holding('slower than a call')
    const asked = [1n, 3n, 5n].map((job) => ({
      ticket: Number(job),
      job,
      body: `body ${job}`,
      deadlineMs: job === 5n ? 11_500 : 60_000,
    }))
    const startedAt = performance.now()
    const answer = reading(await ask(asked))
    expect(await answer.next()).toMatchObject({ ticket: 5, code: 'deadline', accepted: true })
    expect(performance.now() - startedAt).toBeLessThan(13_000)
    await release(fake)
    const rest = [await answer.next(), await answer.next()].map((each) => each!.ticket)
    expect([...rest.sort(), await answer.next(), held.length]).toEqual([1, 3, null, 0])
    await fake.close()
  }, 30_000)

  test('behavior: answers too large to come together come one by one', async () => {
    const by = keyOf('large answers')
    const sizes = [5, 5, 9].map((mebibytes) => mebibytes * 1024 * 1024)
    const { fake, ask } = await connect('large answers', {
      handle: async (requests, it) => {
        const answers = await signAnswers(by, domain, requests)
        it.send(
          ...answers.map((answer) =>
            encodeJobAnswer({ ...answer, body: new Uint8Array(sizes[Number(answer.receipt.job) - 1]!) }),
          ),
        )
      },
    })
    const bytes = new Uint8Array(await (await ask(jobsOf(3))).arrayBuffer())
    const frames = splitFrames(bytes).map((each) => decodeFrame(each) as { ticket: number; body: Uint8Array })
    const found = frames.sort(byTicket).map(({ ticket, body }) => [ticket, body.length])
    expect(found).toEqual(sizes.map((size, at) => [1_000 + 7 * at, size]))
    expect(fake.requests).toHaveLength(3)
    await fake.close()
  }, 30_000)

  test('attack: an asker who hangs up costs others who ask the same runner nothing', async () => {
    const { fake, ask, single, held, release } = await holding('hanging up')
    const leaving = new AbortController()
    const answer = reading(await ask(jobsOf(10, 101), { signal: leaving.signal }))
    for (let fast = 0; fast < 5; fast++) await answer.next()
    // He hears of one request's jobs, and of none of the other's.
    const unheard = ask([{ ticket: 1, job: 501n, body: 'x' }], { signal: leaving.signal }).catch(() => 'gone')
    const others = [ask(jobsOf(10, 201)).then(all), ask(jobsOf(3, 301)).then(all), single(401n, 'alone')] as const
    await until(async () => held.length === 5 + 5 + 2 + 1 + 1)
    leaving.abort()
    await expect(answer.next()).rejects.toThrow()
    expect(await unheard).toBe('gone')
    await release(fake)
    expect((await others[0]).sort(byTicket)).toEqual(jobsOf(10).map(({ ticket, body }) => ({ ticket, body })))
    expect((await others[1]).sort(byTicket)).toEqual(jobsOf(3).map(({ ticket, body }) => ({ ticket, body })))
    expect((await others[2]).status).toBe(200)
    // He may come back for them.
    const back = await all(await ask(jobsOf(10, 101)))
    expect(back.sort(byTicket)).toEqual(jobsOf(10).map(({ ticket, body }) => ({ ticket, body })))
    expect(fake.requests).toHaveLength(25)
    await fake.close()
  })

  test('attack: two buyers with the same tickets get what is theirs', async () => {
    const { fake, ask } = await connect('same tickets')
    const [mine, his] = [jobsOf(16, 1), jobsOf(16, 101).map((job) => ({ ...job, body: `his ${job.body}` }))]
    const answers = await Promise.all([mine, his].map(async (asked) => (await all(await ask(asked))).sort(byTicket)))
    expect(answers).toEqual([mine, his].map((asked) => asked.map(({ ticket, body }) => ({ ticket, body }))))
    await fake.close()
  })
})

describe('relayTogether', () => {
  const load = { queued: 1, capacity: 2 }
  const jobs = Array.from({ length: 5 }, (_, at) => ({
    bytes: jobFrame(BigInt(at), utf8('x')),
    deadlineMs: 5_000,
  }))
  const numberOf = (bytes: Uint8Array) => Number((decodeFrame(bytes) as { job: bigint }).job)
  /** A mailbox whose calls are answered as told: with the numbers of the jobs that ended, or not at all. */
  const relay = async (calls: (number[] | Error)[], alone: (number: number) => Promise<void> = async () => {}) => {
    const asked: string[] = []
    const stub: Pick<MailboxStub, 'job' | 'jobs'> = {
      async jobs(_, bodies): Promise<RelayedTogether> {
        const numbers = splitFrames(new Uint8Array(bodies)).map(numberOf)
        asked.push(`together ${numbers.join(' ')}`)
        const ended = calls.shift() ?? []
        if (ended instanceof Error) throw ended
        const answers = numbers.map((number) =>
          ended.includes(number) ? new Uint8Array([2, number]) : new Uint8Array(),
        )
        return { load, answers: joinFrames(answers).buffer, problems: numbers.map(() => null) }
      },
      async job(_, body) {
        const number = numberOf(new Uint8Array(body))
        asked.push(`alone ${number}`)
        await alone(number)
        return { ...load, frame: new Uint8Array([2, number]) }
      },
    }
    const body = joinFrames(jobs.map(({ bytes }) => bytes)).buffer
    const ended: EndedTogether[] = []
    for await (const each of relayTogether(stub, { runner: '0x', body, jobs, now: () => 0 })) ended.push(each)
    const places = ended.map(({ ended }) => ended.map(({ place, error }) => (error ? `${place} failed` : place)))
    return { asked, places }
  }

  test('behavior: those left over are asked for again, the last one by itself', async () => {
    expect(await relay([[3], [0, 4], [2]])).toEqual({
      asked: ['together 0 1 2 3 4', 'together 0 1 2 4', 'together 1 2', 'alone 1'],
      places: [[3], [0, 4], [2], [1]],
    })
  })
  test('behavior: after a call that brought nothing each asks by itself and is told as it ends', async () => {
    const slow = async (number: number) => {
      for (let turns = 10 - number; turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
      if (number === 2) throw new Error('gone')
    }
    expect(await relay([[1], []], slow)).toEqual({
      asked: ['together 0 1 2 3 4', 'together 0 2 3 4', 'alone 0', 'alone 2', 'alone 3', 'alone 4'],
      places: [[1], [4], [3], ['2 failed'], [0]],
    })
  })
  test('behavior: a call that fails is told of every job left, and of no other', async () => {
    expect(await relay([[1, 2], new Error('overloaded')])).toEqual({
      asked: ['together 0 1 2 3 4', 'together 0 3 4'],
      places: [
        [1, 2],
        ['0 failed', '3 failed', '4 failed'],
      ],
    })
  })
})

describe('the door of several jobs, over a mailbox that is told what to say', () => {
  type Said = Uint8Array | 'no room' | null | Error
  const load = { queued: 0, capacity: 1 }
  const problem = { code: 'at_capacity', message: 'Full.', hint: undefined, extra: { accepted: false } }
  const frames = [1, 2, 3].map((ticket) => {
    const frame = jobFrame(BigInt(ticket), utf8('x'))
    setTicket(frame, ticket)
    return frame
  })
  const zeros = new Uint8Array(32)
  const answer = encodeJobAnswer({
    ticket: 99,
    receipt: { channel: zeros, job: 1n, status: 0, cumulative: 0n, finishedAt: 0n, detail: zeros },
    detail: { input: zeros, output: zeros, execution: zeros, price: 0n },
    signature: new Uint8Array(65),
    proof: { index: 0, count: 1, path: [] },
    body: utf8('x'),
  })

  /** Opens a door whose mailbox's calls say these things of its jobs, one call after the other, and whose directory reads a listing so. */
  function open(calls: (Said[] | Error)[], listing: () => Promise<null> = async () => null) {
    const logged: unknown[] = []
    const called: number[] = []
    const together = async (bodies: ArrayBuffer): Promise<RelayedTogether> => {
      called.push(splitFrames(new Uint8Array(bodies)).length)
      const said = calls.shift()
      if (!said || said instanceof Error) throw said ?? new Error('not expected')
      const answers = joinFrames(said.map((each) => (each instanceof Uint8Array ? each : new Uint8Array())))
      return { load, answers: answers.buffer, problems: said.map((each) => (each === 'no room' ? problem : null)) }
    }
    const alone = async (_: string, body: ArrayBuffer) => {
      const { problems } = await together(joinFrames([new Uint8Array(body)]).buffer)
      return { ...load, ...(problems[0] ? { problem: problems[0] } : { frame: answer.slice() }) }
    }
    const stub = { jobs: (_: string, bodies: ArrayBuffer) => together(bodies), job: alone }
    const door = jobDoor({
      mailbox: { idFromName: (name: string) => name, get: () => stub },
      carry: alone,
      directory: { loads: { note: () => {} }, listing },
      now: () => 0,
      log: (event: string, fields: object) => logged.push({ event, ...fields }),
    } as unknown as Context)
    const post = async (body: Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => {
      const url = `http://edge.test/v1/runners/0x${'ab'.repeat(20)}/jobs`
      const request = new Request(url, { method: 'POST', body, headers: { 'content-type': jobsType, ...headers } })
      return (await door(request, { waitUntil: () => {} } as unknown as ExecutionContext))!
    }
    return { logged, called, post }
  }

  test('refusal: where it fails, jobs left over are told what a job by itself is told, and the log names no more', async () => {
    const fails = () => new Error('a secret of the inside')
    const { logged, post } = open([[null, answer, null], fails(), fails()])
    const response = await post(joinFrames(frames))
    const requestId = response.headers.get('x-request-id')
    const [first, ...problems] = splitFrames(new Uint8Array(await response.arrayBuffer()))
    expect(said(first!)).toEqual({ ticket: 2, body: 'x' })
    const single = await post(frames[0]!, { 'content-type': 'application/octet-stream' })
    const told = { ...((await single.json()) as object), requestId }
    expect(told).toMatchObject({ code: 'internal', status: 500 })
    expect(problems.map((bytes) => decodeFrame(bytes))).toEqual(
      [1, 3].map((ticket) => ({ type: 'problem', ticket, problem: told })),
    )
    const requestIds = [requestId, single.headers.get('x-request-id')]
    expect(logged).toEqual(requestIds.map((requestId) => ({ event: 'defect', requestId, error: 'Error' })))
  })

  test('behavior: another runner is looked for once, and nobody waits for it who needs none', async () => {
    let looked = 0
    let found = () => {}
    const listing = () => {
      looked++
      return new Promise<null>((resolve) => {
        found = () => resolve(null)
      })
    }
    const { post } = open([['no room', answer, null], ['no room']], listing)
    const response = await post(joinFrames(frames), { 'assay-match': JSON.stringify({ model }) })
    const answers = reading(response)
    expect((await answers.next())!.ticket).toBe(2)
    found()
    const rest = [await answers.next(), await answers.next(), await answers.next()]
    expect([rest[0]!.ticket, rest[1]!.ticket, rest[2], looked]).toEqual([1, 3, null, 1])
  })

  test('behavior: once the asker has gone, the mailbox is asked no more', async () => {
    const calls = Array.from({ length: 20 }, (_, at) => [answer, ...Array<null>(19 - at).fill(null)])
    const { called, post } = open(calls)
    const many = Array.from({ length: 20 }, (_, at) => {
      const frame = jobFrame(BigInt(at), utf8('x'))
      setTicket(frame, at)
      return frame
    })
    const answers = reading(await post(joinFrames(many)))
    await answers.next()
    await answers.stop()
    for (let turns = 0; turns < 10; turns++) await new Promise((resolve) => setImmediate(resolve))
    expect(called.length).toBeLessThan(5)
  })
})
