import { rowBytes } from '../../protocol/oip.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { ModelError, RunDeadlineError } from './errors.ts'
import { Share } from './share.ts'

/** Tells one job's outputs, or why it has none. */
export type RunResult = { outputs: Tensor[] } | { error: Error }

/** Holds one job waiting for the engine, with the tensors its buyer sent; `deadline` in milliseconds of the batcher's clock. */
export type QueuedRun<T> = { tag: T; feeds: Tensor[]; deadline: number }

type Finished<T> = { tag: T; result: RunResult }
type Begun<T> = { late: QueuedRun<T>[]; jobs: QueuedRun<T>[]; outcome: Promise<RunResult> }

/** Holds what a batcher needs: the engine, where results go, and how many rows a run may have. */
export type BatcherDeps<T> = {
  run: (feeds: Tensor[], deadlineMs: number) => Promise<Tensor[]>
  finish: (results: Finished<T>[]) => Promise<void>
  /** The numbers of rows that a run may have, ascending: those that were tried. None where jobs may not share a run, and each runs as its buyer sent it. */
  batchSizes: readonly number[]
  now: () => number
  /** How many runs may be under way at a time: one for each executor. As many again may be handed over ahead, full ones only: waiting makes no such run larger, and the executor has it when it is done with the one before. */
  parallel?: number
  /** Measures how long things take, in milliseconds; the process's own clock unless told. */
  elapsed?: () => number
}

/** Takes what is queued for a model and runs it, never waiting for more: a window would only add latency when the engine is the bottleneck. */
export class Batcher<T> {
  readonly #queue: QueuedRun<T>[] = []
  /** Rows of the jobs in the queue. */
  #rows = 0
  readonly #deps: BatcherDeps<T>
  readonly #parallel: number
  readonly #elapsed: () => number
  readonly #share = new Share()
  /** Rounds of runs: each has one under way, or deals with the answers of its last. */
  #lanes = 0
  /** Lanes that have not looked at the queue yet. */
  #starting = 0
  /** Runs handed over and not answered. */
  #running = 0
  /** Rows for each of the runs that start in this turn of the loop. */
  #portion: number | null = null

  constructor(deps: BatcherDeps<T>) {
    this.#deps = deps
    this.#parallel = deps.parallel ?? 1
    this.#elapsed = deps.elapsed ?? (() => performance.now())
  }

  get waiting(): number {
    return this.#queue.length
  }

  /** Queues a job. */
  push(job: QueuedRun<T>): void {
    this.#queue.push(job)
    this.#rows += rowsOf(job)
    this.#wake()
  }

  /** Starts another lane where there is something for it. */
  #wake(): void {
    // A lane that deals with the answers of its last run takes nothing meanwhile.
    if (this.#lanes < 2 * this.#parallel && this.#mayBegin(this.#starting)) void this.#drain()
  }

  async #drain(): Promise<void> {
    this.#lanes++
    this.#starting++
    // One turn of the loop lets a message's jobs arrive together; it adds no timer.
    await Promise.resolve()
    this.#starting--
    let finishing: Promise<void> = Promise.resolve()
    let begun = this.#begin(true)
    this.#wake()
    while (begun) {
      const { late, jobs, outcome } = begun
      const result = await outcome
      this.#running--
      // The engine has its next run while the answers of the last are dealt with; of those no more than one set waits.
      begun = this.#begin()
      for await (const results of this.#resultsOf(late, jobs, result)) {
        await finishing
        finishing = this.#deps.finish(results)
      }
      begun ??= this.#begin()
    }
    if (--this.#lanes === 0) this.#share.rests(this.#elapsed())
    await finishing
  }

