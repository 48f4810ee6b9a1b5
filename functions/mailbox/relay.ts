import { equalBytes, toHex } from '../../protocol/bytes.ts'
import {
  decodeFrame,
  encodeCancel,
  type Frame,
  type Hello,
  type JobAnswer,
  type JobRequest,
  joinFrames,
  type Load,
  setDeadline,
  setTicket,
} from '../../protocol/frames.ts'
import { RenewedMap } from '../../protocol/renewedMap.ts'
import { AssayError } from '../errors.ts'
import { AnswerCache } from './answerCache.ts'

/** Longest a buyer may wait on the line for one job, in milliseconds. */
const maxDeadlineMs = 120_000
/** How long jobs wait for a runner whose connection was lost, in milliseconds. */
const reconnectMs = 10_000
/** How often deadlines are looked at, in milliseconds. */
const sweepMs = 100
/** Messages on their way without a word back before jobs are gathered instead of sent at once. */
const maxUnanswered = 2
/** Longest a job is gathered, in milliseconds: bounds what batching may cost when the runner is slow to speak. */
const gatherMs = 2
/** Jobs that leave at once however many messages are on their way. */
const fullBatch = 64
const maxBatchJobs = 256
/** Jobs remembered as given up: a runner that never says what became of them must not fill the memory. */
const maxGivenUp = 4_096
const maxBatchBytes = 8 * 1024 * 1024
/** Most bytes of jobs held for a runner: an object has 128 MiB in all. */
const maxHeldBytes = 48 * 1024 * 1024

/** What is remembered of a request beside its body. */
export type Asked = Omit<JobRequest, 'ticket' | 'body' | 'context' | 'deadlineMs'>

/** What a relay needs: a way to the runner, the clock in milliseconds, timers, where tickets start, and who is told of answers. */
export type RelayDeps = {
  send: (message: Uint8Array<ArrayBuffer>) => void
  now: () => number
  after: (ms: number, run: () => void) => void
  firstTicket: number
  answered: (answer: JobAnswer, request: Asked) => void
  /** Told that a job nobody waits for any more did not run, and will not. */
  released?: (job: Pick<JobRequest, 'channel' | 'job'>) => void
}

/** Configures one job: how long it may take at most, who is told when it leaves for the runner, whether it is still wanted, and what its bytes say where that is known already. */
export type SubmitOptions = { maxMs?: number; onSent?: () => void; isWanted?: () => boolean; decoded?: Frame }

type Job = {
  key: string
  ticket: number
  request: JobRequest
  bytes: Uint8Array
  deadline: number
  /** Whether the runner may have it. */
  sent: boolean
  /** Whether it is on the wire of the present connection. */
  onWire: boolean
  onSent: (() => void) | undefined
  promise: Promise<Uint8Array>
  resolve: (frame: Uint8Array) => void
  reject: (error: AssayError) => void
}

const keyOf = ({ channel, job }: Pick<JobRequest, 'channel' | 'job'>) => `${toHex(channel)}:${job}`
/** Copies what is remembered: a view would hold the whole request. */
const askedOf = ({ channel, job, opening, voucher }: JobRequest): Asked => ({
  channel: channel.slice(),
  job,
  ...(opening ? { opening: { ...opening, enc: opening.enc.slice() } } : {}),
  ...(voucher ? { voucher: { ...voucher, signature: voucher.signature.slice() } } : {}),
})
const jobError = (code: ConstructorParameters<typeof AssayError>[0], detail: string, accepted: boolean, hint: string) =>
  new AssayError(code, detail, { hint, extra: { accepted } })
const retryHint = 'Retry the same job number with the same body: it is charged once at most.'
const moveHint = 'The runner never had it: seal it to another.'
const cancelled = () =>
  jobError('cancelled', 'The job was cancelled; nothing was charged.', false, 'Ask again with a new job number.')
const unreachable = (accepted: boolean) =>
  jobError('runner_unreachable', 'The runner is not connected.', accepted, accepted ? retryHint : moveHint)

/** Hands jobs to one runner in batches, within the credit it gives, and each answer to the buyer who waits. Outlives connections: what was on the wire when one broke is sent again on the next, and the runner answers a repeated job from its journal. */
export class Relay {
  readonly #deps: RelayDeps
  readonly #byTicket = new RenewedMap<number, Job>()
  readonly #byKey = new RenewedMap<string, Job>()
  readonly #answers = new AnswerCache()
  #queue: Job[] = []
  #onWire = 0
  /** Jobs given up by their tickets, until the runner says what became of them. */
  readonly #givenUp = new RenewedMap<number, Asked>()
  #heldBytes = 0
  #nextTicket: number
  #connected = false
  #ready = false
  #lostAt = Number.NEGATIVE_INFINITY
  #unanswered = 0
  readonly #flushing = new Set<number>()
  #sweeping = false
  #queued = 0
  #capacity = 1_024
  #credit = 1_024

  constructor(deps: RelayDeps) {
    this.#deps = deps
    this.#nextTicket = deps.firstTicket >>> 0
  }

