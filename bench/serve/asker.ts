import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { type WebSocket, WebSocketServer } from 'ws'
import { createNativeEnvelope, type NativeEnvelope } from '../../gpu-runner/nativeEnvelope.ts'
import { nodeFlags } from '../../gpu-runner/nodeFlags.ts'
import { createRunnerSigner } from '../../gpu-runner/signer.ts'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { contextId, direction, envelopeInfo, envelopeKeys } from '../../protocol/envelope.ts'
import { decodeFrame, encodeJobRequest, frameType, joinFrames, splitFrames } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { setupSender } from '../../protocol/hpke.ts'
import { encodeBody } from '../../protocol/oip.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { buildModel, domain, type ModelName, models, payout, price } from './model.ts'

/** Ways a measured runner serves. */
export type Mode = 'bare' | 'signed' | 'full'

/** Tells whether jobs may share a run, or have one each: models whose bits change with the rows beside are served so. */
export type Batch = 'free' | 'single'

/** Holds one runner process on its socket, as a mailbox holds it. `ask` has it answer so many jobs, `inFlight` at a time, and gives the seconds that took. */
export type Asked = { ask(jobs: number, inFlight: number): Promise<number>; stop(): Promise<void> }

const buyer = createRunnerSigner(sha256(utf8('test key: buyer')))

type Channel = { id: Uint8Array; terms: Terms; enc: Uint8Array; envelope: NativeEnvelope | null; job: bigint }

type Opened = { runner: Hex; hpkeKey: Uint8Array; model: Hex; sealed: boolean }

async function openChannel({ runner, hpkeKey, model, sealed }: Opened, index: number): Promise<Channel> {
  const terms: Terms = {
    buyer: buyer.address,
    runner,
    model,
    publisher: payout,
    price,
    royaltyBps: 500,
    feeBps: 100,
    expiresAt: BigInt(Math.floor(Date.now() / 1000) + 86_400),
    salt: toHex(sha256(utf8(`channel ${index}`))),
  }
  const id = fromHex(channelOf(domain, terms), 32)
  const { enc, context } = await setupSender(hpkeKey, envelopeInfo(id))
  const keys = await envelopeKeys(context)
  return { id, terms, enc, envelope: sealed ? createNativeEnvelope(id, keys) : null, job: 0n }
}

function requestOf(channel: Channel, ticket: number, width: number): Uint8Array {
  const job = ++channel.job
  const data = new Uint8Array(Float32Array.from({ length: width }, (_, at) => (at + Number(job)) % 17).buffer)
  const input: Tensor = { name: 'pixels', datatype: 'FP32', shape: [1, width], data }
  const plaintext = encodeBody('inputs', [input], { salt: toHex(sha256(utf8(`salt ${job}`))) })
  const cumulative = job * price
  const signature = buyer.sign(voucherDigest(domain, { channel: toHex(channel.id), cumulative })) as Uint8Array
  return encodeJobRequest({
    ticket,
    channel: channel.id,
    job,
    context: contextId(channel.enc),
    deadlineMs: 30_000,
    ...(job === 1n ? { opening: { terms: channel.terms, enc: channel.enc } } : {}),
    voucher: { cumulative, signature },
    body: channel.envelope?.seal(job, direction.request, plaintext) ?? plaintext,
  })
}

async function connect(mode: Mode, model: ModelName, { batch, cores }: { batch: Batch; cores: string | null }) {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const sockets = new WebSocketServer({ server, perMessageDeflate: false })
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const script = join(import.meta.dirname, 'runner.ts')
  const command = [process.execPath, ...nodeFlags, script, mode, model, url, batch]
  const child: ChildProcess = cores
    ? spawn('taskset', ['-c', cores, ...command], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    : spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const [socket, request] = (await Promise.race([
    once(sockets, 'connection'),
    once(child, 'exit').then(([code]) => Promise.reject(new Error(`The runner ended with ${code}.`))),
  ])) as [WebSocket, IncomingMessage]
  const authorization = request.headers.authorization!.slice('Assay '.length)
  const { runner, hpkeKey } = JSON.parse(Buffer.from(authorization, 'base64').toString()) as Record<string, Hex>
  const stop = async () => {
    const ended = once(child, 'exit')
    child.disconnect()
    await ended
    socket.terminate()
    sockets.close()
    server.close()
  }
  return { socket, runner: runner!, hpkeKey: fromHex(hpkeKey!, 32), stop }
}

// A status stands behind channel and job in the receipt, which stands behind type and ticket.
const statusAt = 5 + 32 + 8

/** Lays frames back to back as a message holds them, so that any that follow one another are a message without a copy. */
function queueOf(frames: readonly Uint8Array[]) {
  const bytes = joinFrames(frames)
  const ends = [0]
  for (const frame of frames) ends.push(ends.at(-1)! + 4 + frame.length)
  return { message: (from: number, to: number) => bytes.subarray(ends[from], ends[to]) }
}

/** Counts the good answers in a message; null where a frame of it is another one than an answer, a load or a hello. */
function countAnswers(message: Buffer): number | null {
  let answers = 0
  for (let at = 0; at < message.length; at += 4 + message.readUInt32BE(at)) {
    const type = message[at + 4]
    if (type === frameType.jobAnswer && message[at + 4 + statusAt] === 0) answers++
    else if (type !== frameType.load && type !== frameType.hello) return null
  }
  return answers
}

const describe = (message: Uint8Array) =>
  JSON.stringify(splitFrames(message).map(decodeFrame), (_, value) =>
    typeof value === 'bigint' ? String(value) : value,
  )

// What was made beforehand would otherwise be collected while the runner is measured, on cores it needs.
setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Starts a runner process and stands in for its mailbox: frames made beforehand go down its socket, as many at once as answers came back. */
export async function startAsked(
  mode: Mode,
  model: ModelName,
  { channels = 1, cores = null, batch = 'free' }: { channels?: number; cores?: string | null; batch?: Batch } = {},
): Promise<Asked> {
  const { socket, runner, hpkeKey, stop } = await connect(mode, model, { batch, cores })
  const opened = { runner, hpkeKey, model: buildModel(model).served.digest, sealed: mode === 'full' }
  const open = await Promise.all(Array.from({ length: channels }, (_, index) => openChannel(opened, index)))
  const ask: Asked['ask'] = async (jobs, inFlight) => {
    const width = models[model][0]
    const made = queueOf(Array.from({ length: jobs }, (_, at) => requestOf(open[at % channels]!, at, width)))
    collectGarbage()
    let sent = 0
    let answered = 0
    const send = (count: number) => {
      const end = Math.min(jobs, sent + count)
      if (end > sent) socket.send(made.message(sent, end))
      sent = end
    }
    const started = performance.now()
    await new Promise<void>((resolve, reject) => {
      const receive = (message: Buffer) => {
        const answers = countAnswers(message)
        if (answers === null) {
          socket.off('message', receive)
          return reject(new Error(`A job was not answered: ${describe(message)}`))
        }
        answered += answers
        if (answered < jobs) return send(answers)
        socket.off('message', receive)
        resolve()
      }
      socket.on('message', receive)
      send(inFlight)
    })
    return (performance.now() - started) / 1_000
  }
  // Each channel is opened by its first job; what follows relies on it.
  await ask(channels, channels)
  return { ask, stop }
}
