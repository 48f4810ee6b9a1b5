import { fractionsFrom } from '../test/fixtures/random.ts'
import type { Row } from './main.ts'

/** The size the design is for. */
const runners = 100_000
const jobsPerSecond = 1_000_000
/** One machine: one job at a time, 60 ms each, and as many waiting as make 3 s. At this load six of ten machines are busy. */
const serviceMs = 60
const capacity = 50
const warmUpMs = 500
const measuredMs = 1_000
const tickMs = 1

type Policy = { name: string; isolates: number; choices: 1 | 2; sees: 'nothing' | 'own answers' | 'everything' }

/** Plays a market of 100,000 machines at a million jobs a second. Each isolate knows of a machine's queue what the answers it carried told it and what it sent since; a full machine refuses and the job is placed again. Gives waits in milliseconds. */
function simulate({ isolates, choices, sees }: Policy) {
  const random = fractionsFrom(7)
  const queue = new Uint8Array(runners)
  const freeAt = new Float64Array(runners)
  const views = sees === 'own answers' ? new Uint8Array(isolates * runners) : null
  const horizon = (warmUpMs + measuredMs) / tickMs
  const wheel: { runner: number; isolate: number }[][] = Array.from(
    { length: horizon + (capacity + 1) * (serviceMs / tickMs) + 2 },
    () => [],
  )
  const waits = new Float64Array((measuredMs / 1_000) * jobsPerSecond)
  let measured = 0
  let refusals = 0
  const seen = (isolate: number, runner: number) =>
    views ? views[isolate * runners + runner]! : sees === 'everything' ? queue[runner]! : 0
  const choose = (isolate: number) => {
    const first = Math.floor(random() * runners)
    if (choices === 1) return first
    const second = Math.floor(random() * runners)
    return seen(isolate, second) < seen(isolate, first) ? second : first
  }
  const place = (isolate: number, now: number) => {
    let runner = choose(isolate)
    while (queue[runner]! >= capacity) {
      refusals++
      // The refusal carries the machine's load, as an answer does.
      if (views) views[isolate * runners + runner] = queue[runner]!
      runner = choose(isolate)
    }
    queue[runner] = queue[runner]! + 1
    if (views) views[isolate * runners + runner] = Math.min(255, views[isolate * runners + runner]! + 1)
    const start = Math.max(now, freeAt[runner]!)
    freeAt[runner] = start + serviceMs
    wheel[Math.ceil((start + serviceMs) / tickMs)]!.push({ runner, isolate })
    return start - now
  }
  for (let tick = 0; tick < horizon; tick++) {
    for (const { runner, isolate } of wheel[tick]!) {
      queue[runner] = queue[runner]! - 1
      if (views) views[isolate * runners + runner] = queue[runner]!
    }
    const now = tick * tickMs
    for (let job = 0; job < (jobsPerSecond * tickMs) / 1_000; job++) {
      const wait = place(Math.floor(random() * isolates), now + random() * tickMs)
      if (now >= warmUpMs) waits[measured++] = wait
    }
  }
  const sorted = waits.subarray(0, measured).sort()
  const mean = sorted.reduce((sum, wait) => sum + wait, 0) / measured
  return { mean, p99: sorted[Math.floor(measured * 0.99)]!, refusedShare: refusals / (measured + refusals) }
}

/** Simulates match and machines at the size the design is for: how much of the gain of two choices is left when an isolate knows only what its own answers told it, and how much when it asks the two. */
export async function run(): Promise<Row[]> {
  const policies: Policy[] = [
    { name: 'random choice', isolates: 1, choices: 1, sees: 'nothing' },
    {
      name: 'two choices, 1,000 isolates, each knowing its own answers',
      isolates: 1_000,
      choices: 2,
      sees: 'own answers',
    },
    { name: 'two choices, 100 isolates', isolates: 100, choices: 2, sees: 'own answers' },
    { name: 'two choices, 10 isolates', isolates: 10, choices: 2, sees: 'own answers' },
    { name: 'two choices, both asked, as match does', isolates: 1, choices: 2, sees: 'everything' },
  ]
  const rows: Row[] = []
  const baseline = { mean: 0, p99: 0 }
  for (const policy of policies) {
    const { mean, p99, refusedShare } = simulate(policy)
    if (rows.length === 0) Object.assign(baseline, { mean, p99 })
    const add = (figure: string, value: number, unit: string, base: number | null) =>
      rows.push({
        figure: `${policy.name}: ${figure}`,
        value,
        unit,
        baseline: base,
        ratio: base ? value / base : null,
        bar: null,
        met: null,
      })
    add('mean wait', mean, 'ms', baseline.mean)
    add('wait at the 99th percentile', p99, 'ms', baseline.p99)
    add('refused at capacity and placed again', refusedShare, 'share', null)
  }
  return rows
}
