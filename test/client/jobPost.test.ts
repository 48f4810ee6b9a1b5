import { describe, expect, test } from 'vitest'
import type { Edge } from '../../client/edge.ts'
import { EdgeError } from '../../client/errors.ts'
import { JobPost } from '../../client/jobPost.ts'
import { toHex } from '../../protocol/bytes.ts'
import { decodeFrame, encodeJobProblem, encodeLoad, joinFrames } from '../../protocol/frames.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { input, key, type Lies, problem, world } from './world.ts'

/** Gives an input of its own to each job. */
const inputOf = (value: number): Tensor => ({ ...input, data: new Uint8Array(Float32Array.of(value, 2).buffer) })
/** An edge that says different things, one request after the other; then the truth. */
const sequence = (...lies: NonNullable<Lies['several']>[]): Lies['several'] => {
  return (frames, request) => lies.shift()?.(frames, request) ?? new Response(joinFrames(frames))
}

/** Buys so many inferences in one turn, after a first one; gives what came of each, the output or the code. */
async function buyTogether(lies: Lies, count: number, deadlineMs = 30_000) {
  const it = await world(lies)
  const buy = async (value: number) => {
    try {
      const { outputs } = await it.buy.infer(it.digest, [inputOf(value)], { deadlineMs })
      return new Float32Array(outputs[0]!.data.slice().buffer)[0]
    } catch (error) {
      const { name, reason, code } = error as { name: string; reason?: string; code?: string }
      return reason ?? code ?? name
    }
  }
  await buy(0)
  it.posts.length = 0
  it.requests.length = 0
  const together = async (from: number) => Promise.all(Array.from({ length: count }, (_, at) => buy(from + at)))
  return { ...it, together, outcomes: await together(1) }
}
const doubled = (count: number, from = 1) => Array.from({ length: count }, (_, at) => 2 * (from + at))

