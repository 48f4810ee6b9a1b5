import { describe, expect, test } from 'vitest'
import { Batcher } from '../../../gpu-runner/engine/batcher.ts'
import { Share } from '../../../gpu-runner/engine/share.ts'
import type { Tensor } from '../../../protocol/tensors.ts'

/** Plays buyers who ask again when all are answered, on a clock that moves by what runs and rests take; gives the sizes of the runs. */
async function lockstep({
  run,
  restMs,
  rounds,
  parallel = 1,
}: {
  run: (rows: number) => number
  restMs: number
  rounds: number
  parallel?: number
}) {
  const sizes: number[] = []
  let running = 0
  const together: number[] = []
  const atWork: Promise<void>[] = []
  let clock = 0
  let answered = 0
  const wrong: number[] = []
  const begin = async (before: Promise<void> | undefined, rows: number) => {
    await before
    await new Promise((resolve) => setImmediate(resolve))
    clock += run(rows)
  }
  const batcher = new Batcher<number>({
    run: async (feeds) => {
      const rows = feeds[0]!.shape[0]!
      sizes.push(rows)
      together.push(++running)
      // What is handed over ahead begins when an executor is done.
      const mine = begin(atWork.at(-parallel), rows)
      atWork.push(mine)
      await mine
      running--
      atWork.splice(atWork.indexOf(mine), 1)
      return feeds
    },
    finish: async (results) => {
      for (const { tag, result } of results) {
        answered++
        if (!('outputs' in result) || result.outputs[0]!.data[0] !== tag) wrong.push(tag)
      }
    },
    batchSizes: Array.from({ length: 64 }, (_, index) => index + 1),
    parallel,
    now: () => 0,
    elapsed: () => clock,
  })
  for (let round = 1; round <= rounds; round++) {
    for (let tag = 0; tag < 64; tag++) {
      const tensor: Tensor = { name: 'x', datatype: 'UINT8', shape: [1, 1], data: new Uint8Array([tag]) }
      batcher.push({ tag, feeds: [tensor], deadline: 1 })
    }
    while (answered < round * 64) await new Promise((resolve) => setImmediate(resolve))
    clock += restMs
  }
  return { sizes, wrong, together }
}

const count = (sizes: number[], size: number) => sizes.filter((each) => each === size).length

describe('Share', () => {
  test('behavior: the engine works on one half while the other is answered', async () => {
    const { sizes, wrong, together } = await lockstep({ run: (rows) => 0.5 + rows / 16, restMs: 3, rounds: 50 })
    expect(count(sizes, 32)).toBeGreaterThan(80)
    // The other half lies ready while one is run: neither is meant to grow.
    expect(together.slice(-6)).toEqual([1, 2, 1, 2, 1, 2])
    expect(sizes.reduce((sum, size) => sum + size)).toBe(50 * 64)
    expect(wrong).toEqual([])
  })

  test('behavior: a run that costs the same whatever its size is not taken in halves, but for one trial', async () => {
    const { sizes, wrong } = await lockstep({ run: () => 5, restMs: 3, rounds: 50 })
    expect(count(sizes, 64)).toBe(49)
    expect(count(sizes, 32)).toBe(2)
    expect(wrong).toEqual([])
  })

  test('behavior: where runs are short, or nobody waits for answers, all at hand share one', async () => {
    expect(count((await lockstep({ run: (rows) => rows / 100, restMs: 3, rounds: 50 })).sizes, 64)).toBe(50)
    expect(count((await lockstep({ run: (rows) => rows / 16, restMs: 0.1, rounds: 50 })).sizes, 64)).toBe(50)
    expect(count((await lockstep({ run: (rows) => rows / 16, restMs: 1_000, rounds: 50 })).sizes, 64)).toBe(50)
  })

  test('behavior: few rows are never divided', () => {
    const share = new Share()
    for (let at = 0; at < 100; at += 10) {
      share.ran(8, 5)
      share.rests(at)
      expect(share.plan({ rows: 8, lanes: 1, resting: true, at: at + 4 })).toEqual({ rows: 8, trial: false })
    }
  })

  test('behavior: what a half costs is tried again after a while, for machines change', () => {
    const share = new Share()
    const plans = Array.from({ length: 600 }, (_, start) => {
      share.ran(64, 4)
      share.rests(start * 10)
      const plan = share.plan({ rows: 64, lanes: 1, resting: true, at: start * 10 + 3 })
      if (plan.trial) share.ran(32, 4)
      return plan
    })
    expect(plans.filter(({ trial }) => trial)).toHaveLength(3)
    expect(new Set(plans.map(({ rows }) => rows))).toEqual(new Set([64]))
  })

  test('behavior: executors with nothing to do share long runs, and leave short ones together', async () => {
    const long = await lockstep({ run: (rows) => 2 + rows / 16, restMs: 0, rounds: 10, parallel: 4 })
    expect(long.sizes.slice(-4)).toEqual([16, 16, 16, 16])
    expect(long.wrong).toEqual([])
    const short = await lockstep({ run: (rows) => rows / 100, restMs: 0, rounds: 10, parallel: 4 })
    expect(short.sizes).toEqual(Array(10).fill(64))
  })

  test('behavior: halves stay of a size, and a load that grows has whole runs again', () => {
    const share = new Share()
    share.ran(64, 8)
    share.ran(32, 4)
    const half = { rows: 32, trial: false }
    for (const at of [0, 20]) {
      share.rests(at)
      share.plan({ rows: 64, lanes: 1, resting: true, at: at + 6 })
    }
    share.rests(40)
    expect(share.plan({ rows: 64, lanes: 1, resting: true, at: 46 })).toEqual(half)
    expect(share.next(48, 1)).toBe(32)
    expect(share.plan({ rows: 32, lanes: 1, resting: true, at: 60 })).toEqual(half)
    expect(share.next(20, 1)).toBe(20)
    expect(share.next(65, 1)).toBe(65)
    expect(share.next(48, 1)).toBe(48)
  })

  test('behavior: a time heard of late is not taken for a slow run', () => {
    const share = new Share()
    share.ran(64, 8)
    for (const ms of [4, 7, 7]) share.ran(32, ms)
    for (const at of [0, 20, 40, 60]) {
      share.rests(at)
      share.plan({ rows: 64, lanes: 1, resting: true, at: at + 6 })
    }
    expect(share.next(64, 1)).toBe(32)
  })

  test('behavior: one that is at work is not counted on', () => {
    const share = new Share()
    share.ran(1, 3)
    expect(share.plan({ rows: 30, lanes: 3, resting: false, at: 0 })).toEqual({ rows: 10, trial: false })
    expect(share.plan({ rows: 30, lanes: 1, resting: false, at: 0 })).toEqual({ rows: 30, trial: false })
  })
})
