import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { webhookTarget } from '../../functions/mailbox/webhooks.ts'
import { utf8 } from '../../protocol/bytes.ts'
import { decodeFrame, encodeJobRefusal, type JobRequest, splitFrames } from '../../protocol/frames.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { type FakeRunner, honest, jobFrame, openRunner } from './fakeRunner.ts'

type View = {
  id: string
  state: string
  problem?: { code: string }
  links: { self: string; result: string; events: string }
  webhook?: { state: string; attempts: number; lastStatus: number | null; nextAttemptAt: string | null }
  webhookSecret?: string
}
type Received = { headers: Record<string, string>; body: string }

let edge: TestEdge
let hooks: Server
let hooksUrl: string
const received: Received[] = []
let answerWith = 200
let channels = 60

beforeAll(async () => {
  edge = await openEdge()
  hooks = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request as AsyncIterable<Buffer>) body += chunk
    received.push({ headers: request.headers as Record<string, string>, body })
    response.writeHead(answerWith, answerWith === 302 ? { location: `${hooksUrl}/elsewhere` } : {}).end()
  })
  await new Promise<void>((resolve) => hooks.listen(0, '127.0.0.1', resolve))
  hooksUrl = `http://127.0.0.1:${(hooks.address() as AddressInfo).port}`
}, 60_000)
afterAll(async () => {
  await edge.dispose()
  hooks.closeAllConnections()
  await new Promise((resolve) => hooks.close(resolve))
}, 30_000)

async function setup(name: string, handle?: (requests: JobRequest[], fake: FakeRunner) => unknown) {
  const by = keyOf(name)
  const runner = by.address
  await edge.addRunner(runner)
  const channel = channels++
  const open = (over: Partial<Parameters<typeof openRunner>[0]> = {}) =>
    openRunner({
      url: edge.url,
      domain,
      runner,
      by,
      hello: { models: [model], capacity: 100, credit: 1 },
      handle: handle ?? honest(by, domain),
      ...over,
    })
  const submit = async (job: bigint, { body = 'x', deadlineMs = 30_000, headers = {} } = {}) => {
    const response = await fetch(`${edge.url}/v1/runners/${runner}/jobs`, {
      method: 'POST',
      headers: { prefer: 'respond-async', ...headers },
      body: jobFrame(job, utf8(body), { channel, deadlineMs }),
    })
    return {
      status: response.status,
      location: response.headers.get('location'),
      view: (await response.json()) as View,
    }
  }
  const call = async (path: string, method = 'GET') => {
    const response = await fetch(`${edge.url}${path}`, { method })
    return { status: response.status, body: (await response.json()) as View & { code?: string } }
  }
  const reach = (path: string, state: string) =>
    until(async () => {
      const { body } = await call(path)
      return body.state === state && body
    })
  return { by, runner, open, submit, call, reach, channel }
}

