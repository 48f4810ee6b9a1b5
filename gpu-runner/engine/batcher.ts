import { concat } from '../../protocol/bytes.ts'
import { rowBytes } from '../../protocol/oip.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { RunDeadlineError } from './errors.ts'

/** Tells one job's outputs, or why it has none. */
export type RunResult = { outputs: Tensor[] } | { error: Error }

/** Holds one job waiting for the engine, with the tensors its buyer sent; `deadline` in milliseconds of the batcher's clock. */
export type QueuedRun<T> = { tag: T; feeds: Tensor[]; deadline: number }

/** Holds what a batcher needs: the engine, where results go, and how many rows a run may have. */
export type BatcherDeps<T> = {
  run: (feeds: Tensor[], deadlineMs: number) => Promise<Tensor[]>
  finish: (results: { tag: T; result: RunResult }[]) => Promise<void>
  /** The numbers of rows at which jobs may share a run, ascending: those that admission tried. Only 1 where they may not. */
  batchSizes: readonly number[]
  now: () => number
  /** How many runs may be under way at a time: one for each executor. */
  parallel?: number
}

/** Takes what is queued for a model and runs it, never waiting for more: a window would only add latency when the engine is the bottleneck. */
export class Batcher<T> {
  readonly #queue: QueuedRun<T>[] = []
  readonly #deps: BatcherDeps<T>
  #lanes = 0

  constructor(deps: BatcherDeps<T>) {
    this.#deps = deps
  }

  get waiting(): number {
    return this.#queue.length
  }

  /** Queues a job. */
  push(job: QueuedRun<T>): void {
    this.#queue.push(job)
    if (this.#lanes < (this.#deps.parallel ?? 1)) void this.#drain()
  }

  async #drain(): Promise<void> {
    this.#lanes++
    // One turn of the loop lets a message's jobs arrive together; it adds no timer.
    await Promise.resolve()
    // The next run begins while the last one's answers are signed and written down, but no more than one set of them waits.
    let finishing: Promise<void> = Promise.resolve()
    while (this.#queue.length > 0) {
      const group = this.#take()
      const results = await this.#runGroup(group)
      await finishing
      finishing = this.#deps.finish(results)
    }
    this.#lanes--
    await finishing
  }

  /** Takes the oldest job, and with it as many that can share its run as a size that was tried allows. */
  #take(): QueuedRun<T>[] {
    const { batchSizes } = this.#deps
    const first = this.#queue.shift()!
    const most = batchSizes.at(-1) ?? 1
    let rows = rowsOf(first)
    const shape = rows < most ? joinKey(first.feeds) : null
    if (shape === null) return [first]
    const group = [first]
    const places: number[] = []
    for (let at = 0; at < this.#queue.length && rows < most; at++) {
      const next = this.#queue[at]!
      if (rows + rowsOf(next) > most || joinKey(next.feeds) !== shape) continue
      places.push(at)
      group.push(next)
      rows += rowsOf(next)
    }
    while (group.length > 1 && !batchSizes.includes(rows)) {
      rows -= rowsOf(group.pop()!)
      places.pop()
    }
    const taken = new Set(places)
    if (taken.size > 0) this.#queue.splice(0, this.#queue.length, ...this.#queue.filter((_, at) => !taken.has(at)))
    return group
  }

  async #runGroup(group: QueuedRun<T>[]): Promise<{ tag: T; result: RunResult }[]> {
    const { run, now } = this.#deps
    const budget = (jobs: QueuedRun<T>[]) => Math.max(...jobs.map((job) => job.deadline)) - now()
    if (group.length > 1 && budget(group) > 0) {
      try {
        const together = await run(joinFeeds(group.map((job) => job.feeds)), budget(group))
        const outputs = split(together, group)
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

const rowsOf = ({ feeds }: { feeds: readonly Tensor[] }) => feeds[0]?.shape[0] ?? 1

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
  const total = group.reduce((sum, job) => sum + rowsOf(job), 0)
  let row = 0
  return group.map((job) => {
    const rows = rowsOf(job)
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
