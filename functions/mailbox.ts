import { DurableObject } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { EncodingError, type Hex } from '../protocol/bytes.ts'
import { decodeFrame, frameType, type Hello, joinFrames, splitFrames } from '../protocol/frames.ts'
import { type Bindings, readSettings, type Settings } from './env.ts'
import { AssayError, openHeaders, problem } from './errors.ts'
import { AsyncJobs } from './mailbox/asyncJobs.ts'
import { ChannelBook } from './mailbox/channelBook.ts'
import { CreditGate } from './mailbox/creditGate.ts'
import { firstEnded } from './mailbox/firstEnded.ts'
import { JobStore } from './mailbox/jobStore.ts'
import { ReceiptLog } from './mailbox/receiptLog.ts'
import { Relay, type SubmitOptions } from './mailbox/relay.ts'
import { webhookTarget } from './mailbox/webhooks.ts'
import { type DurableObjectState, type Relayed, type RelayedTogether, runtime, type WorkerSocket } from './platform.ts'
import type { Returned } from './services/credit.ts'
import { type Database, openDatabase } from './store/database.ts'
import { insertReceipts } from './store/receipts.ts'
import { runners } from './store/schema.ts'

/** What a socket remembers while the object sleeps. */
type Attachment = { runner: Hex; replaced: boolean; terms: { capacity: number; credit: number } | null }

const attachmentOf = (socket: WorkerSocket) => socket.deserializeAttachment() as Attachment
const random = (bytes: number) => crypto.getRandomValues(new Uint8Array(bytes))
const after = (ms: number, run: () => void) => void setTimeout(run, ms)
const now = () => Date.now()
const pause = () => new Promise<void>((resolve) => setTimeout(resolve, 0))
/** Longest a job is waited for before its place is told, in milliseconds. */
const maxWaitMs = 60_000
/** Longest a call of several jobs waits for the first of them, in milliseconds: the request that makes it is certain to live so long after its buyer hung up. */
const maxTogetherMs = 10_000
/** Most bytes of answers of one call; an answer beyond is asked for by itself. */
const maxTogetherBytes = 8 * 1024 * 1024
const nothing = new Uint8Array(0)
/** Longest a write to the database may take, in milliseconds, before the object's own disk takes it. */
const databaseMs = 10_000

async function withTimeout<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('timed out')), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    // A timer left running keeps the object awake, which is what an idle runner would be billed for.
    clearTimeout(timer)
  }
}

/** Reads a refusal: it is told before anything ran, so that the buyer may go elsewhere. */
function refusalOf(frame: Uint8Array): AssayError | null {
  if (frame[0] !== frameType.jobRefusal) return null
  const decoded = decodeFrame(frame)
  if (decoded.type !== 'jobRefusal') return null
  return new AssayError(decoded.reason, decoded.detail || decoded.reason, { extra: { accepted: false } })
}

function asProblem(error: unknown): AssayError {
  if (error instanceof AssayError) return error
  if (error instanceof EncodingError) return new AssayError('bad_frame', error.message)
  throw error
}

/** One runner's mailbox: holds its socket, and wires relay, asynchronous jobs and the log of receipts to it. */
export class Mailbox extends DurableObject {
  readonly #state: DurableObjectState
  readonly #settings: Settings
  readonly #database: Database
  readonly #relay: Relay
  readonly #store: JobStore
  readonly #jobs: AsyncJobs
  readonly #receipts: ReceiptLog
  readonly #channels: ChannelBook
  /** Null where jobs are handed over whatever the deposits. */
  readonly #credit: CreditGate | null
  /** Who this mailbox belongs to; every request and socket says it. */
  #runner: Hex | null = null
  /** Whether its runner has ever connected: before, strangers who ask for any address must not make it store anything. */
  #known: boolean