  /** Tells whether a run may be handed over besides those about to be: one that an executor is free for, or one ahead that would not grow by waiting. */
  #mayBegin(starting = 0): boolean {
    if (this.#queue.length === 0) return false
    if (this.#running + starting < this.#parallel) return true
    return starting === 0 && this.#running < 2 * this.#parallel && this.#isFull()
  }

  /** Tells whether the jobs in front fill a run, or a half where halves are taken: neither is meant to grow. */
  #isFull(): boolean {
    const most = Math.min(this.#deps.batchSizes.at(-1) ?? 1, this.#share.half ?? Number.POSITIVE_INFINITY)
    const first = this.#queue[0]!
    let rows = rowsOf(first)
    if (rows >= most || !canLead(first.feeds)) return true
    // Asked at each push: the queue is looked through only where it holds enough.
    if (this.#rows < most) return false
    for (let at = 1; at < this.#queue.length && rows < most; at++) {
      const next = this.#queue[at]!
      if (!canFollow(first.feeds, next.feeds)) return false
      rows += rowsOf(next)
    }
    return rows >= most
  }

  /** Takes jobs from the queue and starts their run; null when there are none, or none that may begin. */
  #begin(first = false): Begun<T> | null {
    if (!this.#mayBegin()) return null
    const { now } = this.#deps
    const most = this.#deps.batchSizes.at(-1) ?? 1
    const ahead = this.#running >= this.#parallel
    const plan = first && !ahead ? this.#plan(most) : { rows: this.#next(most), trial: false }
    const group = this.#take(Math.min(most, plan.rows))
    for (const job of group) this.#rows -= rowsOf(job)
    this.#running++
    // Started late, a run would only be killed at once, and the process with it.
    const late = group.filter(({ deadline }) => deadline <= now())
    const jobs = late.length > 0 ? group.filter((job) => !late.includes(job)) : group
    const start = async (): Promise<Tensor[]> => {
      if (jobs.length === 0) return []
      if (jobs.length === 1) return this.#runAlone(jobs[0]!)
      const latest = jobs.reduce((most, { deadline }) => Math.max(most, deadline), 0)
      const feeds = joinFeeds(jobs.map((job) => job.feeds))
      return plan.trial ? this.#runInHalves(feeds, latest) : this.#run(feeds, latest - now())
    }
    const outcome = start().then(
      (outputs) => ({ outputs }),
      (error: Error) => ({ error }),
    )
    return { late, jobs, outcome }
  }

  async #run(feeds: Tensor[], deadlineMs: number): Promise<Tensor[]> {
    const { run } = this.#deps
    // Handed over ahead, a run takes its own time and some of another's, which says nothing about its size.
    if (this.#running > this.#parallel) return run(feeds, deadlineMs)
    const started = this.#elapsed()
    const outputs = await run(feeds, deadlineMs)
    this.#share.ran(rowsOf({ feeds }), this.#elapsed() - started)
    return outputs
  }

  /** Runs feeds in two halves, one after the other, where both are of a size that was tried. */
  async #runInHalves(feeds: Tensor[], latest: number): Promise<Tensor[]> {
    const { batchSizes, now } = this.#deps
    const rows = rowsOf({ feeds })
    const first = Math.ceil(rows / 2)
    if (rows < 2 || !batchSizes.includes(first) || !batchSizes.includes(rows - first))
      return this.#run(feeds, latest - now())
    const halves: Tensor[][] = []
    for (const [at, size] of [
      [0, first],
      [first, rows - first],
    ] as const) {
      const left = latest - now()
      if (left <= 0) throw new RunDeadlineError(`The deadline passed after ${at} of ${rows} rows.`)
      const outputs = await this.#run(sliceRows(feeds, at, size), left)
      if (!areRows(outputs, size)) throw new ModelError('An output does not follow the rows.')
      halves.push(outputs)
    }
    return joinFeeds(halves)
  }

  /** Gives the most rows of a run that follows another. */
  #next(most: number): number {
    return this.#share.half !== null ? this.#share.next(this.#rows, this.#parallel) : most
  }

