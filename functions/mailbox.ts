import { eq } from 'drizzle-orm'
import { EncodingError, equalBytes, toHex } from '../protocol/bytes.ts'
import { decodeFrame, type JobAnswer, joinFrames, setTicket, splitFrames } from '../protocol/frames.ts'
import { sha256 } from '../protocol/hash.ts'
import { detailToJson, receiptToJson } from '../protocol/receipt.ts'
import { readSettings } from './env.ts'
import { AssayError, problem } from './errors.ts'
import { type DurableObjectState, runtime, type WorkerSocket } from './platform.ts'
import { type Database, openDatabase } from './store/database.ts'
import { receipts, runners } from './store/schema.ts'

/** Longest a buyer may wait for one job, in milliseconds. */
const maxDeadlineMs = 120_000
/** Most receipts kept for the database while it does not answer; beyond, the oldest are left to the runner's journal. */
const maxUnwritten = 10_000

type Waiting = {
  key: string
  bodyHash: Uint8Array
  deadline: number
  frame: Promise<Uint8Array>
  settle: (frame: Uint8Array) => void
  fail: (error: AssayError) => void
}

/** One runner's mailbox: holds its socket, hands it jobs in batches, and gives each answer to the buyer who waits. */
export class Mailbox {
  readonly #state: DurableObjectState
  readonly #database: Database
  readonly #byTicket = new Map<number, Waiting>()
  readonly #byJob = new Map<string, Waiting>()
  #nextTicket = 1
  #outbox: Uint8Array[] = []
  #capacity = 1_024
  #queued = 0
  #unwritten: (typeof receipts.$inferInsert)[] = []
  #writing = false

  constructor(state: DurableObjectState, bindings: Record<string, unknown>) {
    this.#state = state
    const settings = readSettings(bindings)
    this.#database = openDatabase(settings.DATABASE_URL, settings.DATABASE_ENDPOINT)
    state.setWebSocketAutoResponse(new runtime.WebSocketRequestResponsePair('ping', 'pong'))
  }

