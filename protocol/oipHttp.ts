import { fromUtf8, utf8 } from './bytes.ts'
import type { TensorSpec } from './manifest.ts'
import {
  binaryTensorText,
  joinPadded,
  lengthPrefixed,
  parseJson,
  readTensors,
  shown,
  TensorError,
  tensorDataText,
} from './oip.ts'
import { elementCount, elementSize, type Tensor } from './tensors.ts'

/** The Open Inference Protocol v2 over HTTP, with the binary tensor data extension: a JSON header, whose length a request header states, and raw tensors after it. */

/** Names the HTTP header that says how many bytes of a body are JSON. */
export const headerLengthName = 'inference-header-content-length'

/** Holds the parameters of a request, a response or a tensor. */
export type OipParameters = Record<string, string | number | boolean>

/** Names an output to give back, and in which form. */
export type OutputRequest = { name: string; binary: boolean }

/** Holds an inference request. `outputs` is null when all are wanted, in the form `binaryOutput` says. */
export type InferRequest = {
  id?: string
  parameters: OipParameters
  inputs: Tensor[]
  outputs: OutputRequest[] | null
  binaryOutput: boolean
}

/** Holds an inference response. */
export type InferResponse = {
  modelName: string
  modelVersion?: string
  id?: string
  parameters: OipParameters
  outputs: Tensor[]
}

/** Holds a body to send; `headerLength` is null when it is JSON alone. */
export type OipBody = { bytes: Uint8Array<ArrayBuffer>; headerLength: number | null }

/** Reads the header that says how many bytes are JSON: null where there is none. Throws TensorError unless it is a length that fits the body. */
export function readHeaderLength(text: string | null, bodyLength: number): number | null {
  if (text === null) return null
  if (!/^\d{1,15}$/.test(text) || Number(text) > bodyLength)
    throw new TensorError(
      `Inference-Header-Content-Length is "${text.slice(0, 20)}"; it takes the length of the JSON, and the body has ${bodyLength} bytes.`,
    )
  return Number(text)
}

type Json = Record<string, unknown>

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

function readJson(body: Uint8Array, headerLength: number | null): { json: Json; binary: Uint8Array } {
  let json: unknown
  try {
    json = parseJson(fromUtf8(body.subarray(0, headerLength ?? body.length)))
  } catch {
    throw new TensorError(
      'The body is not JSON. Where raw tensors follow the JSON, Inference-Header-Content-Length gives its length; NaN and Infinity are text in JSON.',
    )
  }
  if (!isObject(json)) throw new TensorError('The body is not a JSON object.')
  return { json, binary: body.subarray(headerLength ?? body.length) }
}

function readParameters(value: unknown, where: string): OipParameters {
  if (value === undefined || value === null) return {}
  if (!isObject(value)) throw new TensorError(`The parameters of ${where} are not an object.`)
  for (const [name, each] of Object.entries(value))
    if (!['string', 'number', 'boolean'].includes(typeof each))
      throw new TensorError(`Parameter "${name.slice(0, 40)}" of ${where} is neither text, a number nor a boolean.`)
  return value as OipParameters
}

function readFlag(parameters: OipParameters, name: string, otherwise: boolean): boolean {
  const value = parameters[name] ?? otherwise
  if (typeof value !== 'boolean') throw new TensorError(`Parameter "${name}" is neither true nor false.`)
  return value
}

function readId(id: unknown): { id?: string } {
  if (id === undefined || id === null) return {}
  if (typeof id !== 'string') throw new TensorError('The id is not text.')
  return { id }
}

/** Lists parameters that change what an answer means, and that a server without them must not pass over. */
const unsupported = ['sequence_id', 'classification', 'shared_memory_region'] as const

function refuseUnsupported(parameters: OipParameters, where: string): void {
  for (const name of unsupported)
    if (parameters[name] !== undefined && parameters[name] !== 0 && parameters[name] !== '')
      throw new TensorError(`Parameter "${name}" of ${where} is not supported.`)
}

