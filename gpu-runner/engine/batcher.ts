import { concat } from '../../protocol/bytes.ts'
import { rowBytes } from '../../protocol/oip.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { RunDeadlineError } from './executor.ts'

/** Tells one job's outputs, or why it has none. */
export type RunResult = { outputs: Tensor[] } | { error: Error }

/** Holds one job waiting for the engine; `deadline` in milliseconds of the batcher's clock. */
export type QueuedRun<T> = { tag: T; feeds: Tensor[]; deadline: number }

/** Holds what a batcher needs: the engine, where results go, and whether jobs may share a run. */
export type BatcherDeps<T> = {
  run: (feeds: Tensor[], deadlineMs: number) => Promise<Tensor[]>
  finish: (results: { tag: T; result: RunResult }[]) => Promise<void>
  joinable: boolean
  maxBatch: number
  now: () => number
}

/** Takes what is queued for a model and runs it, never waiting for more: a window would only add latency when the engine is the bottleneck. */
export class Batcher<T> {
  readonly #queue: QueuedRun<T>[] = []
  readonly #deps: BatcherDeps<T>
  #running = false

  constructor(deps: BatcherDeps<T>) {
    this.#deps = deps
  }

  get waiting(): number {
    return this.#queue.length
  }

  /** Queues a job. */
  push(job: QueuedRun<T>): void {
    this.#queue.push(job)
    if (!this.#running) void this.#drain()
  }

  async #drain(): Promise<void> {
    this.#running = true
    // One turn of the loop lets a message's jobs arrive together; it adds no timer.
    await Promise.resolve()
    while (this.#queue.length > 0) {
      const group = this.#take()
      const results = await this.#runGroup(group)
      await this.#deps.finish(results)
    }
    this.#running = false
  }

  #take(): QueuedRun<T>[] {
    if (!this.#deps.joinable) return [this.#queue.shift()!]
    const first = this.#queue.shift()!
    const shape = joinKey(first.feeds)
    const group = [first]
    let rows = first.feeds[0]?.shape[0] ?? 1
    for (let i = 0; i < this.#queue.length && rows < this.#deps.maxBatch; ) {
      const next = this.#queue[i]!
      const nextRows = next.feeds[0]?.shape[0] ?? 1
      if (shape === null || joinKey(next.feeds) !== shape || rows + nextRows > this.#deps.maxBatch) {
        i++
        continue
      }
      this.#queue.splice(i, 1)
      group.push(next)
      rows += nextRows
    }
    return group
  }

  async #runGroup(group: QueuedRun<T>[]): Promise<{ tag: T; result: RunResult }[]> {
    const { run, now } = this.#deps
    const budget = (jobs: QueuedRun<T>[]) => Math.max(...jobs.map((job) => job.deadline)) - now()
    if (group.length > 1 && budget(group) > 0) {
      try {
        const outputs = split(await run(joinFeeds(group.map((job) => job.feeds)), budget(group)), group)
        return group.map((job, index) => ({ tag: job.tag, result: { outputs: outputs[index]! } }))
      } catch {
        // One bad row must not cost its neighbours their answer: each runs again by itself.
      }
    }
    const results: { tag: T; result: RunResult }[] = []
    for (const job of group) {
      // Started late, it would only be killed at once, and the process with it.
      if (budget([job]) <= 0) {
        results.push({ tag: job.tag, result: { error: new RunDeadlineError('The deadline passed in the queue.') } })
        continue
      }
      try {
        results.push({ tag: job.tag, result: { outputs: await run(job.feeds, budget([job])) } })
      } catch (error) {
        results.push({ tag: job.tag, result: { error: error as Error } })
      }
    }
    return results
  }
}

/** Names what must be equal for two sets of feeds to be joined along the first dimension; null when they cannot be. */
export function joinKey(feeds: readonly Tensor[]): string | null {
  const rows = feeds[0]?.shape[0]
  if (!rows) return null
  const parts = feeds.map((tensor) => {
    if (tensor.shape[0] !== rows || rowBytes(tensor) === null) return null
    return `${tensor.name}:${tensor.datatype}:${tensor.shape.slice(1).join('x')}`
  })
  return parts.includes(null) ? null : parts.sort().join('|')
}

/** Joins feeds of equal key along the first dimension. */
export function joinFeeds(sets: readonly (readonly Tensor[])[]): Tensor[] {
  return sets[0]!.map((tensor) => {
    const same = sets.map((set) => set.find(({ name }) => name === tensor.name)!)
    const rows = same.reduce((sum, { shape }) => sum + shape[0]!, 0)
    return { ...tensor, shape: [rows, ...tensor.shape.slice(1)], data: concat(...same.map(({ data }) => data)) }
  })
}

function split<T>(outputs: Tensor[], group: readonly QueuedRun<T>[]): Tensor[][] {
  const rowCounts = group.map((job) => job.feeds[0]!.shape[0]!)
  const total = rowCounts.reduce((a, b) => a + b, 0)
  let row = 0
  return rowCounts.map((rows) => {
    const part = outputs.map((tensor) => {
      const size = rowBytes(tensor)
      if (tensor.shape[0] !== total || size === null) throw new Error('An output does not follow the batch.')
      return {
        ...tensor,
        shape: [rows, ...tensor.shape.slice(1)],
        data: tensor.data.subarray(row * size, (row + rows) * size),
      }
    })
    row += rows
    return part
  })
}
