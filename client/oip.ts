import { utf8 } from '../protocol/bytes.ts'
import type { TensorSpec } from '../protocol/manifest.ts'
import { bytesElementsOf, lengthPrefixed, numbersOf, TensorError } from '../protocol/oip.ts'
import {
  headerLengthName,
  type OipParameters,
  readHeaderLength,
  readInferResponse,
  writeInferRequest,
} from '../protocol/oipHttp.ts'
import { checkTensorLength, type Datatype, type Tensor } from '../protocol/tensors.ts'

/** Holds the elements of a tensor: a typed array of its datatype; for BYTES its elements, for FP16 a Float16Array, or the bits where the platform has none. */
export type OipData =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float16Array
  | Float32Array
  | Float64Array
  | Uint8Array[]

/** Names an input and its elements. `datatype` is read off the typed array unless given; BOOL needs it, and so does FP16 given as bits. BYTES takes texts or byte strings. */
export type OipInput = { name: string; shape: readonly number[]; datatype?: Datatype; data: OipData | string[] }

/** Holds an output and its elements. */
export type OipOutput = { name: string; datatype: Datatype; shape: readonly number[]; data: OipData }

/** Holds what a server says of itself. */
export type OipServer = { name: string; version: string; extensions: string[] }

/** Holds what a server says of a model; -1 in a shape is an open dimension. */
export type OipModel = {
  name: string
  versions?: string[]
  platform: string
  inputs: TensorSpec[]
  outputs: TensorSpec[]
}

/** Holds an answer. `headers` carry what a server adds of its own, such as a receipt. */
export type OipAnswer = {
  modelName: string
  modelVersion?: string
  id?: string
  parameters: OipParameters
  outputs: OipOutput[]
  headers: Headers
  /** Gives an output by its name. Throws TensorError when the answer has none of that name. */
  output(name: string): OipOutput
}

/** Says what to ask of a model. */
export type OipAsk = {
  inputs: readonly OipInput[]
  /** The outputs wanted, all unless given. */
  outputs?: readonly string[]
  version?: string
  id?: string
  parameters?: OipParameters
  /** Sends and asks for raw tensors, or for JSON. Unless given, raw where the server says that it takes them. */
  binary?: boolean
  signal?: AbortSignal
}