  async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url)
    const requestId = request.headers.get('x-request-id') ?? ''
    try {
      if (url.pathname === '/evict') return this.#evict(await request.text())
      if (url.pathname === '/socket') return await this.#connect(url.searchParams.get('runner')!)
      const frame = await this.#relay(new Uint8Array(await request.arrayBuffer()))
      const decoded = decodeFrame(frame)
      if (decoded.type === 'jobRefusal') return problem(decoded.reason, decoded.detail || decoded.reason, requestId)
      return new Response(frame as Uint8Array<ArrayBuffer>, {
        headers: { 'content-type': 'application/octet-stream', 'assay-load': `${this.#queued}/${this.#capacity}` },
      })
    } catch (error) {
      if (error instanceof AssayError) return problem(error.code, error.message, requestId, error.hint)
      if (error instanceof EncodingError) return problem('bad_frame', error.message, requestId)
      throw error
    }
  }

  async #connect(runner: string): Promise<Response> {
    const { 0: client, 1: server } = new runtime.WebSocketPair()
    // The newer socket wins: the older is mostly a connection whose end nobody has noticed yet.
    for (const older of this.#state.getWebSockets()) {
      older.serializeAttachment({ runner, replaced: true })
      older.close(4001, 'replaced by a newer connection')
    }
    this.#failWaiting()
    this.#state.acceptWebSocket(server)
    server.serializeAttachment({ runner, replaced: false })
    return new Response(null, { status: 101, webSocket: client } as ResponseInit)
  }

  /** Lets go of a runner that lost its place. The reason travels as the closing word, which takes 123 bytes (RFC 6455 §5.5). */
  #evict(reason: string): Response {
    const word = new TextDecoder().decode(new TextEncoder().encode(reason).subarray(0, 120)).replace(/\uFFFD+$/, '')
    for (const socket of this.#state.getWebSockets()) socket.close(4003, word)
    return new Response(null, { status: 204 })
  }

  get #socket(): WorkerSocket | undefined {
    return this.#state
      .getWebSockets()
      .find((socket) => !(socket.deserializeAttachment() as { replaced: boolean }).replaced && socket.readyState === 1)
  }

  /** Hands a job to the runner and waits for its answer. The same job with the same body joins the one under way. */
  #relay(bytes: Uint8Array): Promise<Uint8Array> {
    const request = decodeFrame(bytes)
    if (request.type !== 'jobRequest') throw new AssayError('bad_frame', 'Only job requests are posted here.')
    const key = `${toHex(request.channel)}:${request.job}`
    const bodyHash = sha256(request.body)
    const underWay = this.#byJob.get(key)
    if (underWay) {
      if (!equalBytes(underWay.bodyHash, bodyHash))
        throw new AssayError('job_conflict', `Job ${request.job} is under way with another body.`, {
          hint: 'Take a new job number.',
        })
      return underWay.frame
    }
    if (!this.#socket)
      throw new AssayError('runner_unreachable', 'The runner is not connected.', {
        hint: 'Retry the same job number, or match again.',
      })
    if (this.#byTicket.size >= this.#capacity)
      throw new AssayError('at_capacity', 'The runner has as many jobs as it takes.', {
        hint: 'Match again, excluding this runner.',
      })

    const ticket = this.#takeTicket()
    setTicket(bytes, ticket)
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
    const deadlineMs = Math.min(Math.max(request.deadlineMs, 1_000), maxDeadlineMs)
    const waiting: Waiting = {
      key,
      bodyHash,
      deadline: Date.now() + deadlineMs,
      frame: promise,
      settle: resolve,
      fail: reject,
    }
    const timer = setTimeout(
      () =>
        waiting.fail(
          new AssayError('deadline', `No answer within ${deadlineMs} ms.`, {
            hint: 'Retry the same job number: it is charged once at most.',
          }),
        ),
      deadlineMs,
    )
    this.#byTicket.set(ticket, waiting)
    this.#byJob.set(key, waiting)
    const forget = () => {
      clearTimeout(timer)
      this.#byTicket.delete(ticket)
      this.#byJob.delete(key)
    }
    promise.then(forget, forget)

    // Jobs that arrive in one turn leave in one message.
    if (this.#outbox.push(bytes) === 1) setTimeout(() => this.#flush(), 0)
    return promise
  }

  #takeTicket(): number {
    do this.#nextTicket = (this.#nextTicket + 1) >>> 0 || 1
    while (this.#byTicket.has(this.#nextTicket))
    return this.#nextTicket
  }

  #flush(): void {
    const frames = this.#outbox
    this.#outbox = []
    this.#socket?.send(joinFrames(frames))
  }

  async webSocketMessage(socket: WorkerSocket, message: ArrayBuffer | string): Promise<void> {
    if (typeof message === 'string') return
    const { runner } = socket.deserializeAttachment() as { runner: string }
    let frames: Uint8Array[]
    try {
      frames = splitFrames(new Uint8Array(message))
    } catch {
      socket.close(4002, 'malformed message')
      return
    }
    for (const frame of frames) {
      let decoded: ReturnType<typeof decodeFrame>
      try {
        decoded = decodeFrame(frame)
      } catch {
        socket.close(4002, 'malformed frame')
        return
      }
      if (decoded.type === 'jobAnswer' || decoded.type === 'jobRefusal') {
        const waiting = this.#byTicket.get(decoded.ticket)
        // Nobody waits any more: the answer stays in the runner's journal for the buyer's retry.
        if (!waiting) continue
        if (decoded.type === 'jobAnswer') {
          const { channel, job } = decoded.receipt
          // An answer to another job than was asked would give one buyer's answer to another.
          if (`${toHex(channel)}:${job}` !== waiting.key) {
            socket.close(4002, 'answer to another job')
            return
          }
          this.#record(runner, decoded)
        }
        setTicket(frame, 0)
        waiting.settle(frame)
      } else if (decoded.type === 'load') {
        this.#queued = decoded.queued
        this.#capacity = decoded.capacity
      } else if (decoded.type === 'hello') {
        this.#capacity = decoded.capacity
        const { models, capacity, warm = models, region = null } = decoded
        await this.#announce(runner, { online: true, models, capacity, warm, region })
      }
    }
  }

  async webSocketClose(socket: WorkerSocket): Promise<void> {
    const { runner, replaced } = socket.deserializeAttachment() as { runner: string; replaced: boolean }
    if (replaced) return
    this.#failWaiting()
    await this.#announce(runner, { online: false })
  }

  #failWaiting(): void {
    const lost = new AssayError('runner_unreachable', "The runner's connection was lost.", {
      hint: 'Retry the same job number: it is charged once at most.',
    })
    for (const waiting of this.#byTicket.values()) waiting.fail(lost)
  }

  async webSocketError(socket: WorkerSocket): Promise<void> {
    await this.webSocketClose(socket)
  }

  async #announce(runner: string, state: Partial<typeof runners.$inferInsert>): Promise<void> {
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        await this.#database.update(runners).set(state).where(eq(runners.signer, runner))
        return
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt))
      }
    }
  }

  /** Keeps a receipt for the history; written in the background, so that no inference waits for the database. */
  #record(runner: string, { receipt, detail, proof, signature }: JobAnswer): void {
    this.#unwritten.push({
      channel: toHex(receipt.channel),
      job: receipt.job.toString(),
      runner,
      receipt: receiptToJson(receipt),
      detail: detailToJson(detail),
      proof: { index: proof.index, count: proof.count, path: proof.path.map(toHex) },
      signature: toHex(signature),
    })
    if (this.#unwritten.length > maxUnwritten) this.#unwritten.splice(0, this.#unwritten.length - maxUnwritten)
    if (!this.#writing) this.#state.waitUntil(this.#write())
  }

  async #write(): Promise<void> {
    this.#writing = true
    for (let failures = 0; this.#unwritten.length > 0 && failures < 8; ) {
      const batch = this.#unwritten.slice(0, 500)
      try {
        await this.#database.insert(receipts).values(batch).onConflictDoNothing()
        this.#unwritten.splice(0, batch.length)
        failures = 0
      } catch {
        failures++
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** failures))
      }
    }
    this.#writing = false
  }
}
