import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import { toBase64, utf8 } from '../protocol/bytes.ts'
import {
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
} from '../protocol/frames.ts'
import type { Log } from './log.ts'

/** Holds what a link needs: where the mailbox is, proof of being its runner (made afresh for each connection), what to say first, and who handles jobs. */
export type LinkDeps = {
  url: string
  authorization: () => Promise<object>
  hello: () => { models: string[]; capacity: number }
  load: () => { queued: number; capacity: number }
  handle: (request: JobRequest) => Promise<JobAnswer | JobRefusal>
  log: Log
  random: () => number
}

/** Keeps an outbound socket to a mailbox open: providers need no open port. */
export type Link = { connected(): boolean; sayHello(): void; close(): void }

/** Opens a link and keeps reopening it, a little later each time and never in step with others. */
export function openLink(deps: LinkDeps): Link {
  const stopping = new AbortController()
  let socket: WebSocket | null = null
  let outbox: Uint8Array[] = []

  const flush = () => {
    if (outbox.length === 0) return
    const message = joinFrames(outbox)
    outbox = []
    // An answer whose socket is gone stays in the journal; the buyer's retry fetches it.
    if (socket?.readyState === WebSocket.OPEN) socket.send(message)
  }
  const queue = (frame: Uint8Array) => {
    if (outbox.push(frame) === 1) setImmediate(flush)
  }
  const receive = async (frame: Uint8Array) => {
    const decoded = decodeFrame(frame)
    if (decoded.type !== 'jobRequest') return
    const result = await deps.handle(decoded)
    queue('receipt' in result ? encodeJobAnswer(result) : encodeJobRefusal(result))
    queue(encodeLoad(deps.load()))
  }

  const connect = async () => {
    const authorization = `Assay ${toBase64(utf8(JSON.stringify(await deps.authorization())))}`
    await new Promise<void>((resolve) => {
      const own = new WebSocket(deps.url, {
        headers: { authorization },
        maxPayload: 64 * 1024 * 1024,
        perMessageDeflate: false,
      })
      socket = own
      // A connection that died without a word is noticed by its silence.
      let alive = true
      const beat = setInterval(() => {
        if (!alive) return own.terminate()
        alive = false
        own.ping()
      }, 15_000)
      own.on('pong', () => {
        alive = true
      })
      own.on('open', () => {
        deps.log('link_open')
        own.send(joinFrames([encodeHello(deps.hello())]))
      })
      own.on('message', (data: Buffer) => {
        let frames: Uint8Array[] = []
        try {
          frames = splitFrames(new Uint8Array(data))
        } catch {
          deps.log('link_malformed_message', { bytes: data.length })
        }
        for (const frame of frames)
          receive(frame).catch(() => deps.log('link_malformed_frame', { bytes: frame.length }))
      })
      own.on('unexpected-response', (_, response) => {
        deps.log('link_refused', { status: response.statusCode ?? 0 })
        own.terminate()
      })
      own.on('error', () => {})
      own.on('close', () => {
        clearInterval(beat)
        resolve()
      })
    })
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
    connected: () => socket?.readyState === WebSocket.OPEN,
    sayHello() {
      if (socket?.readyState === WebSocket.OPEN) queue(encodeHello(deps.hello()))
    },
    close() {
      flush()
      stopping.abort()
      socket?.close()
    },
  }
}