function readOutputs(list: unknown, binaryOutput: boolean): OutputRequest[] | null {
  if (list === undefined || list === null) return null
  if (!Array.isArray(list)) throw new TensorError('The outputs asked for are not a list.')
  // An empty list asks for nothing in particular, as clients send it.
  if (list.length === 0) return null
  return list.map((entry: unknown) => {
    if (!isObject(entry) || typeof entry.name !== 'string') throw new TensorError('An output asked for has no name.')
    const parameters = readParameters(entry.parameters, `output "${entry.name}"`)
    refuseUnsupported(parameters, `output "${entry.name}"`)
    return { name: entry.name, binary: readFlag(parameters, 'binary_data', binaryOutput) }
  })
}

/** Reads an inference request whose first `headerLength` bytes are JSON, or all of it where that is null. Throws TensorError saying what is wrong. */
export function readInferRequest(body: Uint8Array, headerLength: number | null): InferRequest {
  const { json, binary } = readJson(body, headerLength)
  const parameters = readParameters(json.parameters, 'the request')
  refuseUnsupported(parameters, 'the request')
  if (Array.isArray(json.inputs))
    for (const input of json.inputs)
      if (isObject(input)) {
        const where = `input ${shown(input.name)}`
        const own = readParameters(input.parameters, where)
        refuseUnsupported(own, where)
        if (own.binary_data_size !== undefined && headerLength === null)
          throw new TensorError(
            `The ${where} has binary_data_size, but the request has no Inference-Header-Content-Length.`,
          )
      }
  const binaryOutput = readFlag(parameters, 'binary_data_output', false)
  return {
    ...readId(json.id),
    parameters,
    inputs: readTensors(json.inputs, 'inputs', binary),
    outputs: readOutputs(json.outputs, binaryOutput),
    binaryOutput,
  }
}

/** Reads a body that is one tensor and nothing else, for a model with one input of at most one open dimension; BYTES takes the whole body as one element. Throws TensorError where the model's input is another. */
export function readRawTensor(body: Uint8Array, specs: readonly TensorSpec[]): Tensor {
  const [spec, ...more] = specs
  if (!spec || more.length > 0)
    throw new TensorError(`A raw body is for models of one input; this one takes ${specs.length}.`)
  const { name, datatype, shape } = spec
  const size = elementSize(datatype)
  const open = shape.filter((dimension) => dimension === -1).length
  if (size === null) {
    const one = shape.map((dimension) => (dimension === -1 ? 1 : dimension))
    if (elementCount(one) !== 1)
      throw new TensorError(`A raw body is one element; "${name}" takes [${shape.join(', ')}].`)
    return { name, datatype, shape: one, data: lengthPrefixed([body]) }
  }
  if (open > 1) throw new TensorError(`"${name}" has ${open} open dimensions: a raw body does not say which is which.`)
  const row = elementCount(shape.filter((dimension) => dimension !== -1)) * size
  if (open === 0 && body.length !== row)
    throw new TensorError(`"${name}" takes ${row} bytes for shape [${shape.join(', ')}], got ${body.length}.`)
  if (open === 1 && (row === 0 || body.length === 0 || body.length % row !== 0))
    throw new TensorError(
      `"${name}" takes a multiple of ${row} bytes for shape [${shape.join(', ')}], got ${body.length}.`,
    )
  return {
    name,
    datatype,
    shape: shape.map((dimension) => (dimension === -1 ? body.length / row : dimension)),
    data: body,
  }
}

function tensorText(tensor: Tensor, binary: boolean): string {
  if (binary) return binaryTensorText(tensor)
  const { name, datatype, shape } = tensor
  return `{"name":${JSON.stringify(name)},"shape":[${shape.join()}],"datatype":"${datatype}","data":${tensorDataText(tensor)}}`
}