  constructor(state: DurableObjectState, bindings: Bindings) {
    super(state, bindings)
    this.#state = state
    this.#settings = readSettings(bindings)
    const { DATABASE_URL, DATABASE_ENDPOINT, CHAIN_ID, ESCROW, CREDIT_LEASES } = this.#settings
    this.#database = openDatabase(DATABASE_URL, DATABASE_ENDPOINT)
    const { sql } = state.storage
    this.#relay = new Relay({
      send: (message) => this.#socket?.send(message),
      now,
      after,
      // An answer to a ticket of before this object slept must not meet a job of after.
      firstTicket: new DataView(random(4).buffer).getUint32(0),
      answered: (answer, request) => {
        this.#credit?.answered(answer.receipt)
        const work = this.#receipts.add(this.#runner!, answer, request)
        if (work) state.waitUntil(work.then(() => this.#schedule()))
      },
      released: (job) => this.#credit?.released(job),
    })
    const domain = { chainId: CHAIN_ID, escrow: ESCROW }
    this.#channels = new ChannelBook({ domain, sql, now, after, pause })
    this.#receipts = new ReceiptLog({
      domain,
      sql,
      verified: (runner, answer, request) => this.#channels.note(runner, answer, request),
      insert: (rows) => withTimeout(insertReceipts(this.#database, rows), databaseMs),
      refused: () => this.#socket?.close(4003, 'a receipt that does not verify'),
      pause,
    })
    this.#store = new JobStore(sql)
    const { ACCOUNT } = bindings
    this.#credit =
      CREDIT_LEASES === 'yes'
        ? new CreditGate({
            relay: this.#relay,
            book: this.#channels,
            sql,
            domain,
            lease: (buyer, request) => ACCOUNT.get(ACCOUNT.idFromName(buyer)).lease(buyer, request),
            vouched: (voucher) => ACCOUNT.get(ACCOUNT.idFromName(voucher.buyer)).vouched(voucher),
            now,
            after,
          })
        : null
    this.#jobs = new AsyncJobs({
      relay: {
        submit: (frame, options) => this.#submit(frame, options),
        cancel: (channel, job) => this.#relay.cancel(channel, job),
      },
      store: this.#store,
      fetch: (url, init) => fetch(url, init),
      now,
      after,
      random,
      changed: () => this.#schedule(),
    })
    state.setWebSocketAutoResponse(new runtime.WebSocketRequestResponsePair('ping', 'pong'))
    this.#known = state.storage.kv.get('runner') !== undefined
    if (this.#known) this.#prepare()
    const socket = this.#socket
    // A connection that ended while this object was stopped ended at the latest now.
    if (this.#known && !socket && state.storage.kv.get('goneAt') === undefined) this.#noteGone()
    if (!socket) return
    const { runner, terms } = attachmentOf(socket)
    this.#runner = runner
    if (terms) this.#relay.resumed(terms)
    else this.#relay.opened()
  }

  #noteGone(): void {
    this.#state.storage.kv.put('goneAt', now())
  }

  #prepare(): void {
    this.#receipts.prepare()
    this.#channels.prepare()
    this.#credit?.prepare()
    this.#store.prepare()
  }

  #submit(frame: Uint8Array, options?: SubmitOptions): Promise<Uint8Array> {
    return this.#credit ? this.#credit.submit(this.#runner!, frame, options) : this.#relay.submit(frame, options)
  }

  /** Gives back what no job needs of a buyer's credit. Called by the buyer's account. */
  recall(buyer: Hex): Returned {
    return this.#credit && this.#known ? this.#credit.giveBack(buyer) : { open: 0n, channels: [] }
  }

  /** Relays one job and waits for what becomes of it; called by the Worker. */
  async job(runner: Hex, body: ArrayBuffer): Promise<Relayed> {
    this.#runner = runner
    const ended = await this.#ended(new Uint8Array(body))
    // A view would cross with the whole message it came in.
    return { ...this.#relay.load, ...(ended.frame ? { frame: ended.frame.slice() } : ended) }
  }

  /** Relays several jobs, joined, and waits for what becomes of the first and of those that end with it; called by the Worker. */
  async jobs(runner: Hex, bodies: ArrayBuffer): Promise<RelayedTogether> {
    this.#runner = runner
    // Copies, because a view would keep the whole call alive for its slowest job.
    const works = splitFrames(new Uint8Array(bodies)).map((bytes) => this.#ended(bytes.slice()))
    let stop: ReturnType<typeof setTimeout> | undefined
    const limit = new Promise<void>((resolve) => {
      stop = setTimeout(resolve, maxTogetherMs)
    })
    const ended = await firstEnded(works, { limit, pause })
    clearTimeout(stop)
    let size = 0
    const fitting = ended.map((each) => {
      size += each?.frame?.length ?? 0
      return size <= maxTogetherBytes ? (each?.frame ?? nothing) : nothing
    })
    return {
      load: this.#relay.load,
      answers: joinFrames(fitting).buffer,
      problems: ended.map((each) => each?.problem ?? null),
    }
  }

  /** Submits a job and words what becomes of it: what is thrown would arrive without its code. */
  async #ended(bytes: Uint8Array): Promise<Pick<Relayed, 'frame' | 'problem'>> {
    try {
      const frame = await this.#submit(bytes)
      const refused = refusalOf(frame)
      if (refused) throw refused
      return { frame: frame as Uint8Array<ArrayBuffer> }
    } catch (error) {
      const { code, message, hint, extra } = asProblem(error)
      return { problem: { code, message, hint, extra } }
    }
  }

  /** Tells how loaded the runner is, and whether it is there; called by the Worker before it recommends it. */
  load(runner: Hex): { queued: number; capacity: number; connected: boolean } {
    this.#runner = runner
    return { ...this.#relay.load, connected: this.#relay.connected }
  }

  async fetch(request: Request): Promise<Response> {
    const requestId = request.headers.get('x-request-id') ?? ''
    try {
      const url = new URL(request.url)
      const runner = url.searchParams.get('runner') as Hex | null
      if (runner) this.#runner = runner
      if (url.pathname === '/evict') return this.#evict(await request.text())
      if (url.pathname === '/socket') return this.#connect(runner!)
      if (url.pathname === '/claims') return await this.#claims(url)
      return await this.#asyncJob(request, url, requestId)
    } catch (error) {
      const { code, message, hint, extra } = asProblem(error)
      return problem(code, message, requestId, hint, extra)
    }
  }

  /** Lists what of this runner's channels can still be settled, and by anyone. */
  async #claims({ searchParams }: URL): Promise<Response> {
    const limit = Number(searchParams.get('limit') ?? 50)
    const goneAt = this.#state.storage.kv.get('goneAt') as number | undefined
    const away = goneAt === undefined || this.#socket ? 0 : now() - goneAt
    if (this.#known && away < this.#settings.CLAIMS_AFTER_SECONDS * 1_000)
      throw new AssayError('conflict', 'The runner is here, or was a moment ago, and claims for itself.', {
        hint: 'Ask again once it has been away for a while.',
      })
    const found = this.#known ? await this.#channels.list(`0x${searchParams.get('cursor') ?? ''}`, limit + 1) : []
    const claims = found.slice(0, limit)
    return Response.json({ claims, nextCursor: found.length > limit ? claims.at(-1)!.channel.slice(2) : null })
  }

  /** Serves `/async` (a new job) and `/async/{id}[/result|/events|/webhook]`. */
  async #asyncJob(request: Request, url: URL, requestId: string): Promise<Response> {
    const runner = this.#runner!
    const [, , id, what] = url.pathname.split('/') as [string, string, string | undefined, string | undefined]
    if (!this.#known)
      throw id === undefined
        ? new AssayError('runner_unreachable', 'The runner has never connected.', { extra: { accepted: false } })
        : new AssayError('not_found', 'There is no such job.')
    if (id === undefined) {
      const hook = request.headers.get('assay-webhook-url')
      const local = this.#settings.LOCAL_WEBHOOKS === 'yes'
      const target = hook ? webhookTarget(hook, request.headers.get('assay-webhook-secret'), { local, random }) : null
      const submitted = this.#jobs.submit(runner, new Uint8Array(await request.arrayBuffer()), target)
      const { secret } = submitted
      const waitMs = Math.min(maxWaitMs, Number(request.headers.get('assay-wait') ?? 0) * 1_000)
      const view = await this.#jobs.settled(runner, submitted.view.id, waitMs)
      return Response.json(
        { ...view, ...(secret ? { webhookSecret: secret } : {}) },
        {
          status: 202,
          headers: {
            ...openHeaders,
            'x-request-id': requestId,
            location: view.links.self,
            'preference-applied': 'respond-async',
          },
        },
      )
    }
    if (what === 'result')
      return new Response(this.#jobs.result(id), { headers: { 'content-type': 'application/octet-stream' } })
    if (what === 'events')
      return new Response(this.#jobs.events(runner, id), {
        headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-store' },
      })
    if (what === 'webhook') return Response.json(this.#jobs.replay(runner, id), { status: 202 })
    if (request.method === 'DELETE') return Response.json(await this.#jobs.cancel(runner, id))
    return Response.json(this.#jobs.view(runner, id))
  }

  /** Sets the alarm to when something is due first. */
  #schedule(): void {
    const inMs = this.#receipts.retryInMs
    const due = [this.#jobs.nextDue, inMs === null ? null : now() + inMs].filter((at) => at !== null)
    if (due.length > 0) this.#state.waitUntil(this.#state.storage.setAlarm(Math.min(...due)))
  }

  async alarm(): Promise<void> {
    // An alarm says nothing of whom it is for.
    this.#runner ??= (this.#state.storage.kv.get('runner') as Hex | undefined) ?? null
    if (this.#runner) await this.#jobs.work(this.#runner)
    await this.#receipts.work()
    this.#schedule()
  }

  #connect(runner: Hex): Response {
    const { 0: client, 1: server } = new runtime.WebSocketPair()
    // The newer socket wins: the older is mostly a connection whose end nobody has noticed yet.
    for (const older of this.#state.getWebSockets()) {
      older.serializeAttachment({ runner, replaced: true, terms: null } satisfies Attachment)
      older.close(4001, 'replaced by a newer connection')
    }
    this.#state.acceptWebSocket(server)
    server.serializeAttachment({ runner, replaced: false, terms: null } satisfies Attachment)
    this.#state.storage.kv.put('runner', runner)
    this.#state.storage.kv.delete('goneAt')
    this.#known = true
    this.#prepare()
    this.#relay.opened()
    return new Response(null, { status: 101, webSocket: client } as ResponseInit)
  }

  /** Lets go of a runner that lost its place. The reason travels as the closing word, which takes 123 bytes (RFC 6455 §5.5). */
  #evict(reason: string): Response {
    const word = new TextDecoder().decode(new TextEncoder().encode(reason).subarray(0, 120)).replace(/\uFFFD+$/, '')
    for (const socket of this.#state.getWebSockets()) socket.close(4003, word)
    return new Response(null, { status: 204 })
  }

  get #socket(): WorkerSocket | undefined {
    return this.#state.getWebSockets().find((socket) => !attachmentOf(socket).replaced && socket.readyState === 1)
  }

  async webSocketMessage(socket: WorkerSocket, message: ArrayBuffer | string): Promise<void> {
    if (typeof message === 'string') return
    const { runner, replaced } = attachmentOf(socket)
    if (replaced) return
    this.#runner = runner
    try {
      for (const frame of splitFrames(new Uint8Array(message))) this.#take(socket, frame)
    } catch {
      socket.close(4002, 'malformed message')
    }
    this.#relay.spoke()
  }

  #take(socket: WorkerSocket, frame: Uint8Array): void {
    const decoded = decodeFrame(frame)
    if (decoded.type === 'jobAnswer' || decoded.type === 'jobRefusal') this.#relay.settle(frame, decoded)
    else if (decoded.type === 'load') this.#relay.noteLoad(decoded)
    else if (decoded.type === 'hello') this.#greet(socket, decoded)
  }

  #greet(socket: WorkerSocket, hello: Hello): void {
    const { models, capacity, warm = models, region = null } = hello
    const runner = this.#runner!
    this.#relay.hello(hello)
    socket.serializeAttachment({ runner, replaced: false, terms: this.#relay.terms } satisfies Attachment)
    this.#state.waitUntil(this.#announce(runner, { online: true, models, capacity, warm, region }))
  }

  async webSocketClose(socket: WorkerSocket): Promise<void> {
    // The other side waits for the closing word to be returned (RFC 6455 §5.5.1).
    if (socket.readyState !== 3) socket.close(1000)
    const { runner, replaced } = attachmentOf(socket)
    if (replaced) return
    // A message and the close may pass each other: what matters is whether another socket has taken over.
    const other = this.#socket
    if (other && other !== socket) return
    this.#relay.lost()
    this.#noteGone()
    // A runner that goes may not come back, and what it earned is settled from here.
    this.#state.waitUntil(this.#receipts.work().then(() => this.#channels.flush()))
    await this.#announce(runner, { online: false })
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
}
