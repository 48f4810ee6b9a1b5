import { createRequire } from 'node:module'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { randomMlp, writeMlp } from '../dev/sample/model.ts'
import { Batcher } from '../gpu-runner/engine/batcher.ts'
import { createExecutor, type Executor } from '../gpu-runner/engine/executor.ts'
import type { Tensor } from '../protocol/tensors.ts'
import { tailLatency, windowBatcher } from './engine/queue.ts'
import type { Row } from './main.ts'
import { median, sideBySide } from './sideBySide.ts'

type Ort = {
  Tensor: new (type: string, data: Float32Array, dims: number[]) => object
  InferenceSession: {
    create(graph: Uint8Array, options: object): Promise<{ run(feeds: Record<string, object>): Promise<object> }>
  }
}

const every = (most: number) => Array.from({ length: most }, (_, index) => index + 1)
const rowsOf = (width: number, count: number): Tensor => ({
  name: 'x',
  datatype: 'FP32',
  shape: [count, width],
  data: new Uint8Array(Float32Array.from({ length: width * count }, (_, at) => ((at * 7) % 13) / 13).buffer),
})
const small = writeMlp('small', randomMlp([64, 128, 64, 10]), 'x', 'y')
/** About 17 million weights, a millisecond and more for one row. */
const large = writeMlp('large', randomMlp([64, 4_096, 4_096, 10]), 'x', 'y')
const limitMs = 60_000

/** Takes a model in this process, with the options executors use: what a server does that keeps no process apart. */
async function inProcess(graph: Uint8Array) {
  const ort = createRequire(import.meta.url)('onnxruntime-node') as Ort
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: ['cpu'],
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  })
  return ({ shape, data }: Tensor) =>
    session.run({ x: new ort.Tensor('float32', new Float32Array(data.buffer), [...shape]) })
}

/** Runs jobs through the batcher and gives when all are answered. */
async function throughBatcher(executor: Executor, model: string, batchSizes: number[], jobs: Tensor[]): Promise<void> {
  let left = jobs.length
  let done = () => {}
  const all = new Promise<void>((resolve) => {
    done = resolve
  })
  const batcher = new Batcher<null>({
    run: (feeds, deadlineMs) => executor.run(model, feeds, deadlineMs),
    finish: async (results) => {
      for (const { result } of results) if ('error' in result) throw result.error
      left -= results.length
      if (left === 0) done()
    },
    batchSizes,
    now: Date.now,
  })
  for (const job of jobs) batcher.push({ tag: null, feeds: [job], deadline: Date.now() + limitMs })
  await all
}

/** Gives the longest time in milliseconds that this process's event loop did not turn while something ran. */
async function longestGap(during: () => Promise<unknown>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  // It measures from one tick to the next: one must have come before, and one after.
  await sleep(5)
  await during()
  await sleep(5)
  delay.disable()
  return delay.max / 1e6
}

const atLeast = (figure: string, value: number, baseline: number, unit: string, ratio: number, bar: number): Row => ({
  figure: `${figure} (at least)`,
  value,
  unit,
  baseline,
  ratio,
  bar,
  met: ratio >= bar,
})

async function batching(executor: Executor): Promise<Row> {
  const jobs = every(1_024).map(() => rowsOf(64, 1))
  const times = await sideBySide(
    {
      greedy: () => throughBatcher(executor, 'small', every(64), jobs),
      single: () => throughBatcher(executor, 'small', [1], jobs),
    },
    { turns: 9 },
  )
  const perSecond = (ms: number) => (jobs.length / ms) * 1_000
  const [ours, theirs] = [perSecond(times.greedy), perSecond(times.single)]
  return atLeast(
    'rows a second in the executor, greedy batch 64 / one at a time',
    ours,
    theirs,
    'rows/s',
    ours / theirs,
    20,
  )
}

