import { FrameSplitter } from '../protocol/frameSplitter.ts'
import { decodeFrame, type JobAnswer, jobsType, joinFrames } from '../protocol/frames.ts'
import { type Edge, problemError } from './edge.ts'
import { EdgeError, VerificationError } from './errors.ts'

/** Most jobs of one request: of many asked at once, one part is on its way while another is worked on. */
const maxJobs = 16
/** Longest job that shares a request, in bytes: a larger one would hold up its neighbours. */
const maxSharedBytes = 64 * 1024
/** Answers of an edge that does not take several jobs at once, or not these. */
const takesOne = new Set([400, 404, 413, 415, 422])
/** How long an edge that refused several jobs is asked one by one, in milliseconds: it may have been replaced since, or have meant the jobs. */
const oneByOneMs = 60_000
/** How long an answer with nothing left to say is read, in milliseconds, so that its connection serves again. */
const lingerMs = 1_000
/** Longest time a timer can be set to, in milliseconds. */
const maxTimerMs = 2 ** 31 - 1

/** A job to be posted to a runner: its frame, the body of its match as JSON, and how long an answer is waited for. */
export type JobToPost = { runner: string; match: string; frame: Uint8Array; timeoutMs: number }

type Waiting = {
  job: JobToPost
  until: number
  resolve: (answer: JobAnswer) => void
  reject: (error: unknown) => void
}

/** Posts jobs to an edge. Those asked in one turn for the same runner and match share requests; each is answered by itself, with its own answer or none: what an answer says is for the receipt to prove. */
export class JobPost {
  readonly #edge: Edge
  readonly #elapsed: () => number
  readonly #gathering = new Map<string, Waiting[]>()
  #oneByOneUntil = Number.NEGATIVE_INFINITY

  /** `elapsed` tells milliseconds that only grow; the platform's own unless told. */
  constructor(edge: Edge, elapsed: () => number = () => performance.now()) {
    this.#edge = edge
    this.#elapsed = elapsed
  }

  /** Posts a job and gives its answer's frame, decoded. Throws EdgeError, and VerificationError where the edge answers a single job with something else. */
  post(job: JobToPost): Promise<JobAnswer> {
    const now = this.#elapsed()
    if (now < this.#oneByOneUntil || job.frame.length > maxSharedBytes) return this.#alone(job)
    const until = now + job.timeoutMs
    return new Promise((resolve, reject) => {
      this.#gather(`${job.runner} ${job.match}`).push({ job, until, resolve, reject })
    })
  }

  /** Gives the jobs that leave together at the end of this turn's continuations: those of one voucher go on one after the other. */
  #gather(key: string): Waiting[] {
    const gathered = this.#gathering.get(key)
    if (gathered) return gathered
    const jobs: Waiting[] = []
    this.#gathering.set(key, jobs)
    queueMicrotask(() => {
      this.#gathering.delete(key)
      for (let at = 0; at < jobs.length; at += maxJobs) this.#leave(jobs.slice(at, at + maxJobs))
    })
    return jobs
  }

