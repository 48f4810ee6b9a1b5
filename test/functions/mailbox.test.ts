import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { decodeFrame, encodeHello, encodeJobAnswer, encodeJobRefusal, encodeLoad } from '../../protocol/frames.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { type FakeRunner, honest, jobFrame, openRunner, signAnswers } from './fakeRunner.ts'

let edge: TestEdge
let channels = 20
beforeAll(async () => {
  edge = await openEdge()
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

/** Registers a runner of its own for one test and connects it. */
async function connect(name: string, options: Partial<Parameters<typeof openRunner>[0]> = {}) {
  const by = keyOf(name)
  const runner = by.address
  await edge.addRunner(runner)
  const open = (over: typeof options = {}) =>
    openRunner({
      url: edge.url,
      domain,
      runner,
      by,
      hello: { models: [model], capacity: 1_000 },
      handle: honest(by, domain),
      ...options,
      ...over,
    })
  const channel = channels++
  const post = async (job: bigint, body = 'x', deadlineMs = 5_000) => {
    const response = await fetch(`${edge.url}/v1/runners/${runner}/jobs`, {
      method: 'POST',
      body: jobFrame(job, utf8(body), { channel, deadlineMs }),
    })
    if (response.ok) {
      const answer = decodeFrame(new Uint8Array(await response.arrayBuffer()))
      return { status: 200, code: 'answered', accepted: undefined, load: response.headers.get('assay-load'), answer }
    }
    const { code, accepted } = (await response.json()) as { code: string; accepted?: boolean }
    return { status: response.status, code, accepted, load: response.headers.get('assay-load') }
  }
  const stored = (job: bigint) =>
    edge.sql('SELECT * FROM receipts WHERE channel = $1 AND job = $2', [
      toHex(new Uint8Array(32).fill(channel)),
      String(job),
    ])
  return { fake: await open(), open, post, stored, by, runner, channel }
}
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('the mailbox', () => {
  test('behavior: relays a job, gives the answer with the load, and keeps its verified receipt', async () => {
    const { post, stored, fake, runner } = await connect('plain')
    const answered = await post(1n, 'abc')
    expect(answered).toMatchObject({ status: 200, load: '0/1000', answer: { type: 'jobAnswer', ticket: 0 } })
    expect(await until(async () => (await stored(1n))[0])).toMatchObject({ runner })
    await fake.close()
  })

  test('behavior: under load one message carries many jobs, both ways', async () => {
    const { post, fake, by } = await connect('busy', { handle: () => {} })
    fake.socket.removeAllListeners('message')
    const { splitFrames } = await import('../../protocol/frames.ts')
    fake.socket.on('message', async (data: Buffer) => {
      const requests = splitFrames(new Uint8Array(data)).map((each) => decodeFrame(each))
      fake.batches.push(requests.length)
      const answers = await signAnswers(by, domain, requests as never)
      await pause(5)
      fake.send(...answers.map(encodeJobAnswer))
    })
    let job = 0n
    const buyer = async () => {
      for (let i = 0; i < 10; i++) expect((await post(++job)).status).toBe(200)
    }
    await Promise.all(Array.from({ length: 64 }, buyer))
    const most = Math.max(...fake.batches)
    expect(fake.batches.reduce((a, b) => a + b)).toBe(640)
    expect(most).toBeGreaterThanOrEqual(32)
    expect(fake.batches.length).toBeLessThan(640 / 8)
    await fake.close()
  }, 20_000)

  test('behavior: a retry of an answered job costs the runner nothing; another body is a conflict', async () => {
    const { post, fake } = await connect('retried')
    const first = await post(1n, 'a')
    const again = await post(1n, 'a')
    expect(again.answer).toEqual(first.answer)
    expect(await post(1n, 'b')).toMatchObject({ status: 409, code: 'job_conflict' })
    expect(fake.requests).toHaveLength(1)
    await fake.close()
  })

  test('behavior: never more unanswered than the credit; beyond the capacity a typed refusal at once, with the load', async () => {
    const { post, fake, by } = await connect('small', {
      hello: { models: [model], capacity: 4, credit: 2 },
      handle: () => {},
    })
    const waiting = Array.from({ length: 4 }, (_, index) => post(BigInt(index + 1)))
    await until(async () => fake.requests.length === 2)
    await pause(50)
    expect(fake.requests).toHaveLength(2)
    expect(await post(9n)).toMatchObject({ status: 503, code: 'at_capacity', accepted: false, load: '4/4' })
    await honest(by, domain)(fake.requests.slice(0, 2), fake)
    await until(async () => fake.requests.length === 4)
    await honest(by, domain)(fake.requests.slice(2), fake)
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual([200, 200, 200, 200])
    await fake.close()
  })

  test('behavior: the newer socket wins, and what the older had is sent again on it', async () => {
    const { post, open, fake } = await connect('twice', { handle: () => {} })
    const waiting = post(1n)
    await until(async () => fake.requests.length === 1)
    const { by } = { by: keyOf('twice') }
    const newer = await open({ handle: honest(by, domain) })
    expect(await waiting).toMatchObject({ status: 200 })
    expect((await fake.closed).code).toBe(4001)
    expect(await post(2n)).toMatchObject({ status: 200 })
    await newer.close()
  })

  test('behavior: a cut connection costs the buyer time and nothing else', async () => {
    const { post, open, fake, by } = await connect('cut', { handle: () => {} })
    const waiting = post(1n)
    await until(async () => fake.requests.length === 1)
    fake.socket.terminate()
    await pause(300)
    expect(await post(2n)).toMatchObject({ status: 503, code: 'runner_unreachable', accepted: false })
    const back = await open({ handle: honest(by, domain) })
    expect(await waiting).toMatchObject({ status: 200 })
    await back.close()
  })

  test('behavior: the object restarts under a connection: buyers are told, the runner comes back, nothing is answered twice', async () => {
    const { post, open, by } = await connect('restarted')
    expect(await post(1n, 'a')).toMatchObject({ status: 200 })
    await edge.restart()
    expect(await post(1n, 'a')).toMatchObject({ code: 'runner_unreachable', accepted: false })
    const back = await open({ handle: honest(by, domain) })
    expect(await post(1n, 'a')).toMatchObject({ status: 200 })
    await back.close()
  }, 20_000)

  test('behavior: an idle object sleeps with its socket open, and wakes knowing credit, capacity and runner', async () => {
    const { post, fake, stored } = await connect('sleeper', { hello: { models: [model], capacity: 7, credit: 3 } })
    expect(await post(1n, 'a')).toMatchObject({ status: 200, load: '0/7' })
    await until(async () => (await stored(1n))[0])
    await pause(13_000)
    expect(await post(2n, 'a')).toMatchObject({ status: 200, load: '0/7' })
    await until(async () => (await stored(2n))[0])
    // What it remembered of answers is gone, which shows that it slept; the runner answers again, and nothing else is lost.
    expect(await post(1n, 'a')).toMatchObject({ status: 200 })
    expect(fake.requests.map(({ job }) => job)).toEqual([1n, 2n, 1n])
    await fake.close()
  }, 30_000)

  test('attack: a receipt signed by another key is not kept, and the runner loses its socket', async () => {
    const { post, fake, stored } = await connect('liar', { handle: honest(keyOf('somebody else'), domain) })
    expect((await post(1n)).status).toBe(200)
    expect((await fake.closed).code).toBe(4003)
    expect(await stored(1n)).toEqual([])
  })

  test('attack: a receipt whose detail is not the one it was signed over is not kept', async () => {
    const { post, fake, stored } = await connect('embellisher', {
      handle: async (requests, own) => {
        const answers = await signAnswers(keyOf('embellisher'), domain, requests)
        own.send(...answers.map((each) => encodeJobAnswer({ ...each, detail: { ...each.detail, price: 4n } })))
      },
    })
    expect((await post(1n)).status).toBe(200)
    expect((await fake.closed).code).toBe(4003)
    expect(await stored(1n)).toEqual([])
  })

  test('attack: an answer to another job, and garbage, close the socket and reach nobody', async () => {
    const { post, fake, open } = await connect('confused', {
      handle: async (requests, own) => {
        const answers = await signAnswers(
          keyOf('confused'),
          domain,
          requests.map((each) => ({ ...each, job: each.job + 1n })),
        )
        own.send(...answers.map(encodeJobAnswer))
      },
    })
    const waiting = post(1n, 'x', 1_000)
    expect((await fake.closed).code).toBe(4002)
    expect(await waiting).toMatchObject({ accepted: true })
    const again = await open()
    again.socket.send(new Uint8Array([0, 0, 0, 9, 1]))
    expect((await again.closed).code).toBe(4002)
  }, 20_000)

  test('refusal: the runner refuses: its reason, and that it did not take the job', async () => {
    const { post, fake } = await connect('refusing', {
      handle: (requests, own: FakeRunner) =>
        own.send(...requests.map(({ ticket }) => encodeJobRefusal({ ticket, reason: 'draining', detail: 'bye' }))),
    })
    fake.send(encodeLoad({ queued: 3, capacity: 7 }))
    expect(await post(1n)).toMatchObject({ status: 503, code: 'draining', accepted: false, load: '3/7' })
    await fake.close()
  })

  test('refusal: deadlines, told apart by whether the runner has the job', async () => {
    const { post, fake } = await connect('slow', {
      hello: { models: [model], capacity: 4, credit: 1 },
      handle: () => {},
    })
    const answers = await Promise.all([post(1n, 'x', 300), post(2n, 'x', 300)])
    expect(answers.map(({ code, accepted }) => [code, accepted]).sort()).toEqual([
      ['deadline', false],
      ['deadline', true],
    ])
    await fake.close()
  })

  test('behavior: receipts outlive a database that is away, and the object', async () => {
    const { post, fake, stored } = await connect('patient')
    await edge.stopDatabase()
    expect((await post(1n)).status).toBe(200)
    await pause(500)
    await fake.close()
    await edge.restart()
    await edge.startDatabase()
    expect(await until(async () => (await stored(1n))[0])).toBeTruthy()
  }, 30_000)

  test('behavior: the directory learns models, warm ones, capacity and region, and that the runner left', async () => {
    const other = `0x${'b2'.repeat(32)}` as Hex
    const { fake, runner } = await connect('described', {
      hello: { models: [model, other], capacity: 9, warm: [other], region: 'eu-west' },
    })
    const row = async () =>
      (await edge.sql('SELECT online, models, warm, capacity, region FROM runners WHERE signer = $1', [runner]))[0]!
    await until(async () => (await row()).online)
    expect(await row()).toEqual({ online: true, models: [model, other], warm: [other], capacity: 9, region: 'eu-west' })
    fake.send(encodeHello({ models: [model], capacity: 5 }))
    await until(async () => (await row()).capacity === 5)
    expect(await row()).toMatchObject({ warm: [model], region: null })
    await fake.close()
    await until(async () => !(await row()).online)
  })
})
