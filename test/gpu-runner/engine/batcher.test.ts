import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Batcher, type BatcherDeps, type RunResult } from '../../../gpu-runner/engine/batcher.ts'
import { ModelError, RunDeadlineError } from '../../../gpu-runner/engine/errors.ts'
import type { Tensor } from '../../../protocol/tensors.ts'

const every = (most: number) => Array.from({ length: most }, (_, index) => index + 1)
const rows = (values: number[], { width = 1, name = 'x' } = {}): Tensor => ({
  name,
  datatype: 'FP32',
  shape: [values.length, width],
  data: new Uint8Array(Float32Array.from(values.flatMap((value) => Array(width).fill(value))).buffer),
})
const valuesOf = (tensor: Tensor) => [...new Float32Array(tensor.data.slice().buffer)]

/** A batcher over an engine that answers a turn later with what it was given, and writes down the rows of every run. */
function open(options: Partial<BatcherDeps<number>> = {}) {
  const sizes: number[] = []
  const results = new Map<number, RunResult>()
  let running = 0
  let most = 0
  const batcher = new Batcher<number>({
    run: async (feeds) => {
      sizes.push(feeds[0]!.shape[0]!)
      running++
      most = Math.max(most, running)
      await new Promise((resolve) => setImmediate(resolve))
      running--
      return feeds.map((tensor) => ({ ...tensor, name: 'y' }))
    },
    finish: async (finished) => {
      for (const { tag, result } of finished) results.set(tag, result)
    },
    batchSizes: every(64),
    now: () => 0,
    ...options,
  })
  const settled = async (count: number) => {
    while (results.size < count) await new Promise((resolve) => setImmediate(resolve))
  }
  const outputOf = (tag: number) => {
    const result = results.get(tag)!
    if ('error' in result) throw result.error
    return result.outputs[0]!
  }
  return { batcher, sizes, results, settled, outputOf, most: () => most }
}

