import { equalBytes, type Hex, toHex } from '../../protocol/bytes.ts'
import { decodeFrame, type RefusalReason, setDeadline } from '../../protocol/frames.ts'
import { AssayError } from '../errors.ts'
import { isFinal, type JobRow, type JobStore } from './jobStore.ts'
import type { Relay } from './relay.ts'
import { retryAfterMs, sendWebhook, type WebhookTarget } from './webhooks.ts'

/** Longest a job may take when nobody waits on the line, in milliseconds. */
const maxJobMs = 3_600_000
/** How long a job and its answer are kept after its end, in milliseconds. */
const retentionMs = 86_400_000
const maxOpenJobs = 1_000
/** Largest request kept, and most bytes kept in all. */
const maxRequestBytes = 8 * 1024 * 1024
const maxStoredBytes = 512 * 1024 * 1024
/** How soon a job that could not be handed over is tried again, in milliseconds. */
const retryMs = 1_000
/** When a job that is under way is looked after should this object be stopped meanwhile, in milliseconds. */
const watchMs = 30_000
/** How long a runner is waited for that was asked to let go of a job, in milliseconds. */
const cancelMs = 2_000
/** How often a silent event stream says that it lives, in milliseconds. */
const heartbeatMs = 15_000

/** Reasons after which the same job is handed over again while its time lasts. */
const passing: ReadonlySet<RefusalReason | 'runner_unreachable' | 'unavailable'> = new Set([
  'at_capacity',
  'draining',
  'runner_unreachable',
  'unavailable',
])

/** What asynchronous jobs need; `changed` is told that something may be due earlier. */
export type AsyncJobsDeps = {
  relay: Pick<Relay, 'submit' | 'cancel'>
  store: JobStore
  fetch: (url: string, init: RequestInit) => Promise<Response>
  now: () => number
  after: (ms: number, run: () => void) => void
  random: (bytes: number) => Uint8Array
  changed: () => void
}

/** Shows a job to whoever holds its id. */
export type JobView = ReturnType<typeof viewOf>

const iso = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString())

function viewOf(runner: Hex, row: JobRow) {
  const self = `/v1/runners/${runner}/jobs/${row.id}`
  const [channel, job] = row.key.split(':') as [Hex, string]
  return {
    id: row.id,
    runner,
    channel,
    job,
    state: row.state,
    createdAt: iso(row.createdAt),
    deadline: iso(row.deadline),
    finishedAt: iso(row.finishedAt),
    ...(row.problem ? { problem: JSON.parse(row.problem) as { code: string; detail: string } } : {}),
    links: { self, result: `${self}/result`, events: `${self}/events` },
    ...(row.webhookUrl
      ? {
          webhook: {
            url: row.webhookUrl,
            state: row.webhookState,
            attempts: row.webhookTries,
            lastStatus: row.webhookStatus,
            nextAttemptAt: iso(row.webhookNext),
          },
        }
      : {}),
  }
}

const ended = (state: JobRow['state']) => new AssayError('conflict', `The job is ${state}.`, { hint: 'It has ended.' })

const unknownJob = () =>
  new AssayError('not_found', 'There is no such job, or it ended more than a day ago.', {
    hint: 'Post the same frame again: the runner answers from its journal.',
  })

/** Runs jobs nobody waits on the line for: kept on disk before they are acknowledged, handed over until their deadline, and announced when they end. */
export class AsyncJobs {
  readonly #deps: AsyncJobsDeps
  readonly #live = new Set<string>()
  /** Jobs cancelled on their way to the relay. */
  readonly #unwanted = new Set<string>()
  readonly #watchers = new Map<string, Set<(view: JobView) => void>>()

  constructor(deps: AsyncJobsDeps) {
    this.#deps = deps
  }

  /** Takes a job; the same frame again gives the same job. Gives its view and the secret its webhook is signed with. Throws AssayError. */
  submit(runner: Hex, bytes: Uint8Array, webhook: WebhookTarget | null): { view: JobView; secret: string | null } {
    const { store, now, random } = this.#deps
    const request = decodeFrame(bytes)
    if (request.type !== 'jobRequest') throw new AssayError('bad_frame', 'Only job requests are posted here.')
    const key = `${toHex(request.channel)}:${request.job}`
    const known = store.findByKey(key)
    // What was refused may be asked again: its cause may be gone, and nothing was charged.
    if (known && isFinal(known.state) && known.state !== 'done') store.remove(known.id)
    else if (known) {
      const kept = store.frame(known.id, 'request')
      const first = kept && decodeFrame(kept)
      if (first?.type === 'jobRequest' && !equalBytes(first.body, request.body))
        throw new AssayError('job_conflict', `Job ${request.job} was asked with another body.`, {
          hint: 'Take a new job number.',
        })
      return { view: viewOf(runner, known), secret: known.webhookSecret }
    }
    if (bytes.length > maxRequestBytes)
      throw new AssayError('payload_too_large', `An asynchronous job has at most ${maxRequestBytes} bytes.`)
    const { open, bytes: stored } = store.usage()
    if (open >= maxOpenJobs || stored > maxStoredBytes)
      throw new AssayError('at_capacity', 'This runner has as many asynchronous jobs as it takes.', {
        hint: 'Match again, excluding this runner.',
        extra: { accepted: false },
      })
    const id = toHex(random(16)).slice(2)
    const createdAt = now()
    const deadline = createdAt + Math.min(Math.max(request.deadlineMs, 1), maxJobMs)
    store.add({
      id,
      key,
      createdAt,
      deadline,
      webhookUrl: webhook?.url ?? null,
      webhookSecret: webhook?.secret ?? null,
    })
    store.putFrame(id, 'request', bytes)
    this.#start(runner, store.find(id)!)
    this.#deps.changed()
    return { view: viewOf(runner, store.find(id)!), secret: webhook?.secret ?? null }
  }