  /** Plans the runs that lanes start in this turn of the loop: where they can take all that waits, they share it. */
  #plan(most: number): { rows: number; trial: boolean } {
    if (this.#portion !== null) return { rows: this.#portion, trial: false }
    const lanes = this.#parallel - this.#running
    const rows = this.#rows
    const resting = this.#running === 0
    const plan =
      rows > most * lanes
        ? { rows: most, trial: false }
        : this.#share.plan({ rows, lanes, resting, at: this.#elapsed() })
    this.#portion = plan.rows
    // Lanes that start now were woken before this, so they come first.
    queueMicrotask(() => {
      this.#portion = null
    })
    return plan
  }

  /** Takes the oldest job, and with it as many that can share its run as a size that was tried allows, at most `most` rows unless it has more. */
  #take(most: number): QueuedRun<T>[] {
    const { batchSizes } = this.#deps
    const queue = this.#queue
    const first = queue[0]!
    let rows = rowsOf(first)
    const places = [0]
    if (rows < most && canLead(first.feeds)) {
      const end = Math.min(queue.length, lookAhead)
      for (let at = 1; at < end && rows < most; at++) {
        const next = queue[at]!
        const more = rowsOf(next)
        if (rows + more > most || !canFollow(first.feeds, next.feeds)) continue
        places.push(at)
        rows += more
      }
      while (places.length > 1 && !batchSizes.includes(rows)) rows -= rowsOf(queue[places.pop()!]!)
    }
    // Nearly always those in front.
    if (places.at(-1) === places.length - 1) return queue.splice(0, places.length)
    const group = places.map((at) => queue[at]!)
    const taken = new Set(places)
    queue.splice(0, queue.length, ...queue.filter((_, at) => !taken.has(at)))
    return group
  }

  /** Gives each job its result, as they come: when a shared run failed, each job runs again by itself. */
  async *#resultsOf(
    late: readonly QueuedRun<T>[],
    jobs: readonly QueuedRun<T>[],
    outcome: RunResult,
  ): AsyncGenerator<Finished<T>[]> {
    const { now } = this.#deps
    if (late.length > 0) yield late.map((job) => lateResult(job))
    if (jobs.length === 1) yield [{ tag: jobs[0]!.tag, result: outcome }]
    if (jobs.length <= 1) return
    const parts = 'outputs' in outcome ? split(outcome.outputs, jobs) : null
    if (parts) {
      // A neighbour's deadline may have been longer.
      yield jobs.map((job, index) =>
        job.deadline < now() ? lateResult(job) : { tag: job.tag, result: { outputs: parts[index]! } },
      )
      return
    }
    // One bad row must not cost its neighbours their answer.
    for (const job of jobs) {
      try {
        if (job.deadline <= now()) yield [lateResult(job)]
        else yield [{ tag: job.tag, result: { outputs: await this.#runAlone(job) } }]
      } catch (error) {
        yield [{ tag: job.tag, result: { error: error as Error } }]
      }
    }
  }

  /** Runs a job by itself, in parts where it has a number of rows that was not tried: what is promised of its bits holds for those that were. */
  async #runAlone({ feeds, deadline }: QueuedRun<T>): Promise<Tensor[]> {
    const { batchSizes, now } = this.#deps
    const rows = rowsOf({ feeds })
    if (batchSizes.length === 0 || batchSizes.includes(rows) || !canLead(feeds))
      return this.#run(feeds, deadline - now())
    const parts: Tensor[][] = []
    for (let at = 0; at < rows; ) {
      const size = batchSizes.findLast((most) => most <= rows - at)!
      const left = deadline - now()
      if (left <= 0) throw new RunDeadlineError(`The deadline passed after ${at} of ${rows} rows.`)
      const outputs = await this.#run(sliceRows(feeds, at, size), left)
      if (!areRows(outputs, size)) throw new ModelError('An output does not follow the rows.')
      parts.push(outputs)
      at += size
    }
    return joinFeeds(parts)
  }
}

const lateResult = <T>({ tag }: QueuedRun<T>): Finished<T> => ({
  tag,
  result: { error: new RunDeadlineError('The deadline passed before the job was done.') },
})

/** Makes a tensor like another but for its rows. */
const withRows = ({ name, datatype, shape }: Tensor, rows: number, data: Uint8Array): Tensor => ({
  name,
  datatype,
  shape: [rows, ...shape.slice(1)],
  data,
})

/** Takes some of the rows of feeds. */
function sliceRows(feeds: readonly Tensor[], at: number, rows: number): Tensor[] {
  return feeds.map((tensor) => {
    const size = rowBytes(tensor)!
    const data = tensor.data.subarray(at * size, (at + rows) * size)
    return withRows(tensor, rows, data)
  })
}

/** How far down the queue jobs are looked for that can join: past it, looking takes longer than it saves. */
const lookAhead = 1_024

const rowsOf = ({ feeds }: { feeds: readonly Tensor[] }) => feeds[0]?.shape[0] ?? 1

/** Tells whether outputs are rows that others can be put after, as many as were asked for. */
const areRows = (outputs: readonly Tensor[], rows: number) =>
  outputs.every((tensor) => tensor.shape[0] === rows && rowBytes(tensor) !== null)

/** Tells whether feeds have rows that others can be put after: one number of them in the first dimension of each. */
function canLead(feeds: readonly Tensor[]): boolean {
  const rows = feeds[0]?.shape[0]
  return !!rows && feeds.every((tensor) => tensor.shape[0] === rows && rowBytes(tensor) !== null)
}

/** Tells whether feeds can be put after others, tensor by tensor. */
function canFollow(first: readonly Tensor[], next: readonly Tensor[]): boolean {
  const rows = next[0]?.shape[0]
  if (!rows || next.length !== first.length) return false
  return first.every((tensor, index) => {
    const other = namesake(next, tensor, index)
    if (other?.datatype !== tensor.datatype || other.shape.length !== tensor.shape.length || other.shape[0] !== rows)
      return false
    for (let axis = 1; axis < tensor.shape.length; axis++) if (other.shape[axis] !== tensor.shape[axis]) return false
    return true
  })
}

/** Finds the tensor of the same name, which mostly has the same place. */
function namesake(feeds: readonly Tensor[], { name }: Tensor, index: number): Tensor | undefined {
  return feeds[index]?.name === name ? feeds[index] : feeds.find((tensor) => tensor.name === name)
}

/** Joins feeds that can follow the first along the first dimension. */
export function joinFeeds(sets: readonly (readonly Tensor[])[]): Tensor[] {
  return sets[0]!.map((tensor, index) => {
    const same = sets.map((set) => namesake(set, tensor, index)!)
    let rows = 0
    let length = 0
    for (const { shape, data } of same) {
      rows += shape[0]!
      length += data.length
    }
    const joined = new Uint8Array(length)
    let at = 0
    for (const { data } of same) {
      joined.set(data, at)
      at += data.length
    }
    return withRows(tensor, rows, joined)
  })
}

/** Gives each job its rows of the outputs; null when an output does not follow the rows. */
function split<T>(outputs: readonly Tensor[], jobs: readonly QueuedRun<T>[]): Tensor[][] | null {
  const total = jobs.reduce((sum, job) => sum + rowsOf(job), 0)
  if (!areRows(outputs, total)) return null
  // Most jobs have one row: those share a shape.
  const kinds = outputs.map((tensor) => {
    const tail = tensor.shape.slice(1)
    return { ...tensor, tail, single: [1, ...tail], size: rowBytes(tensor)! }
  })
  let row = 0
  return jobs.map((job) => {
    const rows = rowsOf(job)
    const part = kinds.map(({ name, datatype, tail, single, size, data }) => {
      const own = data.subarray(row * size, (row + rows) * size)
      return { name, datatype, shape: rows === 1 ? single : [rows, ...tail], data: own }
    })
    row += rows
    return part
  })
}
