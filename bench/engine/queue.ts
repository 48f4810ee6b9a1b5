import { createRandom } from '../../dev/sample/glyphs.ts'
import type { BatcherDeps } from '../../gpu-runner/engine/batcher.ts'
import type { Tensor } from '../../protocol/tensors.ts'

/** What a policy is given: an engine and a clock that are simulated, and where results go. */
export type PolicyDeps = Pick<BatcherDeps<number>, 'run' | 'finish' | 'now'> & {
  /** Calls back at a time of the simulated clock, in milliseconds. */
  at: (time: number, act: () => void) => void
}
/** Takes jobs and runs them as it sees fit; the tag is when a job arrived. */
export type Policy = { push(job: { tag: number; feeds: Tensor[]; deadline: number }): void }

const row: Tensor = { name: 'x', datatype: 'FP32', shape: [1, 1], data: new Uint8Array(4) }

/** Simulates one engine and arrivals at random (Poisson), and gives the 99th percentile of the time to an answer in milliseconds. The policy is real code on a simulated clock; `serviceMs` says how long the engine takes for as many rows. */
export async function tailLatency(
  open: (deps: PolicyDeps) => Policy,
  load: { perSecond: number; seconds: number; seed: number; serviceMs: (rows: number) => number },
): Promise<number> {
  const random = createRandom(load.seed)
  const latencies: number[] = []
  const events: { time: number; act: () => void }[] = []
  let now = 0
  let freeAt = 0
  const at = (time: number, act: () => void) => {
    let place = events.length
    while (place > 0 && events[place - 1]!.time < time) place--
    events.splice(place, 0, { time, act })
  }
  const policy = open({
    at,
    now: () => now,
    // What is handed over ahead begins when the run before it has ended.
    run: (feeds) => {
      freeAt = Math.max(now, freeAt) + load.serviceMs(feeds[0]!.shape[0]!)
      return new Promise((resolve) => at(freeAt, () => resolve(feeds)))
    },
    finish: async (results) => {
      for (const { tag } of results) latencies.push(now - tag)
    },
  })
  const gap = () => (-Math.log(1 - random()) * 1_000) / load.perSecond
  let arrival = gap()
  const end = load.seconds * 1_000
  while (arrival < end || events.length > 0) {
    const next = events.at(-1)
    if (arrival < end && (!next || arrival <= next.time)) {
      now = arrival
      policy.push({ tag: now, feeds: [row], deadline: Number.POSITIVE_INFINITY })
      arrival += gap()
    } else {
      now = next!.time
      events.pop()!.act()
    }
    // Promises of the policy settle before the clock moves on.
    await new Promise((resolve) => setImmediate(resolve))
  }
  return latencies.sort((a, b) => a - b)[Math.floor(latencies.length * 0.99)]!
}

/** Waits until as many jobs are there as a run may have or the first has waited for so long: what most servers offer. */
export function windowBatcher({
  run,
  finish,
  now,
  at,
  maxBatch,
  windowMs,
}: PolicyDeps & { maxBatch: number; windowMs: number }): Policy {
  const queue: number[] = []
  let busy = false
  let due = false
  const start = async () => {
    if (busy || queue.length === 0 || (queue.length < maxBatch && !due)) return
    busy = true
    due = false
    const group = queue.splice(0, maxBatch)
    if (queue.length > 0) arm(queue[0]!)
    const outputs = await run([{ ...row, shape: [group.length, 1] }], Number.POSITIVE_INFINITY)
    await finish(group.map((tag) => ({ tag, result: { outputs } })))
    busy = false
    await start()
  }
  const arm = (since: number) =>
    at(Math.max(now(), since + windowMs), () => {
      if (queue.length === 0 || queue[0]! > since) return
      due = true
      void start()
    })
  return {
    push({ tag }) {
      queue.push(tag)
      if (queue.length === 1) arm(tag)
      void start()
    },
  }
}