  /** Waits until a job has ended, at most so long, and gives it as it then is. Throws `not_found`. */
  async settled(runner: Hex, id: string, waitMs: number): Promise<JobView> {
    const first = this.view(runner, id)
    if (waitMs <= 0 || isFinal(first.state)) return first
    const watchers = this.#watchersOf(id)
    await new Promise<void>((resolve) => {
      const tell = (view: JobView | null) => {
        if (view && !isFinal(view.state)) return
        this.#unwatch(id, tell)
        resolve()
      }
      watchers.add(tell)
      this.#deps.after(waitMs, () => tell(null))
    })
    return this.view(runner, id)
  }

  #watchersOf(id: string): Set<(view: JobView) => void> {
    const watchers = this.#watchers.get(id) ?? new Set()
    this.#watchers.set(id, watchers)
    return watchers
  }

  #unwatch(id: string, tell: (view: JobView) => void): void {
    const watchers = this.#watchers.get(id)
    watchers?.delete(tell)
    if (watchers?.size === 0) this.#watchers.delete(id)
  }

  /** Gives a job. Throws `not_found`. */
  view(runner: Hex, id: string): JobView {
    return viewOf(runner, this.#row(id))
  }

  #row(id: string): JobRow {
    const row = this.#deps.store.find(id)
    if (!row) throw unknownJob()
    return row
  }

  /** Gives the answer frame of a job that is done. Throws `conflict` before, and the runner's refusal when it refused. */
  result(id: string): Uint8Array<ArrayBuffer> {
    const row = this.#row(id)
    if (row.state === 'done') return this.#deps.store.frame(id, 'answer')!
    const problem = row.problem ? (JSON.parse(row.problem) as { code: RefusalReason; detail: string }) : null
    if (problem) throw new AssayError(problem.code, problem.detail)
    throw new AssayError('conflict', `The job is ${row.state}.`, {
      hint: isFinal(row.state) ? 'It has no result.' : 'Follow its events, or ask again later.',
    })
  }

  /** Cancels a job: at once where the runner does not have it, and otherwise by asking the runner to let go of it. Throws `conflict` when the runner does not, or when the job has ended. */
  async cancel(runner: Hex, id: string): Promise<JobView> {
    const { relay } = this.#deps
    const row = this.#row(id)
    const [channel, job] = row.key.split(':') as [string, string]
    if (isFinal(row.state)) throw ended(row.state)
    if (row.state === 'queued') {
      if (this.#live.has(id)) this.#unwanted.add(id)
      this.#finish(runner, id, 'cancelled', null)
      relay.cancel(channel, BigInt(job))
      return this.view(runner, id)
    }
    const asked = relay.cancel(channel, BigInt(job)) === 'asked'
    const view = asked ? await this.settled(runner, id, cancelMs) : this.view(runner, id)
    if (view.state === 'cancelled') return view
    if (isFinal(view.state)) throw ended(view.state)
    throw new AssayError('conflict', `The job is ${view.state}, and its runner has not let go of it.`, {
      hint: 'It is charged if it is answered in time. Ask again in a moment.',
    })
  }

  /** Sends a job's webhook again from the first attempt. Throws `conflict` when there is nothing to send. */
  replay(runner: Hex, id: string): JobView {
    const row = this.#row(id)
    if (!row.webhookUrl || !isFinal(row.state))
      throw new AssayError('conflict', row.webhookUrl ? 'The job has not ended.' : 'The job has no webhook.')
    this.#deps.store.noteWebhook(id, 'pending', 0, this.#deps.now(), row.webhookStatus)
    this.#deps.changed()
    return this.view(runner, id)
  }

  /** Streams a job's states as server-sent events, from the present one to its last. */
  events(runner: Hex, id: string): ReadableStream<Uint8Array> {
    const encoder = new TextEncoder()
    const first = this.view(runner, id)
    let tell: ((view: JobView) => void) | undefined
    let sent = 0
    const stop = () => {
      if (tell) this.#unwatch(id, tell)
      tell = undefined
    }
    return new ReadableStream({
      start: (controller) => {
        const beat = () => {
          if (!tell) return
          controller.enqueue(encoder.encode(': still here\n\n'))
          this.#deps.after(heartbeatMs, beat)
        }
        tell = (view) => {
          const event = `id: ${sent++}\nevent: ${view.state}\ndata: ${JSON.stringify(view)}\n\n`
          controller.enqueue(encoder.encode(event))
          if (!isFinal(view.state)) return
          stop()
          controller.close()
        }
        this.#watchersOf(id).add(tell)
        tell(first)
        this.#deps.after(heartbeatMs, beat)
      },
      cancel: stop,
    })
  }

  #tell(runner: Hex, id: string): void {
    const watchers = this.#watchers.get(id)
    if (!watchers) return
    const view = this.view(runner, id)
    for (const tell of [...watchers]) tell(view)
  }

  #finish(runner: Hex, id: string, state: JobRow['state'], problem: { code: string; detail: string } | null): void {
    const { store, now, changed } = this.#deps
    if (!store.finish(id, state, problem ? JSON.stringify(problem) : null, now())) return
    if (state !== 'done') store.dropRequest(id)
    this.#tell(runner, id)
    changed()
  }

  /** Hands a job over and sees to what comes back. */
  #start(runner: Hex, { id, deadline, state }: JobRow): void {
    const { relay, store, now } = this.#deps
    const frame = store.frame(id, 'request')
    if (!frame || this.#live.has(id)) return
    this.#live.add(id)
    const leftMs = Math.max(1, deadline - now())
    setDeadline(frame, leftMs)
    store.move(id, state, now() + watchMs)
    const onSent = () => {
      store.move(id, 'running', now() + watchMs)
      this.#tell(runner, id)
    }
    const work = async () => {
      try {
        const answer = await relay.submit(frame, { maxMs: leftMs, onSent, isWanted: () => !this.#unwanted.has(id) })
        const decoded = decodeFrame(answer)
        if (decoded.type === 'jobRefusal') return this.#refused(runner, id, decoded.reason, decoded.detail)
        store.putFrame(id, 'answer', answer)
        this.#finish(runner, id, 'done', null)
      } catch (error) {
        if (!(error instanceof AssayError)) throw error
        this.#refused(runner, id, error.code, error.message)
      } finally {
        this.#live.delete(id)
        this.#unwanted.delete(id)
      }
    }
    void work()
  }

  #refused(runner: Hex, id: string, code: AssayError['code'], detail: string): void {
    const { store, now, changed } = this.#deps
    const row = store.find(id)
    if (!row || isFinal(row.state)) return
    if ((passing as ReadonlySet<string>).has(code)) {
      // A job the runner may have had stays `running`: another cannot be promised that it was never taken.
      store.move(id, row.state, now() + retryMs)
      changed()
    } else if (code === 'cancelled') this.#finish(runner, id, 'cancelled', null)
    else if (code === 'deadline') this.#finish(runner, id, 'expired', { code, detail })
    else this.#finish(runner, id, 'refused', { code, detail })
  }

  /** Does what is due: hands jobs over again, ends what is too late, sends webhooks, forgets what is old. */
  async work(runner: Hex): Promise<void> {
    const { store, now } = this.#deps
    for (const { id } of store.overdue(now()))
      this.#finish(runner, id, 'expired', { code: 'deadline', detail: 'No answer in the time the buyer gave.' })
    for (const row of store.dueJobs(now())) {
      if (this.#live.has(row.id)) store.move(row.id, row.state, now() + watchMs)
      else this.#start(runner, row)
    }
    await Promise.all(store.dueWebhooks(now()).map((row) => this.#announce(runner, row)))
    store.prune(now() - retentionMs)
  }

  /** Gives when something is due next, in unix milliseconds, or null. */
  get nextDue(): number | null {
    return this.#deps.store.nextDue(retentionMs)
  }

  async #announce(runner: Hex, row: JobRow): Promise<void> {
    const { store, fetch, now } = this.#deps
    const { id, webhookUrl, webhookSecret, webhookTries: tries } = row
    const { webhook: _, ...data } = viewOf(runner, row)
    const payload = JSON.stringify({ type: `job.${row.state}`, timestamp: iso(row.finishedAt), data })
    const target = { url: webhookUrl!, secret: webhookSecret! }
    const status = await sendWebhook(target, { id: `job_${id}`, payload }, { fetch, now })
    const after = retryAfterMs[tries]
    if (status >= 200 && status < 300) store.noteWebhook(id, 'delivered', tries + 1, null, status)
    // 410 Gone is the receiver's way to say never again.
    else if (status === 410 || after === undefined) store.noteWebhook(id, 'failed', tries + 1, null, status)
    else store.noteWebhook(id, 'pending', tries + 1, now() + after, status)
  }
}