/** Measures runs that wait in a queue, as they do under load, and runs of which each is asked for when the last is answered: then nothing can hide the way there and back. */
async function isolation(executor: Executor): Promise<Row[]> {
  const bare = await inProcess(large)
  const measure = async (count: number, repeat: number) => {
    const rows = rowsOf(64, count)
    const jobs = Array.from({ length: repeat }, () => rows)
    const oneByOne = (run: () => Promise<unknown>) => async () => {
      for (let each = 0; each < repeat; each++) await run()
    }
    const times = await sideBySide(
      {
        queued: () => throughBatcher(executor, 'large', [count], jobs),
        alone: oneByOne(() => executor.run('large', [rows], limitMs)),
        here: oneByOne(() => bare(rows)),
      },
      { turns: 15 },
    )
    const perSecond = (ms: number) => (repeat / ms) * 1_000
    const row = (way: string, ms: number) =>
      atLeast(
        `executor process / in-process, a model of ${(times.here / repeat).toFixed(1)} ms, ${way}`,
        perSecond(ms),
        perSecond(times.here),
        'runs/s',
        times.here / ms,
        0.97,
      )
    return [row('runs queued', times.queued), row('one run at a time', times.alone)]
  }
  return [...(await measure(1, 20)), ...(await measure(8, 10))]
}

async function responsiveness(executor: Executor): Promise<Row> {
  const bare = await inProcess(large)
  // As many rows as take about 30 ms.
  const trial = rowsOf(64, 64)
  const { run: trialMs } = await sideBySide({ run: () => bare(trial) }, { turns: 7 })
  const rows = rowsOf(64, Math.max(1, Math.round((64 * 30) / trialMs)))
  const three = (run: () => Promise<unknown>) => () => Promise.all([run(), run(), run()])
  const gaps = { apart: [] as number[], here: [] as number[] }
  for (let round = 0; round < 11; round++) {
    gaps.apart.push(await longestGap(three(() => executor.run('large', [rows], limitMs))))
    gaps.here.push(await longestGap(three(() => bare(rows))))
  }
  const [ours, theirs] = [median(gaps.apart), median(gaps.here)]
  return {
    figure: 'longest event-loop gap of the control process / calling run() in process, three batches of 30 ms',
    value: ours,
    unit: 'ms',
    baseline: theirs,
    ratio: ours / theirs,
    bar: 1 / 45,
    met: ours / theirs <= 1 / 45,
  }
}

/** Keeps this process from sleeping while something runs. */
async function awake<T>(during: () => Promise<T>): Promise<T> {
  let running = true
  const turn = () => {
    if (running) setImmediate(turn)
  }
  turn()
  return during().finally(() => {
    running = false
  })
}

/** Simulates arrivals, with service times measured through an executor, against the batcher that runs in production. At the load offered a job comes every 20 microseconds, so this process would never sleep; the times are taken while it does not, or they would be those of the system's waking up. */
async function tail(executor: Executor): Promise<Row> {
  const sizes = [1, 2, 4, 8, 16, 32, 64]
  const runs = sizes.map((size) => {
    const feeds = [rowsOf(64, size)]
    return [String(size), () => executor.run('small', feeds, limitMs)] as const
  })
  const times: Record<string, number> = await awake(() =>
    sideBySide(Object.fromEntries(runs), { turns: 15, repeat: 200 }),
  )
  /** Interpolates between the sizes that were measured. */
  const serviceMs = (rows: number) => {
    const above = sizes.findIndex((size) => size >= rows)
    const [low, high] = [sizes[Math.max(0, above - 1)]!, sizes[above]!]
    const share = high === low ? 0 : (rows - low) / (high - low)
    return times[low]! + (times[high]! - times[low]!) * share
  }
  const greedy: number[] = []
  const window: number[] = []
  for (let seed = 1; seed <= 5; seed++) {
    const load = { perSecond: 50_000, seconds: 1, seed, serviceMs }
    greedy.push(await tailLatency((deps) => new Batcher({ ...deps, elapsed: deps.now, batchSizes: every(64) }), load))
    window.push(await tailLatency((deps) => windowBatcher({ ...deps, maxBatch: 64, windowMs: 1 }), load))
  }
  const [ours, theirs] = [median(greedy), median(window)]
  return {
    figure: 'p99 at 50,000 offered a second / a 1 ms window, simulated with measured service times',
    value: ours,
    unit: 'ms',
    baseline: theirs,
    ratio: ours / theirs,
    bar: 0.1,
    met: ours / theirs <= 0.1,
  }
}

/** Measures what keeping models in processes of their own and batching greedily gives and costs. */
export async function run(): Promise<Row[]> {
  const executor = createExecutor({ threads: 1 })
  try {
    await executor.load({ digest: 'small', graph: small, external: [] })
    await executor.load({ digest: 'large', graph: large, external: [] })
    await executor.prepared()
    return [
      await batching(executor),
      ...(await isolation(executor)),
      await responsiveness(executor),
      await tail(executor),
    ]
  } finally {
    await executor.stop()
  }
}
