import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import WebSocket, { WebSocketServer } from 'ws'

/** What the way between a runner and its edge does to its messages. `hold` keeps them until `release`. */
export type LinkFault = 'cut' | 'duplicate' | 'delay' | 'reorder' | 'hold' | 'flip'

/** Names a direction: jobs go down to the runner, answers up to the edge. */
export type Direction = 'down' | 'up'

/** Holds a way to the edge that a test can bend. */
export type FaultyLink = {
  url: string
  /** Bends the next message in a direction, and only that one. */
  next(direction: Direction, fault: LinkFault): Promise<void>
  /** Lets go of what is held. */
  release(): void
  cut(): void
  stop(): Promise<void>
}

/** How long a delayed message is kept, in milliseconds. */
const delayMs = 1_500

/** Small messages are greetings and loads; a job or an answer of the models used here is larger. */
const isWork = (data: Buffer) => data.length > 300

/** Opens a way to an edge at `target` that passes HTTP and sockets on. */
export async function openFaultyLink(target: string): Promise<FaultyLink> {
  const upstream = new URL(target)
  const armed: Record<Direction, { fault: LinkFault; met: () => void } | null> = { down: null, up: null }
  let held: (() => void)[] = []
  const pairs = new Set<() => void>()

  const server = createServer((incoming, outgoing) => {
    const { method, url, headers } = incoming
    const onward = request({ host: upstream.hostname, port: upstream.port, method, path: url, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    onward.on('error', () => outgoing.destroy())
    incoming.pipe(onward)
  })
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 64 * 1024 * 1024 })

  function pass(direction: Direction, data: Buffer, to: WebSocket, waiting: Buffer[], cut: () => void): void {
    const send = (bytes: Buffer) => {
      if (to.readyState === WebSocket.OPEN) to.send(bytes)
    }
    const fault = armed[direction]
    if (!fault || !isWork(data)) {
      send(data)
      for (const later of waiting.splice(0)) send(later)
      return
    }
    armed[direction] = null
    fault.met()
    if (fault.fault === 'cut') cut()
    else if (fault.fault === 'duplicate') for (const _ of 'ab') send(data)
    else if (fault.fault === 'delay') setTimeout(() => send(data), delayMs)
    else if (fault.fault === 'reorder') {
      // Behind the next one, or by itself where none follows: a connection that stands loses nothing.
      waiting.push(data)
      setTimeout(() => {
        for (const late of waiting.splice(0)) send(late)
      }, delayMs)
    } else if (fault.fault === 'hold') held.push(() => send(data))
    else send(Buffer.from(data.map((byte, at) => (at === data.length - 20 ? byte ^ 1 : byte))))
  }

  function join(runner: WebSocket, { url, headers }: IncomingMessage): void {
    const edge = new WebSocket(`ws://${upstream.host}${url}`, {
      headers: { authorization: headers.authorization ?? '' },
      perMessageDeflate: false,
      maxPayload: 64 * 1024 * 1024,
    })
    const early: Buffer[] = []
    const late: Record<Direction, Buffer[]> = { down: [], up: [] }
    const cut = () => {
      runner.terminate()
      edge.terminate()
    }
    pairs.add(cut)
    runner.on('message', (data: Buffer) => {
      if (edge.readyState === WebSocket.CONNECTING) early.push(data)
      else pass('up', data, edge, late.up, cut)
    })
    edge.on('open', () => {
      for (const data of early.splice(0)) edge.send(data)
    })
    edge.on('message', (data: Buffer) => pass('down', data, runner, late.down, cut))
    edge.on('ping', () => runner.ping())
    edge.on('close', (code, reason) => (code >= 4000 ? runner.close(code, reason) : runner.terminate()))
    edge.on('error', () => runner.terminate())
    runner.on('error', () => edge.terminate())
    runner.on('close', () => {
      pairs.delete(cut)
      edge.terminate()
    })
  }
  server.on('upgrade', (incoming, socket, head) =>
    sockets.handleUpgrade(incoming, socket, head, (runner) => join(runner, incoming)),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    next: (direction, fault) =>
      new Promise((met) => {
        armed[direction] = { fault, met }
      }),
    release() {
      for (const send of held.splice(0)) send()
    },
    cut() {
      held = []
      for (const cut of [...pairs]) cut()
    },
    stop: () =>
      new Promise((resolve) => {
        for (const cut of [...pairs]) cut()
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}