describe('asynchronous jobs', () => {
  test('behavior: 202 with a place to look, then the result; the same frame again is the same job', async () => {
    const { open, submit, call, reach } = await setup('async')
    const fake = await open()
    const { status, location, view } = await submit(1n, { body: 'abc' })
    expect([status, location]).toEqual([202, view.links.self])
    const done = await reach(location!, 'done')
    expect(done).toMatchObject({ job: '1' })
    expect(done.problem).toBeUndefined()
    const result = await fetch(`${edge.url}${view.links.result}`)
    const answer = decodeFrame(new Uint8Array(await result.arrayBuffer()))
    expect(answer).toMatchObject({ type: 'jobAnswer', ticket: 0, body: utf8('cba') })
    expect((await submit(1n, { body: 'abc' })).view.id).toBe(view.id)
    expect(await submit(1n, { body: 'abd' })).toMatchObject({ status: 409, view: { code: 'job_conflict' } })
    expect((await call(`${view.links.self.slice(0, -2)}00`)).status).toBe(404)
    await fake.close()
  })

  test('behavior: with a wait the 202 comes when the job has ended, or when the wait is over', async () => {
    const { open, submit } = await setup('waited', async (requests, fake) => {
      await new Promise((resolve) => setTimeout(resolve, 300))
      await honest(keyOf('waited'), domain)(requests, fake)
    })
    const headers = { prefer: 'handling=lenient, respond-async; x, wait=1' }
    await (await open()).close()
    const started = Date.now()
    const absent = await submit(1n, { headers })
    expect([absent.status, absent.view.state]).toEqual([202, 'queued'])
    expect(Date.now() - started).toBeGreaterThanOrEqual(950)
    const fake = await open()
    expect(await submit(2n, { headers })).toMatchObject({ status: 202, view: { state: 'done' } })
    expect((await submit(3n)).view.state).not.toBe('done')
    await fake.close()
  }, 20_000)

  test('behavior: a job waits for its runner, and survives a restart of the edge; large frames too', async () => {
    const { open, submit, call, reach } = await setup('late')
    await (await open()).close()
    const body = 'y'.repeat(2_500_000)
    const { view } = await submit(1n, { body })
    expect((await call(view.links.self)).body.state).toBe('queued')
    expect(await call(view.links.result)).toMatchObject({ status: 409 })
    await edge.restart()
    expect((await call(view.links.self)).body.state).toBe('queued')
    const fake = await open()
    await reach(view.links.self, 'done')
    const result = new Uint8Array(await (await fetch(`${edge.url}${view.links.result}`)).arrayBuffer())
    expect(result.length).toBeGreaterThan(body.length)
    await fake.close()
  }, 60_000)

  test('refusal: the runner refuses for good; asked again, the job is tried again', async () => {
    let reason: 'unfunded' | null = 'unfunded'
    const by = keyOf('poor')
    const { open, submit, call, reach } = await setup('poor', (requests, fake) =>
      reason
        ? fake.send(
            ...requests.map(({ ticket }) => encodeJobRefusal({ ticket, reason: reason!, detail: 'no deposit' })),
          )
        : honest(by, domain)(requests, fake),
    )
    const fake = await open()
    const { view } = await submit(1n)
    expect(await reach(view.links.self, 'refused')).toMatchObject({ problem: { code: 'unfunded' } })
    expect(await call(view.links.result)).toMatchObject({ status: 402, body: { code: 'unfunded' } })
    reason = null
    const again = await submit(1n)
    await reach(again.view.links.self, 'done')
    await fake.close()
  })

  test('refusal: a deadline ends a job', async () => {
    const { open, submit, reach } = await setup('absent')
    await (await open()).close()
    const { view } = await submit(1n, { deadlineMs: 800 })
    expect(await reach(view.links.self, 'expired')).toMatchObject({ problem: { code: 'deadline' } })
  })

  test('refusal: a deadline ends a job whose runner does not come back, though the edge was restarted and nobody asked', async () => {
    const { open, submit, call } = await setup('gone for good')
    await (await open()).close()
    const { view } = await submit(1n, { deadlineMs: 2_500 })
    await edge.restart()
    await new Promise((resolve) => setTimeout(resolve, 3_500))
    expect((await call(view.links.self)).body).toMatchObject({ state: 'expired' })
  }, 20_000)

  test('attack: a stranger cannot make a mailbox store jobs for a runner that never connected', async () => {
    const { submit, call, runner } = await setup('never')
    expect(await submit(1n)).toMatchObject({ status: 503, view: { code: 'runner_unreachable', accepted: false } })
    expect((await call(`/v1/runners/${runner}/jobs/${'0'.repeat(32)}`)).status).toBe(404)
  })

  test('behavior: cancels what the runner does not have, and refuses for what it has or has ended', async () => {
    const { open, submit, call, reach, by } = await setup('cancelled', () => {})
    const fake = await open()
    const first = await submit(1n)
    await reach(first.view.links.self, 'running')
    const second = await submit(2n)
    // A runner that does not say that it let go may still answer.
    expect(await call(first.view.links.self, 'DELETE')).toMatchObject({ status: 409, body: { code: 'conflict' } })
    expect(await call(second.view.links.self, 'DELETE')).toMatchObject({ status: 200, body: { state: 'cancelled' } })
    expect(await call(second.view.links.self, 'DELETE')).toMatchObject({ status: 409 })
    await honest(by, domain)(fake.requests, fake)
    await reach(first.view.links.self, 'done')
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(fake.requests.map(({ job }) => job)).toEqual([1n])
    await fake.close()
  })

  test('behavior: a job its runner has is cancelled when the runner lets go of it; racing the answer, one of the two wins', async () => {
    const { open, submit, call, reach, by } = await setup('letting go', () => {})
    const fake = await open({ hello: { models: [model], capacity: 100, credit: 10 } })
    const asked: bigint[] = []
    fake.socket.on('message', (data: Buffer) => {
      for (const frame of splitFrames(new Uint8Array(data)).map((bytes) => decodeFrame(bytes))) {
        if (frame.type !== 'cancel') continue
        asked.push(frame.job)
        const request = fake.requests.find(({ job }) => job === frame.job)!
        if (frame.job === 1n)
          fake.send(encodeJobRefusal({ ticket: request.ticket, reason: 'cancelled', detail: 'Let go of.' }))
        // Its receipt was there first.
        else void honest(by, domain)([request], fake)
      }
    })
    const [first, second] = [await submit(1n), await submit(2n)]
    await reach(first.view.links.self, 'running')
    await reach(second.view.links.self, 'running')
    expect(await call(first.view.links.self, 'DELETE')).toMatchObject({ status: 200, body: { state: 'cancelled' } })
    expect(await call(second.view.links.self, 'DELETE')).toMatchObject({ status: 409, body: { code: 'conflict' } })
    expect((await call(second.view.links.self)).body.state).toBe('done')
    expect((await call(first.view.links.self)).body.state).toBe('cancelled')
    expect(asked).toEqual([1n, 2n])
    await fake.close()
  })

  test('behavior: events tell each state and end with the last', async () => {
    const { open, submit } = await setup('streamed')
    await (await open()).close()
    const { view } = await submit(1n)
    const stream = await fetch(`${edge.url}${view.links.events}`)
    expect(stream.headers.get('content-type')).toBe('text/event-stream')
    const fake = await open()
    const text = await stream.text()
    const events = [...text.matchAll(/^event: (\w+)$/gm)].map(([, name]) => name)
    expect(events[0]).toBe('queued')
    expect(events.slice(-2)).toEqual(['running', 'done'])
    const last = JSON.parse(text.trim().split('\n').at(-1)!.replace('data: ', '')) as View
    expect(last).toMatchObject({ id: view.id, state: 'done' })
    const after = await (await fetch(`${edge.url}${view.links.events}`)).text()
    expect([...after.matchAll(/^event: (\w+)$/gm)].map(([, name]) => name)).toEqual(['done'])
    await fake.close()
  }, 20_000)
})