describe('Batcher', () => {
  test('behavior: what is queued shares a run, and nothing waits for more', async () => {
    const { batcher, sizes, settled } = open()
    batcher.push({ tag: 0, feeds: [rows([0])], deadline: 1 })
    await settled(1)
    for (let tag = 1; tag <= 100; tag++) batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
    await settled(101)
    expect(sizes).toEqual([1, 64, 36])
  })

  test('property: every job gets its own rows back, whatever it shared a run with', async () => {
    const job = fc.record({
      values: fc.array(fc.integer({ min: -1_000, max: 1_000 }), { minLength: 1, maxLength: 6 }),
      width: fc.constantFrom(1, 3),
    })
    const sizes = fc
      .uniqueArray(fc.integer({ min: 2, max: 12 }), { minLength: 1 })
      .map((list) => [1, ...list.sort((a, b) => a - b)])
    await fc.assert(
      fc.asyncProperty(
        fc.array(job, { maxLength: 30 }),
        sizes,
        fc.constantFrom(1, 3),
        async (jobs, batchSizes, parallel) => {
          const opened = open({ batchSizes, parallel })
          for (const [tag, { values, width }] of jobs.entries())
            opened.batcher.push({ tag, feeds: [rows(values, { width })], deadline: 1 })
          await opened.settled(jobs.length)
          for (const [tag, { values, width }] of jobs.entries()) {
            expect(valuesOf(opened.outputOf(tag))).toEqual(valuesOf(rows(values, { width })))
            expect(opened.outputOf(tag).shape).toEqual([values.length, width])
          }
          for (const size of opened.sizes) expect(batchSizes).toContain(size)
          expect(opened.most()).toBeLessThanOrEqual(2 * parallel)
        },
      ),
    )
  })

  test('invariant: jobs share a run only at a size that was tried', async () => {
    const { batcher, sizes, settled } = open({ batchSizes: [1, 4, 16] })
    for (let tag = 0; tag < 27; tag++) batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
    await settled(27)
    expect(sizes).toEqual([16, 4, 4, 1, 1, 1])
  })

  test('invariant: a job of more rows than were tried runs in parts, and comes back whole', async () => {
    const { batcher, sizes, settled, outputOf } = open({ batchSizes: [1, 2, 3, 4, 8] })
    const values = Array.from({ length: 15 }, (_, index) => index)
    batcher.push({ tag: 0, feeds: [rows(values, { width: 3 })], deadline: 1 })
    await settled(1)
    expect(sizes).toEqual([8, 4, 3])
    expect([outputOf(0).shape, valuesOf(outputOf(0))]).toEqual([[15, 3], valuesOf(rows(values, { width: 3 }))])
  })

  test('behavior: where jobs may not share a run, each runs as it was sent', async () => {
    const { batcher, sizes, settled } = open({ batchSizes: [] })
    for (const [tag, count] of [1, 100, 7].entries())
      batcher.push({ tag, feeds: [rows(Array(count).fill(0))], deadline: 1 })
    await settled(3)
    expect(sizes).toEqual([1, 100, 7])
  })

  test('behavior: a job in parts stops at its deadline', async () => {
    let now = 0
    const { batcher, settled, results } = open({
      batchSizes: [1, 2],
      now: () => now,
      run: async (feeds) => {
        now += 10
        return feeds
      },
    })
    batcher.push({ tag: 0, feeds: [rows(Array(9).fill(0))], deadline: 25 })
    await settled(1)
    expect(results.get(0)).toMatchObject({ error: { name: 'RunDeadlineError', message: /after 6 of 9 rows/ } })
  })

  test('behavior: shapes that cannot be joined run apart, in the order they came', async () => {
    const { batcher, sizes, settled } = open()
    const feeds = [[rows([1])], [rows([2], { width: 2 })], [rows([3])], [rows([4], { name: 'z' })], [rows([5, 6])]]
    for (const [tag, own] of feeds.entries()) batcher.push({ tag, feeds: own, deadline: 1 })
    await settled(5)
    expect(sizes).toEqual([4, 1, 1])
  })

  test('attack: one row that fails costs its neighbours another run, not their answers', async () => {
    const { batcher, settled, results, outputOf } = open({
      run: async ([tensor]) => {
        if (valuesOf(tensor!).includes(13)) throw new ModelError('unlucky')
        return [tensor!]
      },
    })
    for (const tag of [12, 13, 14]) batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
    await settled(3)
    expect([valuesOf(outputOf(12)), valuesOf(outputOf(14))]).toEqual([[12], [14]])
    expect(results.get(13)).toMatchObject({ error: { message: 'unlucky' } })
  })

  test('attack: outputs that do not follow the rows are given to nobody as theirs', async () => {
    const { batcher, sizes, settled, outputOf } = open({
      run: async ([tensor]) => {
        sizes.push(tensor!.shape[0]!)
        return [rows([tensor!.shape[0]!])]
      },
    })
    for (const tag of [0, 1]) batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
    await settled(2)
    expect([sizes, valuesOf(outputOf(0)), valuesOf(outputOf(1))]).toEqual([[2, 1, 1], [1], [1]])
  })

  test('behavior: a deadline that passed in the queue is told, its neighbour runs', async () => {
    let now = 0
    const { batcher, settled, results } = open({
      now: () => now,
      run: async ([tensor]) => {
        now += 10
        return [tensor!]
      },
      batchSizes: [1],
    })
    for (const [tag, deadline] of [5, 5, 50].entries()) batcher.push({ tag, feeds: [rows([tag])], deadline })
    await settled(3)
    expect([0, 1, 2].map((tag) => 'error' in results.get(tag)!)).toEqual([false, true, false])
    expect(results.get(1)).toMatchObject({ error: expect.any(RunDeadlineError) })
  })

  test('behavior: a job that shared a run is not answered past its own deadline', async () => {
    let now = 0
    const { batcher, sizes, settled, results } = open({
      now: () => now,
      run: async (feeds) => {
        sizes.push(feeds[0]!.shape[0]!)
        now += 10
        return feeds
      },
    })
    for (const [tag, deadline] of [0, 5, 50].entries()) batcher.push({ tag, feeds: [rows([tag])], deadline })
    await settled(3)
    expect([0, 1, 2].map((tag) => 'error' in results.get(tag)!)).toEqual([true, true, false])
    expect(sizes).toEqual([2])
  })

  test('behavior: after a shared run that failed, answers leave one by one', async () => {
    const finished: number[][] = []
    const { batcher } = open({
      run: async (feeds) => {
        if (feeds[0]!.shape[0]! > 1) throw new ModelError('not together')
        return feeds
      },
      finish: async (results) => {
        finished.push(results.map(({ tag }) => tag))
      },
    })
    for (let tag = 0; tag < 3; tag++) batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
    while (finished.length < 3) await new Promise((resolve) => setImmediate(resolve))
    expect(finished).toEqual([[0], [1], [2]])
  })

  test('behavior: the next run begins while the last answers are written down, and no further', async () => {
    const events: string[] = []
    const released: (() => void)[] = []
    const { batcher } = open({
      batchSizes: [1],
      run: async ([tensor]) => {
        events.push(`run ${valuesOf(tensor!)[0]}`)
        return [tensor!]
      },
      finish: ([entry]) =>
        new Promise((resolve) => {
          events.push(`finish ${entry!.tag}`)
          released.push(resolve)
        }),
    })
    for (let tag = 0; tag < 8; tag++) batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
    const turn = () => new Promise((resolve) => setImmediate(resolve))
    await turn()
    // Of the run under way and of the one ahead alike.
    const early = ['run 0', 'run 1', 'run 2', 'run 3', 'finish 0', 'finish 1', 'run 4', 'run 5']
    expect(events).toEqual(early)
    released[0]!()
    await turn()
    expect(events.slice(early.length)).toEqual(['finish 2', 'run 6'])
  })

  test('behavior: what fills a run is handed over ahead, one run for each executor; what does not waits and grows', async () => {
    const begun: number[] = []
    const release: (() => void)[] = []
    const { batcher, settled } = open({
      batchSizes: every(8),
      run: (feeds) =>
        new Promise((resolve) => {
          begun.push(feeds[0]!.shape[0]!)
          release.push(() => resolve(feeds))
        }),
    })
    const turn = () => new Promise((resolve) => setImmediate(resolve))
    let tag = 0
    const push = async (count: number) => {
      for (let each = 0; each < count; each++) batcher.push({ tag: tag++, feeds: [rows([tag])], deadline: 1 })
      await turn()
    }
    await push(1)
    await push(7)
    expect(begun).toEqual([1])
    await push(1)
    expect(begun).toEqual([1, 8])
    await push(30)
    expect([begun, batcher.waiting]).toEqual([[1, 8], 30])
    for (const size of [8, 8, 8]) {
      release.shift()!()
      await turn()
      expect(begun.at(-1)).toBe(size)
    }
    // Six are left: they wait until the executor has nothing.
    release.shift()!()
    await turn()
    expect([begun, batcher.waiting]).toEqual([[1, 8, 8, 8, 8], 6])
    release.shift()!()
    await turn()
    expect([begun, batcher.waiting]).toEqual([[1, 8, 8, 8, 8, 6], 0])
    release.shift()!()
    await settled(39)
  })

  test('attack: a job that comes while the last answers wait to be written down is not forgotten', async () => {
    const release: (() => void)[] = []
    const finished: number[] = []
    const { batcher } = open({
      run: async (feeds) => feeds,
      finish: (results) =>
        new Promise((resolve) => {
          for (const { tag } of results) finished.push(tag)
          release.push(resolve)
        }),
    })
    const turn = () => new Promise((resolve) => setImmediate(resolve))
    // Nothing is released until all have been pushed: each set of answers is held up by the one before.
    for (let tag = 0; tag < 8; tag++) {
      batcher.push({ tag, feeds: [rows([tag])], deadline: 1 })
      await turn()
    }
    while (release.length > 0) {
      release.shift()!()
      await turn()
    }
    expect(finished.sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    expect(batcher.waiting).toBe(0)
  })
})
