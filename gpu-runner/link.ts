import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import { toBase64, utf8 } from '../protocol/bytes.ts'
import { remedyFor } from '../protocol/evidence/remedies.ts'
import { type EvidenceRefusalReason, refusalReasons } from '../protocol/evidence/verdict.ts'
import {
  type Cancel,
  decodeFrame,
  encodeHello,
  encodeJobAnswer,
  encodeJobRefusal,
  encodeLoad,
  type JobAnswer,
  type JobRefusal,
  type JobRequest,
  joinFrames,
  splitFrames,
  ticketOf,
} from '../protocol/frames.ts'
import type { Log } from './log.ts'

/** The edge's closing code for a runner that lost its place. */
const evicted = 4003

/** How often a connection is asked for a sign of life, in milliseconds. */
const beatMs = 15_000

/** Holds the result of a job; an answer whose frame was written once is not written again. */
export type LinkResult = (JobAnswer & { frame?: Uint8Array }) | JobRefusal

/** Holds what a link needs: where the mailbox is, proof of being its runner (made afresh for each connection), what to say first, and who handles jobs. */
export type LinkDeps = {
  url: string
  authorization: () => Promise<object>
  hello: () => { models: string[]; warm?: string[]; capacity: number }
  load: () => { queued: number; capacity: number }
  /** Takes the jobs of one message and gives each result to `reply`; must not throw. */
  handle: (requests: JobRequest[], reply: (result: LinkResult) => void) => void
  /** Lets go of a job nobody waits for any more; must not throw. Without it jobs taken are seen through. */
  cancel?: (job: Cancel) => void
  log: Log
  random: () => number
}

/** Keeps an outbound socket to a mailbox open: providers need no open port. */
export type Link = { connected(): boolean; sayHello(): void; close(): void }

/** Opens a link and keeps reopening it, a little later each time and never in step with others. */
export function openLink(deps: LinkDeps): Link {
  const stopping = new AbortController()
  let current: Connection | null = null

  const connect = async () => {
    const authorization = `Assay ${toBase64(utf8(JSON.stringify(await deps.authorization())))}`
    current = openConnection(deps, authorization)
    await current.closed
  }

  void (async () => {
    for (let failures = 0; !stopping.signal.aborted; failures++) {
      const started = Date.now()
      await connect().catch(() => {})
      if (Date.now() - started > 5_000) failures = 0
      const delayMs = Math.min(5_000, 50 * 2 ** Math.min(failures, 7)) * (0.5 + deps.random())
      await sleep(delayMs, undefined, { signal: stopping.signal }).catch(() => {})
    }
  })()

  return {
    connected: () => current?.socket.readyState === WebSocket.OPEN,
    sayHello() {
      if (current?.socket.readyState === WebSocket.OPEN) current.outbox.push(encodeHello(deps.hello()))
    },
    close() {
      current?.outbox.flush()
      stopping.abort()
      current?.socket.close()
    },
  }
}

/** Holds one connection to a mailbox; `closed` resolves when it is over, however it ended. */
type Connection = { socket: WebSocket; outbox: Outbox; closed: Promise<void> }

function openConnection(deps: LinkDeps, authorization: string): Connection {
  const socket = new WebSocket(deps.url, {
    headers: { authorization },
    maxPayload: 64 * 1024 * 1024,
    perMessageDeflate: false,
  })
  const outbox = openOutbox(socket, () => encodeLoad(deps.load()))
  terminateWhenSilent(socket)
  socket.on('open', () => {
    deps.log('link_open')
    socket.send(joinFrames([encodeHello(deps.hello())]))
  })
  socket.on('message', (data: Buffer) => takeMessage(data, outbox, deps))
  socket.on('unexpected-response', (_, response) => {
    deps.log('link_refused', { status: response.statusCode ?? 0 })
    socket.terminate()
  })
  socket.on('error', () => {})
  const closed = new Promise<void>((resolve) => {
    socket.on('close', (code, word) => {
      if (code === evicted) deps.log('link_evicted', wordsOf(word.toString('utf8')))
      resolve()
    })
  })
  return { socket, outbox, closed }
}

/** Notices a connection that died without a word by its silence. */
function terminateWhenSilent(socket: WebSocket): void {
  let alive = true
  const beat = setInterval(() => {
    if (!alive) return socket.terminate()
    alive = false
    socket.ping()
  }, beatMs)
  socket.on('pong', () => {
    alive = true
  })
  socket.on('close', () => clearInterval(beat))
}

/** Hands on the jobs of a message, and the jobs to let go of. */
function takeMessage(data: Buffer, outbox: Outbox, deps: LinkDeps): void {
  const { requests, cancels } = readMessage(data, {
    refuse: (refusal) => outbox.push(encodeJobRefusal(refusal)),
    log: deps.log,
  })
  // Results go out on the socket their request came in on, or not at all: on another its ticket may stand for another job. A job unanswered is sent again and answered from the journal.
  const reply = (result: LinkResult) =>
    'receipt' in result
      ? outbox.push(result.frame ?? encodeJobAnswer(result), result.ticket)
      : outbox.push(encodeJobRefusal(result))
  if (requests.length > 0) deps.handle(requests, reply)
  for (const cancel of cancels) deps.cancel?.(cancel)
}

/** Tells an eviction's closing word apart: why, and what to do about it. */
function wordsOf(word: string): { why: string; whatToDo: string } {
  const [reason = ''] = word.split(':')
  const known = (refusalReasons as readonly string[]).includes(reason)
  const whatToDo = known ? remedyFor(reason as EvidenceRefusalReason) : 'Attest again.'
  return { why: word, whatToDo }
}

/** Takes frames, each with the ticket it goes out with where that is not yet in it. */
type Outbox = { push(frame: Uint8Array, ticket?: number): void; flush(): void }

/** Collects what one turn of the loop has to say into one message, with a report of the load behind it. */
function openOutbox(socket: WebSocket, load: () => Uint8Array): Outbox {
  let frames: Uint8Array[] = []
  let tickets: (number | undefined)[] = []
  const flush = () => {
    if (frames.length === 0) return
    const message = joinFrames([...frames, load()], tickets)
    frames = []
    tickets = []
    if (socket.readyState === WebSocket.OPEN) socket.send(message)
  }
  return {
    push(frame, ticket) {
      tickets.push(ticket)
      if (frames.push(frame) === 1) setImmediate(flush)
    },
    flush,
  }
}

/** Reads the job requests of a message, and the jobs to let go of. A frame that cannot be read is refused if it can still be told whose it is. */
function readMessage(
  data: Buffer,
  { refuse, log }: { refuse: (refusal: JobRefusal) => void; log: Log },
): { requests: JobRequest[]; cancels: Cancel[] } {
  let frames: Uint8Array[] = []
  try {
    frames = splitFrames(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  } catch {
    log('link_malformed_message', { bytes: data.length })
  }
  const requests: JobRequest[] = []
  const cancels: Cancel[] = []
  for (const frame of frames) {
    try {
      const decoded = decodeFrame(frame)
      if (decoded.type === 'jobRequest') requests.push(decoded)
      else if (decoded.type === 'cancel') cancels.push(decoded)
    } catch (error) {
      log('link_malformed_frame', { bytes: frame.length })
      const ticket = ticketOf(frame)
      const detail = error instanceof Error ? error.message : 'The frame cannot be read.'
      if (ticket !== null) refuse({ ticket, reason: 'bad_frame', detail })
    }
  }
  return { requests, cancels }
}