  /** Tells how many jobs the runner has before it, and how many it takes at once. */
  get load(): Load {
    return { queued: Math.max(this.#queued, this.#byTicket.size), capacity: this.#capacity }
  }

  /** Tells whether the runner can be handed jobs now. */
  get connected(): boolean {
    return this.#connected
  }

  /** Gives what has to be remembered while the relay sleeps, or null before the runner introduced itself. */
  get terms(): { capacity: number; credit: number } | null {
    return this.#ready ? { capacity: this.#capacity, credit: this.#credit } : null
  }

  /** Notes a new connection; nothing is sent on it before the runner introduces itself. */
  opened(): void {
    this.#drop()
    this.#connected = true
  }

  /** Notes that the connection is gone. Jobs the runner may have wait for the next one; the others are free to go elsewhere at once. */
  lost(): void {
    this.#drop()
    this.#lostAt = this.#deps.now()
    for (const job of this.#byTicket.values()) if (!job.sent) this.#fail(job, unreachable(false))
  }

  /** Takes up a connection that was introduced before the relay slept. */
  resumed(terms: { capacity: number; credit: number }): void {
    this.#connected = true
    this.hello(terms)
  }

  #drop(): void {
    this.#connected = false
    this.#ready = false
    this.#unanswered = 0
    // A runner answers on the socket it was asked on, or not at all.
    this.#givenUp.clear()
    const again = this.#byTicket.values().filter(({ onWire }) => onWire)
    for (const job of again) job.onWire = false
    this.#onWire = 0
    this.#queue = [...again, ...this.#queue]
  }

  /** Takes a runner's introduction: from here on it is sent jobs. */
  hello({ capacity, credit = capacity }: Pick<Hello, 'capacity' | 'credit'>): void {
    this.#ready = true
    this.#capacity = capacity
    this.#credit = credit
    this.#flushSoon(0)
  }

  /** Takes a runner's word about its load. */
  noteLoad({ queued, capacity }: Load): void {
    this.#queued = queued
    this.#capacity = capacity
  }

  /** Tells whether a job, named by channel and number, is under way or was answered lately: asked again, it costs nothing. */
  remembers(key: string): boolean {
    return this.#byKey.has(key) || this.#answers.has(key)
  }

  /** Takes a job and gives its answer's frame, or the runner's refusal. The same job with the same body joins the one under way or gets the answer it had. Throws AssayError, whose `accepted` says whether the runner may have the job. */
  submit(bytes: Uint8Array, options: SubmitOptions = {}): Promise<Uint8Array> {
    const request = options.decoded ?? decodeFrame(bytes)
    if (request.type !== 'jobRequest') throw new AssayError('bad_frame', 'Only job requests are posted here.')
    const key = keyOf(request)
    const conflict = () =>
      new AssayError('job_conflict', `Job ${request.job} was asked with another body.`, {
        hint: 'Take a new job number.',
        extra: { accepted: false },
      })
    const underWay = this.#byKey.get(key)
    if (underWay) {
      if (!equalBytes(underWay.request.body, request.body)) throw conflict()
      return underWay.promise
    }
    const known = this.#answers.find(key, request.body)
    if (known === 'other') throw conflict()
    if (known) return Promise.resolve(known)
    if (options.isWanted?.() === false) throw cancelled()
    this.#admit(bytes)
    return this.#enqueue(key, request, bytes, options)
  }

  #admit(bytes: Uint8Array): void {
    if (!this.#connected) throw unreachable(false)
    if (this.#byTicket.size >= this.#capacity)
      throw jobError('at_capacity', `The runner has the ${this.#capacity} jobs it takes.`, false, moveHint)
    if (this.#heldBytes + bytes.length > maxHeldBytes)
      throw jobError('at_capacity', 'The jobs waiting for this runner are too large in all.', false, moveHint)
  }

  #enqueue(
    key: string,
    request: JobRequest,
    bytes: Uint8Array,
    { maxMs = maxDeadlineMs, onSent }: SubmitOptions,
  ): Promise<Uint8Array> {
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
    const deadline = this.#deps.now() + Math.min(Math.max(request.deadlineMs, 1), maxMs)
    const ticket = this.#takeTicket()
    setTicket(bytes, ticket)
    const state = { sent: false, onWire: false }
    const job: Job = { key, ticket, request, bytes, deadline, onSent, promise, resolve, reject, ...state }
    this.#byTicket.set(ticket, job)
    this.#byKey.set(key, job)
    this.#heldBytes += bytes.length
    this.#queue.push(job)
    if (this.#unanswered < maxUnanswered || this.#queue.length >= fullBatch) this.#flushSoon(0)
    else this.#flushSoon(gatherMs)
    this.#sweepSoon()
    return promise
  }

  #takeTicket(): number {
    do this.#nextTicket = (this.#nextTicket + 1) >>> 0 || 1
    while (this.#byTicket.has(this.#nextTicket) || this.#givenUp.has(this.#nextTicket))
    return this.#nextTicket
  }

  /** Cancels a job: one the runner never had ends at once, of another the runner is asked to let go, and says whether it could. Tells which; `unknown` where nobody can be asked. */
  cancel(channel: string, job: bigint): 'ended' | 'asked' | 'unknown' {
    const waiting = this.#byKey.get(`${channel}:${job}`)
    if (!waiting) return 'unknown'
    if (!waiting.sent) {
      this.#fail(waiting, cancelled())
      return 'ended'
    }
    if (!waiting.onWire) return 'unknown'
    this.#deps.send(joinFrames([encodeCancel(waiting.request)]))
    return 'asked'
  }

  /** Sends what waits: in a moment, so that jobs of one turn leave in one message, or after gathering a little. */
  #flushSoon(ms: typeof gatherMs | 0): void {
    if (this.#flushing.has(ms)) return
    this.#flushing.add(ms)
    this.#deps.after(ms, () => {
      this.#flushing.delete(ms)
      this.#flush()
    })
  }

  #flush(): void {
    if (!this.#ready) return
    while (this.#queue.length > 0 && this.#onWire < this.#credit) {
      const batch: Uint8Array[] = []
      let size = 0
      while (this.#queue.length > batch.length && batch.length < maxBatchJobs && this.#onWire < this.#credit) {
        const job = this.#queue[batch.length]!
        if (batch.length > 0 && size + job.bytes.length > maxBatchBytes) break
        setDeadline(job.bytes, Math.max(1, job.deadline - this.#deps.now()))
        if (!job.sent) job.onSent?.()
        job.sent = true
        job.onWire = true
        this.#onWire++
        size += job.bytes.length
        batch.push(job.bytes)
      }
      this.#queue.splice(0, batch.length)
      this.#unanswered++
      this.#deps.send(joinFrames(batch))
    }
  }

  /** Notes that the runner spoke, which gives back the right to send. */
  spoke(): void {
    this.#unanswered = 0
    if (this.#queue.length > 0) this.#flushSoon(0)
  }

  /** Takes an answer or refusal and gives it to who waits. Throws AssayError when it answers another job than was asked. */
  settle(frame: Uint8Array, decoded: JobAnswer | { ticket: number }): void {
    const job = this.#byTicket.get(decoded.ticket)
    if (!job) this.#settleGivenUp(decoded)
    // Nobody waits any more: the answer stays in the runner's journal for the buyer's retry.
    if (!job?.sent) return
    if ('receipt' in decoded) {
      // Anything else would give one buyer's answer to another.
      if (keyOf(decoded.receipt) !== job.key) throw new AssayError('bad_frame', 'An answer to another job.')
      setTicket(frame, 0)
      this.#answers.put(job.key, job.request.body, frame)
      this.#deps.answered(decoded, job.request)
    } else setTicket(frame, 0)
    this.#forget(job)
    job.resolve(frame)
  }

  /** Takes what a runner says of a job that was given up: a receipt that was there first is its right, a refusal means that it did not run. */
  #settleGivenUp(decoded: JobAnswer | { ticket: number }): void {
    const job = this.#givenUp.get(decoded.ticket)
    if (!job) return
    this.#givenUp.delete(decoded.ticket)
    if ('receipt' in decoded) {
      if (keyOf(decoded.receipt) !== keyOf(job)) throw new AssayError('bad_frame', 'An answer to another job.')
      this.#deps.answered(decoded, job)
    }
    // The same job may have been asked for again meanwhile.
    else if (!this.#byKey.has(keyOf(job))) this.#deps.released?.(job)
  }

  /** Asks the runner to let go of jobs nobody waits for any more. */
  #giveUp(jobs: readonly Job[]): void {
    const reachable = jobs.filter(({ onWire }) => onWire)
    if (reachable.length === 0) return
    for (const { ticket, request } of reachable) {
      this.#givenUp.set(ticket, askedOf(request))
      this.#givenUp.trim(maxGivenUp)
    }
    this.#deps.send(joinFrames(reachable.map(({ request }) => encodeCancel(request))))
  }

  #fail(job: Job, error: AssayError): void {
    this.#forget(job)
    job.reject(error)
  }

  #forget(job: Job): void {
    this.#byTicket.delete(job.ticket)
    this.#byKey.delete(job.key)
    this.#heldBytes -= job.bytes.length
    if (job.onWire) this.#onWire--
    else this.#queue = this.#queue.filter((each) => each !== job)
  }

  #sweepSoon(): void {
    if (this.#sweeping) return
    this.#sweeping = true
    this.#deps.after(sweepMs, () => {
      this.#sweeping = false
      this.#sweep()
      if (this.#byTicket.size > 0) this.#sweepSoon()
    })
  }

  /** Ends what has waited too long: for its answer, or for a runner that does not come back. */
  #sweep(): void {
    const now = this.#deps.now()
    const away = !this.#connected && now - this.#lostAt >= reconnectMs
    const jobs = this.#byTicket.values()
    if (!away && this.#ready) this.#giveUp(jobs.filter(({ deadline }) => deadline <= now))
    for (const job of jobs) {
      const { sent } = job
      if (away) this.#fail(job, unreachable(sent))
      else if (job.deadline <= now)
        this.#fail(
          job,
          jobError('deadline', 'No answer in the time the buyer gave.', sent, sent ? retryHint : moveHint),
        )
    }
  }
}