/** Reports what a server refused: its HTTP status and its own words. */
export class OipError extends Error {
  override name = 'OipError'
  readonly status: number
  readonly headers: Headers
  constructor(status: number, message: string, headers: Headers) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

/** Speaks the Open Inference Protocol v2 with a server. Every call throws OipError for what the server refuses, and what `fetch` throws when it is not reached. */
export type OipClient = {
  server(): Promise<OipServer>
  live(): Promise<boolean>
  ready(): Promise<boolean>
  model(name: string, version?: string): Promise<OipModel>
  modelReady(name: string, version?: string): Promise<boolean>
  /** Runs a model. Throws TensorError when an input is not what it says, or when the answer cannot be read. */
  infer(name: string, ask: OipAsk): Promise<OipAnswer>
}

/**
 * Makes a client for any server of the Open Inference Protocol v2: Triton, KServe, or `assay proxy`.
 * @example
 * const client = createOipClient({ baseUrl: 'http://127.0.0.1:8000' })
 * const { output } = await client.infer('digits', { inputs: [{ name: 'pixels', shape: [1, 64], data: new Float32Array(64) }] })
 */
export function createOipClient({
  baseUrl,
  fetch: fetchImplementation = fetch,
  headers = {},
}: {
  baseUrl: string
  fetch?: typeof fetch
  /** Goes along with every request. */
  headers?: Record<string, string>
}): OipClient {
  const base = `${baseUrl.replace(/\/$/, '')}/v2`
  const modelPath = (name: string, version?: string) =>
    `/models/${encodeURIComponent(name)}${version === undefined ? '' : `/versions/${encodeURIComponent(version)}`}`
  const send = (path: string, init: RequestInit = {}) =>
    fetchImplementation(`${base}${path}`, { ...init, headers: { ...headers, ...init.headers } })
  const read = async <T>(path: string): Promise<T> => (await accepted(await send(path))).json() as Promise<T>
  const says = async (path: string): Promise<boolean> => {
    const response = await send(path)
    await response.body?.cancel()
    return response.ok
  }
  let takesBinary: Promise<boolean> | undefined
  /** Asks once whether the server has the extension; one that does not say is spoken to in JSON, which all understand. */
  const formOf = (): Promise<boolean> => {
    takesBinary ??= read<OipServer>('').then(({ extensions }) => extensions?.includes('binary_tensor_data') ?? false)
    return takesBinary.catch(() => {
      takesBinary = undefined
      return false
    })
  }
  return {
    server: () => read(''),
    live: () => says('/health/live'),
    ready: () => says('/health/ready'),
    model: (name, version) => read(modelPath(name, version)),
    modelReady: (name, version) => says(`${modelPath(name, version)}/ready`),
    async infer(name, { inputs, outputs, version, binary: asked, signal, ...rest }) {
      const tensors = inputs.map(toTensor)
      const binary = asked ?? (await formOf())
      const { bytes, headerLength } = writeInferRequest({
        ...rest,
        inputs: tensors,
        ...(outputs ? { outputs: outputs.map((each) => ({ name: each, binary })) } : {}),
        binary,
      })
      const form: Record<string, string> =
        headerLength === null
          ? { 'content-type': 'application/json' }
          : { 'content-type': 'application/octet-stream', [headerLengthName]: String(headerLength) }
      const init = { method: 'POST', headers: form, body: bytes, ...(signal ? { signal } : {}) }
      const response = await accepted(await send(`${modelPath(name, version)}/infer`, init))
      const body = new Uint8Array(await response.arrayBuffer())
      const answer = readInferResponse(body, readHeaderLength(response.headers.get(headerLengthName), body.length))
      const read = answer.outputs.map(toOutput)
      return {
        ...answer,
        outputs: read,
        headers: response.headers,
        output(wanted) {
          const found = read.find((each) => each.name === wanted)
          if (!found) throw new TensorError(`The answer has no output "${wanted}".`)
          return found
        },
      }
    },
  }
}

async function accepted(response: Response): Promise<Response> {
  if (response.ok) return response
  const { error, detail } = ((await response.json().catch(() => null)) ?? {}) as { error?: unknown; detail?: unknown }
  // Servers built on FastAPI say `detail` where the protocol says `error`, and not always as text.
  const said = error ?? detail
  const words = typeof said === 'string' ? said : said === undefined ? '' : JSON.stringify(said).slice(0, 500)
  throw new OipError(response.status, words || `The server answered ${response.status}.`, response.headers)
}

/** Names the datatype a typed array holds; by its tag, since an array may come from another realm. */
const datatypesOf: Record<string, Datatype> = {
  Uint8Array: 'UINT8',
  Uint16Array: 'UINT16',
  Uint32Array: 'UINT32',
  BigUint64Array: 'UINT64',
  Int8Array: 'INT8',
  Int16Array: 'INT16',
  Int32Array: 'INT32',
  BigInt64Array: 'INT64',
  Float16Array: 'FP16',
  Float32Array: 'FP32',
  Float64Array: 'FP64',
}

/** Lists what else may be given as the bytes of a datatype that no typed array stands for. */
const sameBytes: Partial<Record<Datatype, string>> = { BOOL: 'UINT8', FP16: 'UINT16' }

function toTensor({ name, shape, datatype, data }: OipInput): Tensor {
  if (Array.isArray(data)) {
    if (datatype !== undefined && datatype !== 'BYTES')
      throw new TensorError(`"${name}": a list of texts or byte strings is BYTES, not ${datatype}.`)
    const parts = data.map((each) => (typeof each === 'string' ? utf8(each) : each))
    return checked({ name, datatype: 'BYTES', shape, data: lengthPrefixed(parts) })
  }
  const held = datatypesOf[(data as { [Symbol.toStringTag]: string })[Symbol.toStringTag]]
  if (!held) throw new TensorError(`"${name}": data is no typed array and no list.`)
  const meant = datatype ?? held
  if (meant !== held && sameBytes[meant] !== held)
    throw new TensorError(`"${name}": the array holds ${held}, not ${meant}.`)
  return checked({ name, datatype: meant, shape, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) })
}

function checked(tensor: Tensor): Tensor {
  try {
    checkTensorLength(tensor)
  } catch (error) {
    throw new TensorError((error as Error).message)
  }
  return tensor
}

function toOutput(tensor: Tensor): OipOutput {
  const { name, datatype, shape } = tensor
  if (datatype === 'BYTES') return { name, datatype, shape, data: bytesElementsOf(tensor) }
  if (datatype === 'FP16') {
    const bits = numbersOf({ ...tensor, datatype: 'UINT16' }) as Uint16Array
    const half =
      typeof Float16Array === 'undefined' ? bits : new Float16Array(bits.buffer, bits.byteOffset, bits.length)
    return { name, datatype, shape, data: half }
  }
  return { name, datatype, shape, data: numbersOf({ ...tensor, datatype }) }
}
