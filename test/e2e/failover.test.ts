import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Assay } from '../../client/assay.ts'
import { developmentKey } from '../../dev/keys.ts'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { digitTensor as pixels, sampleModel } from '../../dev/sample/model.ts'
import { localBuyer, settleNow } from '../../dev/story.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import { readDevelopmentRoots } from '../../protocol/evidence/roots.development.ts'
import { decodeFrame, encodeJobProblem, joinFrames, setTicket, splitFrames, ticketOf } from '../../protocol/frames.ts'
import { createSigner } from '../../protocol/secp256k1.ts'
import { admit, eventually, fund, list, openMarketplace } from './marketplace.ts'

describe('two runners of one model', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let one: RunnerProcess
  let two: RunnerProcess
  let digest: Hex
  beforeAll(async () => {
    ;({ marketplace, close } = await openMarketplace())
    one = await marketplace.startRunner({ name: 'one' })
    two = await marketplace.startRunner({ name: 'two' })
    digest = await list(localBuyer(marketplace), one, sampleModel().graph, 'digits')
    await admit(two, digest)
    await fund(marketplace, 1_000_000n)
    await eventually(() => localBuyer(marketplace).infer(digest, [pixels(3)]))
    for (const runner of [one, two]) await settleNow(runner)
  })
  afterAll(() => close?.())

  /** Makes a buyer whose way to the edge the test watches and bends. */
  const buyerOver = (bend: typeof fetch): Assay =>
    new Assay({
      edge: marketplace.edgeUrl,
      signer: createSigner(fromHex(developmentKey('buyer'), 32)),
      roots: [readDevelopmentRoots(marketplace.chain.chainId, marketplace.developmentRoot)],
      fetch: bend,
    })
  const isJob = (input: unknown) => String(input).endsWith('/jobs')

  test.each(['at_capacity', 'draining', 'runner_unreachable'])(
    'behavior: %s before it was accepted: sealed again to the other runner, one request more',
    async (code) => {
      const posts: { url: string; job: bigint; channel: string; body: string }[] = []
      let matches = 0
      const buyer = buyerOver(async (input, init) => {
        if (String(input).endsWith('/v1/matches')) matches++
        if (!isJob(input)) return fetch(input, init)
        const frame = decodeFrame(init!.body as Uint8Array<ArrayBuffer>)
        if (frame.type !== 'jobRequest') throw new Error('not a job')
        const { job, channel, body } = frame
        posts.push({ url: String(input), job, channel: toHex(channel), body: toHex(body) })
        if (posts.length > 1) return fetch(input, init)
        const refusal = { code, detail: code, status: 503, accepted: false }
        return new Response(JSON.stringify(refusal), { status: 503 })
      })
      const answer = await buyer.infer(digest, [pixels(1)])
      expect(posts).toHaveLength(2)
      expect(posts[1]!.url).not.toBe(posts[0]!.url)
      expect(posts[1]!.channel).not.toBe(posts[0]!.channel)
      expect(posts[1]!.body).not.toBe(posts[0]!.body)
      expect(matches).toBe(2)
      expect(answer.runner).toBe(posts[1]!.url.split('/').at(-2))
    },
  )

  test('behavior: the edge names the next runner beside its refusal, and the buyer verifies it like any other', async () => {
    const probe = await localBuyer(marketplace).infer(digest, [pixels(2)])
    const other = probe.runner === one.signer ? two : one
    // A runner that was never there refuses for real.
    const gone = `0x${'0d'.repeat(20)}`
    let matches = 0
    let first = true
    const buyer = buyerOver(async (input, init) => {
      if (String(input).endsWith('/v1/matches')) matches++
      if (!isJob(input) || !first) return fetch(input, init)
      first = false
      return fetch(String(input).replace(/0x[0-9a-f]{40}/, gone), init)
    })
    const answer = await buyer.infer(digest, [pixels(2)])
    expect([one.signer, other.signer, two.signer]).toContain(answer.runner)
    expect(matches).toBe(1)
  })

  describe('jobs of one turn', () => {
    /** Makes a buyer whose first shared request a test answers itself, given the frames asked and what the edge would say to some of them. */
    const sharing = (
      answer: (asked: Uint8Array[], ask: (frames: Uint8Array[]) => Promise<Uint8Array[]>) => Promise<Uint8Array[]>,
    ) => {
      const posts: { runner: string; jobs: number }[] = []
      let first = true
      const buyer = buyerOver(async (input, init) => {
        if (!isJob(input)) return fetch(input, init)
        const shared = new Headers(init!.headers).get('content-type') === 'application/vnd.assay.jobs'
        const frames = shared ? splitFrames(init!.body as Uint8Array<ArrayBuffer>) : []
        posts.push({ runner: String(input).split('/').at(-2)!, jobs: shared ? frames.length : 1 })
        if (!shared || !first) return fetch(input, init)
        first = false
        const ask = async (some: Uint8Array[]) => {
          const response = await fetch(input, { ...init, body: joinFrames(some) })
          return splitFrames(new Uint8Array(await response.arrayBuffer()))
        }
        return new Response(joinFrames(await answer(frames, ask)))
      })
      const buy = (count: number) =>
        Promise.allSettled(Array.from({ length: count }, (_, at) => buyer.infer(digest, [pixels(at % 10)])))
      return { posts, buy }
    }

    test('behavior: share requests through edge and runner, and each is answered with what is asked of it', async () => {
      const { posts, buy } = sharing((frames, ask) => ask(frames))
      const answers = await buy(40)
      expect(posts.map(({ jobs }) => jobs)).toEqual([16, 16, 8])
      const alone = await Promise.all(
        Array.from({ length: 10 }, (_, digit) => localBuyer(marketplace).infer(digest, [pixels(digit)])),
      )
      for (const [at, answer] of answers.entries())
        expect(answer).toMatchObject({ value: { outputs: alone[at % 10]!.outputs } })
    })

    test('behavior: the one its runner has no room for moves to the other, and the others are served where they are', async () => {
      const { posts, buy } = sharing(async ([one, two, three], ask) => {
        const problem = { code: 'at_capacity', status: 503, detail: 'Full.', accepted: false }
        return [encodeJobProblem({ ticket: ticketOf(two!)!, problem }), ...(await ask([one!, three!]))]
      })
      const answers = await buy(3)
      const runners = answers.map((each) => each.status === 'fulfilled' && each.value.runner)
      const [first, second] = posts.map(({ runner }) => runner)
      expect(first).not.toBe(second)
      expect([posts.map(({ jobs }) => jobs), runners]).toEqual([
        [3, 1],
        [first, second, first],
      ])
    })

    test('attack: the edge swaps the answers of two: neither is believed, and the third is served', async () => {
      const { buy } = sharing(async (frames, ask) => {
        const answers = await ask(frames)
        for (const answer of answers) setTicket(answer, [1, 0, 2][ticketOf(answer)!]!)
        return answers
      })
      expect(await buy(3)).toMatchObject([
        { status: 'rejected', reason: { name: 'VerificationError', reason: 'receipt_job' } },
        { status: 'rejected', reason: { name: 'VerificationError', reason: 'receipt_job' } },
        { status: 'fulfilled' },
      ])
    })
  })

  test('behavior: a job that may have been accepted stays with its runner until its deadline, and is then let go', async () => {
    const urls = new Set<string>()
    const numbers = new Set<bigint>()
    const buyer = buyerOver(async (input, init) => {
      if (!isJob(input)) return fetch(input, init)
      urls.add(String(input))
      const frame = decodeFrame(init!.body as Uint8Array<ArrayBuffer>)
      if (frame.type === 'jobRequest') numbers.add(frame.job)
      await fetch(input, init)
      throw new TypeError('connection reset')
    })
    await expect(buyer.infer(digest, [pixels(4)], { deadlineMs: 2_000 })).rejects.toMatchObject({
      code: 'network',
      hint: expect.stringContaining('let go'),
    })
    expect([urls.size, numbers.size]).toEqual([1, 1])
  })

  test('behavior: an asynchronous job: started, announced by a signed webhook, verified when fetched', async () => {
    const received: { headers: Record<string, string>; body: string }[] = []
    const hooks = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request as AsyncIterable<Buffer>) body += chunk
      received.push({ headers: request.headers as Record<string, string>, body })
      response.end()
    })
    await new Promise<void>((resolve) => hooks.listen(0, '127.0.0.1', resolve))
    try {
      const url = `http://127.0.0.1:${(hooks.address() as AddressInfo).port}/done`
      const job = await localBuyer(marketplace).start(digest, [pixels(7)], { webhook: { url } })
      const answer = await job.result()
      expect(answer.runner).toBe(job.runner)
      expect(answer.outputs.length).toBeGreaterThan(0)
      expect((await job.status()).state).toBe('done')
      await expect(job.cancel()).rejects.toMatchObject({ code: 'conflict' })
      for (let left = 100; received.length === 0 && left > 0; left--)
        await new Promise((resolve) => setTimeout(resolve, 50))
      const { headers, body } = received[0]!
      expect(new Webhook(job.webhookSecret!).verify(body, headers)).toMatchObject({
        type: 'job.done',
        data: { id: job.id },
      })
    } finally {
      hooks.closeAllConnections()
      hooks.close()
    }
  })

  test('behavior: one runner dies: buyers whose channels it held are answered by the other', async () => {
    const buyers = Array.from({ length: 8 }, () => localBuyer(marketplace))
    await Promise.all(buyers.map((buyer) => buyer.infer(digest, [pixels(0)])))
    one.child.kill('SIGKILL')
    const answers = await Promise.all(
      buyers.map((buyer, index) =>
        buyer.infer(digest, [pixels(index)], { deadlineMs: 25_000 }).catch((error: { code: string }) => error.code),
      ),
    )
    const answered = answers.filter((answer) => typeof answer !== 'string')
    // What was on the wire when it died may be held by it; everything else moved.
    expect(answers.filter((answer) => typeof answer === 'string').every((code) => code === 'runner_unreachable')).toBe(
      true,
    )
    expect(answered.length).toBeGreaterThan(0)
    for (const { runner } of answered) expect(runner).toBe(two.signer)
    const later = await Promise.all(buyers.map((buyer) => buyer.infer(digest, [pixels(5)])))
    for (const { runner } of later) expect(runner).toBe(two.signer)
  }, 60_000)
})