describe('webhooks', () => {
  const verify = ({ body, headers }: Received, secret: string) =>
    new Webhook(secret).verify(body, headers) as { type: string; data: View }

  test('behavior: the end of a job is announced, signed, without its payload; replayed when asked', async () => {
    const { open, submit, call } = await setup('announced')
    const fake = await open()
    received.length = 0
    answerWith = 200
    const { view } = await submit(1n, { headers: { 'assay-webhook-url': `${hooksUrl}/done` } })
    const [hook] = await until(async () => received.length > 0 && received)
    expect(verify(hook!, view.webhookSecret!)).toMatchObject({ type: 'job.done', data: { id: view.id, state: 'done' } })
    expect(() => verify(hook!, `whsec_${btoa('another secret of thirty-two byte')}`)).toThrow()
    expect(() => verify({ ...hook!, body: hook!.body.replace('done', 'dome') }, view.webhookSecret!)).toThrow()
    await until(async () => (await call(view.links.self)).body.webhook?.state === 'delivered')
    const replayed = await call(`${view.links.self}/webhook`, 'POST')
    expect(replayed.status).toBe(202)
    const [, second] = await until(async () => received.length === 2 && received)
    expect(second!.headers['webhook-id']).toBe(hook!.headers['webhook-id'])
    expect(second!.body).toBe(hook!.body)
    await fake.close()
  }, 20_000)

  test('behavior: a receiver that fails is tried again on the schedule, after a restart too; redirects are not followed', async () => {
    const { open, submit, call } = await setup('flaky')
    const fake = await open()
    received.length = 0
    answerWith = 302
    const secret = `whsec_${btoa('a secret of the receiver, for tests!')}`
    const headers = { 'assay-webhook-url': `${hooksUrl}/flaky`, 'assay-webhook-secret': secret }
    const { view } = await submit(1n, { headers })
    const failed = await until(async () => {
      const { webhook } = (await call(view.links.self)).body
      return webhook?.attempts === 1 && webhook
    })
    expect(failed).toMatchObject({ state: 'pending', lastStatus: 302 })
    expect(received).toHaveLength(1)
    await fake.close()
    await edge.restart()
    answerWith = 204
    await until(async () => received.length === 2)
    expect(verify(received[1]!, secret)).toMatchObject({ type: 'job.done' })
    expect(received[1]!.headers['webhook-id']).toBe(received[0]!.headers['webhook-id'])
    await until(async () => (await call(view.links.self)).body.webhook?.state === 'delivered')
  }, 30_000)

  test('behavior: 410 ends it', async () => {
    const { open, submit, call } = await setup('gone')
    const fake = await open()
    received.length = 0
    answerWith = 410
    const { view } = await submit(1n, { headers: { 'assay-webhook-url': `${hooksUrl}/gone` } })
    const ended = await until(async () => {
      const { webhook } = (await call(view.links.self)).body
      return webhook?.state === 'failed' && webhook
    })
    expect(ended).toMatchObject({ attempts: 1, lastStatus: 410, nextAttemptAt: null })
    await fake.close()
  })

  const random = (bytes: number) => new Uint8Array(bytes)
  test.each([
    'http://example.com/hook',
    'https://127.0.0.1/hook',
    'https://10.0.0.8/hook',
    'https://[::1]/hook',
    'https://localhost/hook',
    'https://metadata/hook',
    'https://user:secret@example.com/hook',
    'http://127.0.0.1:8080/hook',
    'file:///etc/passwd',
    'https://0x7f000001/',
    'not an address',
  ])('attack: %s is not a place for webhooks', (url) => {
    expect(() => webhookTarget(url, null, { local: false, random })).toThrow(/webhook address/)
  })
  test('refusal: a secret that is too short', () => {
    expect(() => webhookTarget('https://example.com', 'whsec_YQ==', { local: false, random })).toThrow('whsec_')
    expect(webhookTarget('https://example.com', null, { local: false, random }).secret).toMatch(/^whsec_/)
  })
})