/** Joins a header's members and its tensors, each in the form asked for. */
function writeBody(
  head: Json,
  member: 'inputs' | 'outputs',
  tensors: readonly { tensor: Tensor; binary: boolean }[],
  tail: Json = {},
): OipBody {
  const rest = (json: Json) => {
    const text = JSON.stringify(json)
    return text === '{}' ? '' : text.slice(1, -1)
  }
  const list = `"${member}":[${tensors.map(({ tensor, binary }) => tensorText(tensor, binary)).join()}]`
  const json = `{${[rest(head), list, rest(tail)].filter((part) => part !== '').join()}}`
  const raw = tensors.filter(({ binary }) => binary).map(({ tensor }) => tensor)
  return raw.length === 0 ? { bytes: utf8(json), headerLength: null } : joinPadded(json, raw)
}

/** Writes an inference request, its inputs and the outputs it asks for in binary or in JSON. Throws TensorError for what has no JSON form. */
export function writeInferRequest({
  id,
  parameters = {},
  inputs,
  outputs,
  binary = true,
}: {
  id?: string
  parameters?: OipParameters
  inputs: readonly Tensor[]
  outputs?: readonly OutputRequest[] | null
  binary?: boolean
}): OipBody {
  const asked = outputs?.map((output) => ({ name: output.name, parameters: { binary_data: output.binary } }))
  const all = asked || !binary ? parameters : { ...parameters, binary_data_output: true }
  return writeBody(
    { ...(id === undefined ? {} : { id }), ...(Object.keys(all).length > 0 ? { parameters: all } : {}) },
    'inputs',
    inputs.map((tensor) => ({ tensor, binary })),
    asked ? { outputs: asked } : {},
  )
}

/** Writes an inference response, each output in the form asked for. Throws TensorError for what has no JSON form. */
export function writeInferResponse({
  modelName,
  modelVersion,
  id,
  parameters,
  outputs,
}: Omit<InferResponse, 'outputs'> & { outputs: readonly { tensor: Tensor; binary: boolean }[] }): OipBody {
  const head = {
    model_name: modelName,
    ...(modelVersion === undefined ? {} : { model_version: modelVersion }),
    ...(id === undefined ? {} : { id }),
    parameters,
  }
  return writeBody(head, 'outputs', outputs)
}

/** Reads an inference response, whoever wrote it. Throws TensorError saying what is wrong. */
export function readInferResponse(body: Uint8Array, headerLength: number | null): InferResponse {
  const { json, binary } = readJson(body, headerLength)
  return {
    // The protocol asks for it, and servers leave it out.
    modelName: typeof json.model_name === 'string' ? json.model_name : '',
    ...(typeof json.model_version === 'string' ? { modelVersion: json.model_version } : {}),
    ...readId(json.id),
    parameters: readParameters(json.parameters, 'the response'),
    outputs: readTensors(json.outputs, 'outputs', binary),
  }
}

/** Chooses the outputs a request asks for, in its order and form. Throws TensorError for one the model does not have, one asked for twice, and one without a JSON form asked for in JSON; before anything is bought when given the model's specs. */
export function chooseOutputs<T extends TensorSpec | Tensor>(
  { outputs, binaryOutput }: Pick<InferRequest, 'outputs' | 'binaryOutput'>,
  available: readonly T[],
): { tensor: T; binary: boolean }[] {
  const byName = new Map(available.map((each) => [each.name, each]))
  const asked = outputs ?? available.map(({ name }) => ({ name, binary: binaryOutput }))
  const seen = new Set<string>()
  return asked.map(({ name, binary }) => {
    const tensor = byName.get(name)
    if (!tensor)
      throw new TensorError(
        `"${name}" is not one of the outputs: ${[...byName.keys()].map((each) => `"${each}"`).join(', ')}.`,
      )
    if (seen.has(name)) throw new TensorError(`Output "${name}" is asked for twice.`)
    seen.add(name)
    if (tensor.datatype === 'FP16' && !binary)
      throw new TensorError(`Output "${name}" is FP16, which has no JSON form; ask for binary data.`)
    return { tensor, binary }
  })
}
