import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import { type Link, type LinkDeps, type LinkResult, openLink } from '../../gpu-runner/link.ts'
import {
  type Cancel,
  decodeFrame,
  encodeCancel,
  encodeJobRequest,
  type Frame,
  type JobRequest,
  joinFrames,
  splitFrames,
} from '../../protocol/frames.ts'

const request = (ticket: number): JobRequest => ({
  ticket,
  channel: new Uint8Array(32).fill(1),
  job: BigInt(ticket),
  context: new Uint8Array(8),
  deadlineMs: 1_000,
  body: new Uint8Array(10),
})
const refused = (ticket: number): LinkResult => ({ ticket, reason: 'at_capacity', detail: 'Full.' })

describe('openLink', () => {
  const close: (() => void)[] = []
  afterEach(() => {
    for (const each of close.splice(0).reverse()) each()
  })

  /** Stands in for a mailbox; each connection is one element of `sockets`, in order. */
  async function open(handle: LinkDeps['handle'], cancel?: LinkDeps['cancel']) {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const mailbox = new WebSocketServer({ server })
    const waiting: ((socket: WebSocket) => void)[] = []
    const arrived: WebSocket[] = []
    mailbox.on('connection', (socket) => {
      const next = waiting.shift()
      if (next) next(socket)
      else arrived.push(socket)
    })
    const link: Link = openLink({
      url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
      authorization: async () => ({}),
      hello: () => ({ models: [], capacity: 8 }),
      load: () => ({ queued: 2, capacity: 8 }),
      handle,
      ...(cancel ? { cancel } : {}),
      log: () => {},
      random: () => 0,
    })
    close.push(
      () => server.close(),
      () => mailbox.close(),
      () => link.close(),
    )
    return {
      link,
      async connection() {
        const socket = arrived.shift() ?? (await new Promise<WebSocket>((resolve) => waiting.push(resolve)))
        const frames: Frame[] = []
        let messages = 0
        socket.on('message', (data: Buffer) => {
          messages++
          frames.push(...splitFrames(new Uint8Array(data)).map(decodeFrame))
        })
        const until = async (enough: () => boolean) => {
          for (let left = 200; !enough(); left--) {
            if (left === 0) throw new Error('The link said nothing more.')
            await new Promise((resolve) => setTimeout(resolve, 10))
          }
        }
        return { socket, frames, messages: () => messages, until }
      },
    }
  }

  test('behavior: what is cancelled is handed on; without anyone to hand it to it is passed over', async () => {
    const seen: bigint[] = []
    const cancel = { channel: new Uint8Array(32).fill(1), job: 5n }
    for (const take of [({ job }: Cancel) => void seen.push(job), undefined]) {
      const { connection } = await open((requests, reply) => {
        for (const { ticket } of requests) reply(refused(ticket))
      }, take)
      const { socket, frames, until } = await connection()
      socket.send(joinFrames([encodeCancel(cancel), encodeJobRequest(request(7))]))
      await until(() => frames.some((frame) => frame.type === 'jobRefusal' && frame.ticket === 7))
    }
    expect(seen).toEqual([5n])
  })

  test('behavior: the jobs of a message come together, and their results leave together with one report of the load', async () => {
    const seen: number[] = []
    const { connection } = await open((requests, reply) => {
      seen.push(requests.length)
      for (const { ticket } of requests) reply(refused(ticket))
    })
    const { socket, frames, messages, until } = await connection()
    await until(() => messages() === 1)
    socket.send(joinFrames(Array.from({ length: 64 }, (_, ticket) => encodeJobRequest(request(ticket)))))
    await until(() => messages() === 2)
    expect(seen).toEqual([64])
    expect(frames.map(({ type }) => type)).toEqual(['hello', ...Array(64).fill('jobRefusal'), 'load'])
    expect(frames.at(-1)).toEqual({ type: 'load', queued: 2, capacity: 8 })
  })

  test('attack: a result never leaves on another connection than its job came in on', async () => {
    const replies: ((result: LinkResult) => void)[] = []
    const { connection } = await open((_, reply) => void replies.push(reply))
    const first = await connection()
    first.socket.send(joinFrames([encodeJobRequest(request(7))]))
    await first.until(() => replies.length === 1)
    first.socket.terminate()
    const second = await connection()
    await second.until(() => second.frames.length === 1)
    replies[0]!(refused(7))
    second.socket.send(joinFrames([encodeJobRequest(request(7))]))
    await second.until(() => replies.length === 2)
    expect(second.frames.map(({ type }) => type)).toEqual(['hello'])
    replies[1]!(refused(7))
    await second.until(() => second.frames.length === 3)
    expect(second.frames[1]).toEqual({ type: 'jobRefusal', ...refused(7) })
  })

  test('refusal: a frame that cannot be read is refused under its ticket; its neighbours are handled', async () => {
    const seen: number[] = []
    const { connection } = await open((requests) => void seen.push(...requests.map(({ ticket }) => ticket)))
    const { socket, frames, until } = await connection()
    const broken = encodeJobRequest(request(1)).slice(0, 20)
    socket.send(joinFrames([encodeJobRequest(request(0)), broken, new Uint8Array([99]), encodeJobRequest(request(2))]))
    await until(() => frames.some(({ type }) => type === 'jobRefusal'))
    expect(frames.find(({ type }) => type === 'jobRefusal')).toMatchObject({ ticket: 1, reason: 'bad_frame' })
    expect(seen).toEqual([0, 2])
  })
})
