import { createRequire } from 'node:module'
import type { Datatype, Tensor } from '../../protocol/tensors.ts'
import type { ExecutorRequest, ExecutorResponse } from './messages.ts'

/** The executor process: the only place that calls onnxruntime. It owns no key, no network and an empty working directory, and may be killed at any moment. */

type OrtTensor = {
  type: string
  data: ArrayLike<number | bigint | string> & { buffer?: ArrayBuffer; byteOffset?: number; byteLength?: number }
  dims: readonly number[]
}
type OrtSession = {
  outputNames: readonly string[]
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>
}
type Ort = {
  Tensor: new (type: string, data: unknown, dims: readonly number[]) => OrtTensor
  InferenceSession: { create(bytes: Uint8Array, options: object): Promise<OrtSession> }
}

const ort = createRequire(import.meta.url)('onnxruntime-node') as Ort
const sessions = new Map<string, OrtSession>()

const types: Record<Datatype, readonly [string, (new (buffer: ArrayBuffer) => object) | null]> = {
  BOOL: ['bool', Uint8Array],
  UINT8: ['uint8', Uint8Array],
  UINT16: ['uint16', Uint16Array],
  UINT32: ['uint32', Uint32Array],
  UINT64: ['uint64', BigUint64Array],
  INT8: ['int8', Int8Array],
  INT16: ['int16', Int16Array],
  INT32: ['int32', Int32Array],
  INT64: ['int64', BigInt64Array],
  FP16: ['float16', Uint16Array],
  FP32: ['float32', Float32Array],
  FP64: ['float64', Float64Array],
  BYTES: ['string', null],
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
  const [type, View] = types[datatype]
  if (!View) return new ort.Tensor(type, readStrings(data), shape)
  // The channel between processes gives no alignment; a typed array needs its own.
  return new ort.Tensor(type, new View(data.slice().buffer), shape)
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

async function handle(request: ExecutorRequest): Promise<Tensor[]> {
  if (request.op === 'load') {
    if (!sessions.has(request.model)) {
      const session = await ort.InferenceSession.create(request.graph, {
        executionProviders: ['cpu'],
        intraOpNumThreads: request.threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: 'all',
        externalData: request.external,
        logSeverityLevel: 4,
        extra: { session: { intra_op: { allow_spinning: '0' } } },
      })
      sessions.set(request.model, session)
    }
    return []
  }
  const session = sessions.get(request.model)
  if (!session) throw new Error('The model is not loaded in this executor.')
  const outputs = await session.run(Object.fromEntries(request.feeds.map((tensor) => [tensor.name, toOrt(tensor)])))
  return session.outputNames.map((name) => fromOrt(name, outputs[name]!))
}

process.on('message', async (request: ExecutorRequest) => {
  let response: ExecutorResponse
  try {
    response = { id: request.id, outputs: await handle(request) }
  } catch (error) {
    response = { id: request.id, error: error instanceof Error ? error.message : String(error) }
  }
  process.send?.(response)
})
process.on('disconnect', () => process.exit(0))
