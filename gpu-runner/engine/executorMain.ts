import { readSync, writevSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'
import type { Datatype, Tensor } from '../../protocol/tensors.ts'
import { decodeMessage, encodeMessage, kinds, type Message, messageLength, prefixLength } from './wire.ts'

/** The executor process: the only place that calls onnxruntime. It owns no key, no network and an empty working directory, and may be killed at any moment. It does one thing at a time and waits for nothing else, so it reads and writes its socket synchronously. */

/** The end of a socket pair whose other end the control process holds. */
const socket = 3

type OrtTensor = {
  type: string
  data: ArrayLike<number | bigint | string> & { buffer?: ArrayBuffer; byteOffset?: number; byteLength?: number }
  dims: readonly number[]
}
/** The binding below onnxruntime-node's asynchronous surface, whose `run` is the same call after a turn of the event loop. */
type NativeSession = {
  loadModel(buffer: ArrayBuffer, byteOffset: number, byteLength: number, options: object): void
  outputMetadata: readonly { name: string }[]
  run(feeds: Record<string, OrtTensor>, fetches: Record<string, null>, options: object): Record<string, OrtTensor>
  dispose(): void
}
type Binding = { initOrt(): void; binding: { InferenceSession: new () => NativeSession } }
type Ort = {
  env: { logLevel: string }
  Tensor: new (type: string, data: unknown, dims: readonly number[]) => OrtTensor
}
type Session = {
  native: NativeSession
  fixed: Record<string, OrtTensor>
  outputs: readonly string[]
  fetches: Record<string, null>
}

const require = createRequire(import.meta.url)
const ort = require('onnxruntime-node') as Ort & { listSupportedBackends(): { name: string }[] }
ort.env.logLevel = 'fatal'
const { initOrt, binding } = require('onnxruntime-node/dist/binding.js') as Binding
initOrt()
const sessions = new Map<string, Session>()

const types: Record<
  Datatype,
  readonly [string, (new (buffer: ArrayBufferLike, at: number, n: number) => object) | null, number]
> = {
  BOOL: ['bool', Uint8Array, 1],
  UINT8: ['uint8', Uint8Array, 1],
  UINT16: ['uint16', Uint16Array, 2],
  UINT32: ['uint32', Uint32Array, 4],
  UINT64: ['uint64', BigUint64Array, 8],
  INT8: ['int8', Int8Array, 1],
  INT16: ['int16', Int16Array, 2],
  INT32: ['int32', Int32Array, 4],
  INT64: ['int64', BigInt64Array, 8],
  FP16: ['float16', Uint16Array, 2],
  FP32: ['float32', Float32Array, 4],
  FP64: ['float64', Float64Array, 8],
  BYTES: ['string', null, 1],
}
const datatypeOf = Object.fromEntries(Object.entries(types).map(([datatype, [type]]) => [type, datatype])) as Record<
  string,
  Datatype
>

function readStrings(data: Uint8Array): string[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  const strings: string[] = []
  for (let offset = 0; offset < data.length; ) {
    const length = view.getUint32(offset, true)
    strings.push(Buffer.from(data.subarray(offset + 4, offset + 4 + length)).toString('utf8'))
    offset += 4 + length
  }
  return strings
}

function toOrt({ datatype, shape, data }: Tensor): OrtTensor {
  const [type, View, size] = types[datatype]
  if (!View) return new ort.Tensor(type, readStrings(data), shape)
  return new ort.Tensor(type, new View(data.buffer, data.byteOffset, data.length / size), shape)
}

function fromOrt(name: string, tensor: OrtTensor): Tensor {
  const datatype = datatypeOf[tensor.type]
  if (!datatype) throw new Error(`Output "${name}" has type ${tensor.type}, which the protocol does not carry.`)
  const shape = [...tensor.dims]
  if (datatype === 'BYTES') {
    const parts = Array.from(tensor.data as ArrayLike<string>, (text) => Buffer.from(text, 'utf8'))
    const prefixed = parts.flatMap((part) => {
      const length = Buffer.alloc(4)
      length.writeUInt32LE(part.length)
      return [length, part]
    })
    return { name, datatype, shape, data: new Uint8Array(Buffer.concat(prefixed)) }
  }
  const { buffer, byteOffset, byteLength } = tensor.data
  return { name, datatype, shape, data: new Uint8Array(buffer!, byteOffset, byteLength) }
}

function load({ text, tensors: [graph, ...rest] }: Message): void {
  const { model, threads, provider, device, files } = JSON.parse(text) as {
    model: string
    threads: number
    provider: string
    device: number | null
    files: number
  }
  const external = rest.slice(0, files)
  // Of the message only these are kept, so they move to memory of their own.
  const fixed = rest.slice(files).map((tensor) => [tensor.name, toOrt({ ...tensor, data: tensor.data.slice() })])
  const native = new binding.InferenceSession()
  native.loadModel(graph!.data.buffer as ArrayBuffer, graph!.data.byteOffset, graph!.data.byteLength, {
    executionProviders: [device === null ? provider : { name: provider, deviceId: device }],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
    externalData: external.map(({ name, data }) => ({ path: name, data })),
    logSeverityLevel: 4,
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  })
  const outputs = native.outputMetadata.map(({ name }) => name)
  sessions.set(model, {
    native,
    fixed: Object.fromEntries(fixed),
    outputs,
    fetches: Object.fromEntries(outputs.map((name) => [name, null])),
  })
}

function handle(message: Message): Tensor[] {
  if (message.kind === kinds.load) {
    load(message)
    return []
  }
  const session = sessions.get(message.text)
  if (message.kind === kinds.unload) {
    session?.native.dispose()
    sessions.delete(message.text)
    return []
  }
  if (!session) throw new Error('The model is not loaded in this executor.')
  const feeds = { ...session.fixed }
  for (const tensor of message.tensors) feeds[tensor.name] = toOrt(tensor)
  const results = session.native.run(feeds, session.fetches, {})
  return session.outputs.map((name) => fromOrt(name, results[name]!))
}

function write(message: Message): void {
  let parts = encodeMessage(message).filter(({ length }) => length > 0)
  while (parts.length > 0) {
    // The kernel takes at most 1,024 parts at a time (IOV_MAX), and may take fewer bytes than it was given.
    let taken = writevSync(socket, parts.slice(0, 1_024))
    let whole = 0
    while (whole < parts.length && taken >= parts[whole]!.length) taken -= parts[whole++]!.length
    parts = parts.slice(whole)
    if (taken > 0) parts[0] = parts[0]!.subarray(taken)
  }
}

/** Requests are read into the same memory again and again; only a model gets its own, which goes when it is loaded. Between `next` and `end` lies what has been read and not used: a request sent ahead. */
let buffer = Buffer.alloc(1_048_576)
let next = 0
let end = 0
const largestKept = 268_435_456

/** Reads what is there, at least a byte; gives how many. */
function readSome(into: Buffer, at: number): number {
  const count = readSync(socket, into, at, Math.min(into.length - at, 1_073_741_824), null)
  // The control process is gone, and with it the reason to be here.
  if (count === 0) process.exit(0)
  return count
}

/** Moves what has been read and not used to the front of memory that takes so many bytes. */
function makeRoom(length: number): void {
  const into = length > buffer.length ? Buffer.alloc(length) : buffer
  buffer.copy(into, 0, next, end)
  buffer = into
  end -= next
  next = 0
}

/** Reads a request that is not kept into memory of its own. */
function readLarge(length: number): Message {
  const into = Buffer.alloc(length)
  let have = buffer.copy(into, 0, next, end)
  next = end = 0
  while (have < length) have += readSome(into, have)
  return decodeMessage(into)
}

function read(): Message {
  if (next === end) next = end = 0
  if (buffer.length - next < prefixLength) makeRoom(prefixLength)
  while (end - next < prefixLength) end += readSome(buffer, end)
  const length = messageLength(buffer.subarray(next, end), Number.MAX_SAFE_INTEGER)
  if (length > buffer.length && (length > largestKept || buffer.readUInt8(next + 16) !== kinds.run))
    return readLarge(length)
  if (length > buffer.length - next) makeRoom(length)
  while (end - next < length) end += readSome(buffer, end)
  const message = decodeMessage(buffer.subarray(next, next + length))
  next += length
  return message
}

/** This thread is deaf while it runs a model; another sees that the control process is gone, so that no run outlives whoever wanted it. It is there before this process says that it is ready: the control process lives until then, and removes the working directory, without which no thread starts. */
const watching = new Int32Array(new SharedArrayBuffer(4))
new Worker(
  `const { workerData: { watching, ppid } } = require('node:worker_threads')
  setInterval(() => process.ppid === ppid || process.kill(process.pid, 'SIGKILL'), 1000)
  Atomics.store(watching, 0, 1)
  Atomics.notify(watching, 0)`,
  { eval: true, workerData: { watching, ppid: process.ppid } },
)
Atomics.wait(watching, 0, 0)
write({
  kind: kinds.ready,
  id: 0,
  text: JSON.stringify(ort.listSupportedBackends().map(({ name }) => name)),
  tensors: [],
})
for (;;) {
  const request = read()
  try {
    write({ kind: kinds.done, id: request.id, text: '', tensors: handle(request) })
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error)
    write({ kind: kinds.failed, id: request.id, text: text.slice(0, 4_096), tensors: [] })
  }
}