describe('jobs of one turn', () => {
  test('behavior: share requests, sixteen to each, and each gets its own answer', async () => {
    const { posts, outcomes, requests } = await buyTogether({}, 64)
    expect(outcomes).toEqual(doubled(64))
    expect(posts).toEqual([16, 16, 16, 16])
    expect(new Set(requests.map(({ job }) => job)).size).toBe(64)
  })

  test.each([
    [1, [1]],
    [2, [2]],
    [16, [16]],
    [17, [16, 1]],
    [35, [16, 16, 3]],
  ])('behavior: %i of them leave as %j', async (count, expected) => {
    const { posts, outcomes } = await buyTogether({}, count)
    expect([outcomes, posts.sort((a, b) => b - a)]).toEqual([doubled(count), expected])
  })

  test('behavior: also the first jobs of a client, which open the channel', async () => {
    const { buy, digest, posts } = await world()
    await Promise.all([1, 2, 3].map((value) => buy.infer(digest, [inputOf(value)])))
    expect(posts).toEqual([3])
  })

  test('behavior: a large job goes by itself, and jobs for other requirements keep to themselves', async () => {
    const { buy, digest, posts } = await world()
    const large: Tensor = { ...input, shape: [20_000], data: new Uint8Array(80_000) }
    const requirements = { tee: 'tdx' }
    await Promise.all([
      buy.infer(digest, [large]),
      ...[1, 2, 3].map((value) => buy.infer(digest, [inputOf(value)])),
      ...[4, 5].map((value) => buy.infer(digest, [inputOf(value)], { requirements })),
    ])
    expect(posts.sort()).toEqual([1, 2, 3])
  })

  test('behavior: an edge that takes one at a time is asked so after that', async () => {
    const { posts, outcomes, together } = await buyTogether({ takesOne: true }, 3)
    expect([outcomes, posts]).toEqual([doubled(3), [3, 1, 1, 1]])
    expect(await together(10)).toEqual(doubled(3, 10))
    expect(posts.slice(4)).toEqual([1, 1, 1])
  })

  test('behavior: an edge that took one at a time is tried again a minute later', async () => {
    const posts: string[] = []
    let elapsed = 0
    const refused = new EdgeError('unsupported_media_type', 415, 'One at a time.', 'Post one job.')
    const edge: Edge = {
      json: () => Promise.reject(refused),
      bytes: async () => {
        posts.push('one')
        throw new EdgeError('at_capacity', 503, 'No room.', 'Ask another.')
      },
      stream: async () => {
        posts.push('several')
        throw refused
      },
    }
    const post = new JobPost(edge, () => elapsed)
    const job = { runner: 'runner', match: '{}', frame: new Uint8Array(8), timeoutMs: 1_000_000 }
    const askTwo = async () => {
      posts.length = 0
      await Promise.allSettled([post.post(job), post.post(job)])
      return [...posts]
    }
    expect(await askTwo()).toEqual(['several', 'one', 'one'])
    elapsed = 59_999
    expect(await askTwo()).toEqual(['one', 'one'])
    elapsed = 60_000
    expect(await askTwo()).toEqual(['several', 'one', 'one'])
  })

  test('behavior: an answer is read as it comes, however it is cut', async () => {
    for (const size of [1, 7, 1_000]) {
      const several: Lies['several'] = (frames) => {
        const bytes = joinFrames(frames)
        let at = 0
        const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
          if (at >= bytes.length) return controller.close()
          controller.enqueue(bytes.slice(at, at + size))
          at += size
        }
        return new Response(new ReadableStream({ pull }))
      }
      expect((await buyTogether({ several }, 5)).outcomes).toEqual(doubled(5))
    }
  })

  test('behavior: an answer is read in one piece where the platform streams none', async () => {
    const several: Lies['several'] = (frames) =>
      Object.defineProperty(new Response(joinFrames(frames)), 'body', { value: undefined })
    expect((await buyTogether({ several }, 5)).outcomes).toEqual(doubled(5))
  })

  test('behavior: a job is answered before a slower neighbour, and one without an answer in time fails alone', async () => {
    const order: unknown[] = []
    let finish = () => {}
    const several: Lies['several'] = (frames) => {
      const start = (controller: ReadableStreamDefaultController<Uint8Array>) => {
        controller.enqueue(joinFrames([frames[1]!]))
        finish = () => {
          // The third comes when nobody waits for it any more, and the line stays open.
          controller.enqueue(joinFrames([frames[2]!, frames[0]!]))
        }
      }
      return new Response(new ReadableStream({ start }))
    }
    const { buy, digest } = await world({ several })
    const ask = async (value: number, deadlineMs: number) => {
      const came = await buy.infer(digest, [inputOf(value)], { deadlineMs }).then(
        () => value,
        (error: { code: string }) => error.code,
      )
      order.push(came)
    }
    const asked = [ask(1, 60_000), ask(2, 60_000), ask(3, 0)]
    await asked[1]
    expect(order).toEqual([2])
    await asked[2]
    expect(order).toEqual([2, 'network'])
    finish()
    await asked[0]
    expect(order).toEqual([2, 'network', 1])
  }, 10_000)

  test('behavior: a problem is that of its job alone, as where it is posted by itself', async () => {
    const details = { code: 'bad_seal', status: 422, detail: 'No.', hint: 'Seal it again.', accepted: false }
    const say = () => Response.json(details, { status: 422 })
    const errorOf = async (count: number) => {
      const { buy, digest } = await world({ respond: (_, { job }) => (job === 2n ? say() : undefined) })
      await buy.infer(digest, [input])
      const asked = Array.from({ length: count }, () => buy.infer(digest, [input]))
      const results = await Promise.allSettled(asked)
      expect(results.map(({ status }) => status)).toEqual(['rejected', ...Array(count - 1).fill('fulfilled')])
      const { name, message, code, status, hint, details } = (results[0] as PromiseRejectedResult).reason
      return { name, message, code, status, hint, details }
    }
    expect(await errorOf(3)).toEqual(await errorOf(1))
    expect(await errorOf(3)).toMatchObject({ name: 'EdgeError', status: 422, hint: 'Seal it again.' })
  })

  test('behavior: a job that one runner has no room for goes elsewhere, on a channel of its own', async () => {
    let refused = 0
    const { posts, outcomes, requests } = await buyTogether(
      {
        respond: (_, { job }) =>
          job === 3n && refused++ === 0
            ? Response.json({ code: 'at_capacity', status: 503, detail: 'Full.', accepted: false }, { status: 503 })
            : undefined,
      },
      3,
    )
    // The world has one runner; what is refused by it finds no other and comes back to it.
    expect([outcomes, posts]).toEqual([
      [2, 4, 6],
      [3, 1],
    ])
    expect(requests[1]!.job).toBe(3n)
  })

  describe('attack: the edge', () => {
    const bodies = (requests: { job: bigint; body: Uint8Array }[]) =>
      new Set(requests.map(({ job, body }) => `${job} ${toHex(body)}`)).size

    test('gives two jobs each the other’s answer: neither is believed, and the third is served', async () => {
      const { outcomes } = await buyTogether(
        {
          several: sequence(([a, b, c]) => new Response(joinFrames([a!, b!, c!], [1, 0, 2]))),
        },
        3,
      )
      expect(outcomes).toEqual(['receipt_job', 'receipt_job', 6])
    })

    test('answers with what is no word for an asker, for nobody, twice, or in no form: those left are asked for again under their numbers', async () => {
      const lies: ((frames: Uint8Array<ArrayBuffer>[]) => Uint8Array<ArrayBuffer>)[] = [
        ([a, b, c]) => joinFrames([a!, encodeLoad({ queued: 0, capacity: 0 }), b!, c!]),
        ([a]) => joinFrames([a!, a!]),
        ([a, b, c]) => joinFrames([a!, b!, c!], [0, 3, 2]),
        ([a, b, c]) => joinFrames([a!, b!, c!], [0, 0xffff_ffff, 2]),
        ([a, b, c]) => joinFrames([a!, b!.slice(0, 100), c!]),
        ([a, b, c]) => joinFrames([a!, new Uint8Array(0), b!, c!]),
        ([a, b, c]) => joinFrames([a!, new Uint8Array([7, 0, 0, 0, 1, 0x7b]), b!, c!]),
        ([a, b]) => joinFrames([a!, b!]),
        ([a, b, c]) => joinFrames([a!, b!, c!]).slice(0, -1),
        ([a, b, c]) => joinFrames([a!, b!, c!]).slice(0, a!.length + 6),
        () => new Uint8Array(0),
        () => new Uint8Array([0xff, 0xff, 0xff, 0xff, 2]),
        () => new TextEncoder().encode('<html>Welcome</html>'),
      ]
      for (const lie of lies) {
        const { outcomes, requests } = await buyTogether(
          { several: sequence((frames) => new Response(lie(frames))) },
          3,
        )
        expect(outcomes).toEqual([2, 4, 6])
        expect(bodies(requests)).toBe(3)
      }
    })

    test('words a refusal without a code, or with the code of a network that stumbled', async () => {
      for (const said of [{}, { code: 7 }, { code: 'network' }, { code: 'internal', status: 500, detail: 'x' }]) {
        const { outcomes, requests } = await buyTogether(
          {
            several: sequence(
              ([a, , c]) => new Response(joinFrames([a!, encodeJobProblem({ ticket: 1, problem: said }), c!])),
            ),
          },
          3,
        )
        expect([outcomes, requests.length, bodies(requests)]).toEqual([[2, 4, 6], 4, 3])
      }
    })

    test('refuses one of three for good: it alone fails', async () => {
      const refusal = encodeJobProblem({ ticket: 1, problem: { code: 'bad_terms', status: 422, detail: 'No.' } })
      const { outcomes } = await buyTogether(
        { several: sequence(([a, , c]) => new Response(joinFrames([a!, refusal, c!]))) },
        3,
      )
      expect(outcomes).toEqual([2, 'bad_terms', 6])
    })

    test('breaks off: on the line, before a word, or behind a gateway of other words', async () => {
      const broken = () =>
        new Response(
          new ReadableStream({
            pull(controller) {
              controller.error(new TypeError('terminated'))
            },
          }),
        )
      const gateway = () => new Response('<html>Bad gateway</html>', { status: 502 })
      for (const several of [broken, () => 'throw' as const, gateway, () => problem('internal', 500)]) {
        const { outcomes, requests } = await buyTogether({ several: sequence(several) }, 3)
        expect([outcomes, requests.length, bodies(requests)]).toEqual([[2, 4, 6], 6, 3])
      }
    })

    test('answers and keeps the line open, or goes on to talk: nobody waits for its end', async () => {
      for (const more of [[], [encodeLoad({ queued: 0, capacity: 0 })]]) {
        let ended: unknown
        const several: Lies['several'] = (frames, { init }) => {
          init.signal!.addEventListener('abort', () => {
            ended = 'aborted'
          })
          const start = (controller: ReadableStreamDefaultController<Uint8Array>) =>
            controller.enqueue(joinFrames([...frames, ...more]))
          return new Response(new ReadableStream({ start }))
        }
        expect((await buyTogether({ several }, 3)).outcomes).toEqual([2, 4, 6])
        await new Promise((resolve) => setTimeout(resolve, 1_100))
        expect(ended).toBe('aborted')
      }
    })

    test('answers a request it calls malformed: what was asked is asked one by one, under the same numbers', async () => {
      for (const status of [400, 404, 413, 415, 422]) {
        const { outcomes, requests, posts } = await buyTogether(
          { several: sequence(() => problem('not_found', status)) },
          3,
        )
        expect([outcomes, posts, bodies(requests)]).toEqual([[2, 4, 6], [3, 1, 1, 1], 3])
      }
    })
  })

  test('behavior: a request carries the frames a job by itself carries, but for the ticket', async () => {
    const seen: Uint8Array[] = []
    const { outcomes } = await buyTogether(
      {
        buyer: key('buyer'),
        several: (frames, { init }) => {
          const headers = init.headers as Record<string, string>
          expect(JSON.parse(headers['assay-match']!)).toMatchObject({ requirements: {} })
          seen.push(init.body as Uint8Array)
          return new Response(joinFrames(frames))
        },
      },
      2,
    )
    expect(outcomes).toEqual([2, 4])
    const view = new DataView(seen[0]!.buffer)
    const first = seen[0]!.subarray(4, 4 + view.getUint32(0))
    expect(decodeFrame(first)).toMatchObject({ type: 'jobRequest', ticket: 0, job: 2n })
  })
})