  #leave(jobs: readonly Waiting[]): void {
    if (jobs.length > 1) void this.#share(jobs)
    else this.#separate(jobs)
  }

  /** Posts jobs one by one, each for as long as is left of its time. */
  #separate(jobs: readonly Waiting[]): void {
    for (const { job, until, resolve, reject } of jobs)
      this.#alone({ ...job, timeoutMs: Math.max(0, Math.ceil(until - this.#elapsed())) }).then(resolve, reject)
  }

  async #alone({ runner, match, frame, timeoutMs }: JobToPost): Promise<JobAnswer> {
    const headers = { 'assay-match': match }
    const bytes = await this.#edge.bytes(pathOf(runner), { method: 'POST', body: frame, headers, timeoutMs })
    const decoded = decodeFrame(bytes)
    if (decoded.type !== 'jobAnswer')
      throw new VerificationError('answer_form', 'The edge answered with something that is not a job answer.')
    return decoded
  }

  /** Posts several jobs in one request. */
  async #share(jobs: readonly Waiting[]): Promise<void> {
    const { runner, match } = jobs[0]!.job
    const leaving = new AbortController()
    const abort = () => leaving.abort()
    const asked = new AskedJobs(jobs, abort)
    let lingering: ReturnType<typeof setTimeout> | undefined
    try {
      const headers = { 'content-type': jobsType, 'assay-match': match }
      const init = { body: asked.body(), headers, signal: leaving.signal }
      const splitter = new FrameSplitter()
      for await (const chunk of await this.#edge.stream(pathOf(runner), init)) {
        for (const frame of splitter.push(chunk)) asked.tell(frame)
        if (asked.left === 0) lingering ??= setTimeout(abort, lingerMs)
      }
      splitter.end()
      if (asked.left > 0) throw new Error('The answer ended without this job.')
    } catch (error) {
      // Nothing more is read of an answer that went wrong.
      abort()
      if (error instanceof EdgeError && !asked.heard && takesOne.has(error.status)) {
        this.#oneByOneUntil = this.#elapsed() + oneByOneMs
        this.#separate(asked.take())
      } else {
        const shown = error instanceof EdgeError ? error : unanswered((error as Error).message)
        for (const { reject } of asked.take()) reject(shown)
      }
    } finally {
      clearTimeout(lingering)
    }
  }
}

/** Holds the jobs of one request until each is answered or its time is over; a job's ticket is its place. `forsaken` is called when the last one's time is over. */
class AskedJobs {
  readonly #jobs: readonly Waiting[]
  readonly #open: Map<number, Waiting>
  readonly #timers: ReturnType<typeof setTimeout>[]
  readonly #told = new Set<number>()

  constructor(jobs: readonly Waiting[], forsaken: () => void) {
    this.#jobs = jobs
    this.#open = new Map(jobs.entries())
    this.#timers = jobs.map(({ job: { timeoutMs } }, ticket) => {
      const late = () => {
        this.#close(ticket)?.reject(unanswered('No answer came in time.'))
        if (this.left === 0) forsaken()
      }
      return setTimeout(late, Math.min(timeoutMs, maxTimerMs))
    })
  }

  /** Counts the jobs that still wait. */
  get left(): number {
    return this.#open.size
  }

  /** Tells whether any job was answered. */
  get heard(): boolean {
    return this.#told.size > 0
  }

  /** Joins the jobs, each under its ticket. */
  body(): Uint8Array {
    return joinFrames(
      this.#jobs.map(({ job }) => job.frame),
      [...this.#jobs.keys()],
    )
  }

  /** Gives the job of a frame's ticket what the frame says. Throws where it says nothing to one that was asked and not answered yet. */
  tell(frame: Uint8Array): void {
    const decoded = decodeFrame(frame)
    if (decoded.type !== 'jobAnswer' && decoded.type !== 'problem') throw new Error('A frame of it is no answer.')
    const { ticket } = decoded
    if (ticket >= this.#jobs.length || this.#told.has(ticket))
      throw new Error('A frame of it is for no job that waits.')
    this.#told.add(ticket)
    // A job whose time is over does not listen any more.
    const waiting = this.#close(ticket)
    if (decoded.type === 'jobAnswer') waiting?.resolve(decoded)
    else waiting?.reject(problemError(decoded.problem, Number(decoded.problem.status ?? 0), 'The edge'))
  }

  /** Takes out the jobs that still wait. */
  take(): Waiting[] {
    return [...this.#open.keys()].map((ticket) => this.#close(ticket)!)
  }

  #close(ticket: number): Waiting | undefined {
    const waiting = this.#open.get(ticket)
    this.#open.delete(ticket)
    clearTimeout(this.#timers[ticket])
    return waiting
  }
}

const pathOf = (runner: string) => `/v1/runners/${runner}/jobs`

/** Words a job whose answer did not come: it may have run, and may be posted again. */
const unanswered = (why: string) =>
  new EdgeError('network', 0, 'The edge gave no answer to this job.', 'Is it up?', { cause: why })
