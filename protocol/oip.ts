import { EncodingError, fromHex, fromUtf8, type Hex, utf8 } from './bytes.ts'
import type { TensorSpec } from './manifest.ts'
import { checkTensorLength, type Datatype, elementCount, elementSize, isDatatype, type Tensor } from './tensors.ts'

/** Reports a tensor that is not what a model takes, or a request that is not in the protocol's form. */
export class TensorError extends Error {
  override name = 'TensorError'
}

/** Checks tensors against what a model takes: every name once, datatype, rank, fixed dimensions, and length of data. Throws TensorError naming the tensor, what was expected and what came. */
export function checkTensors(tensors: readonly Tensor[], specs: readonly TensorSpec[]): void {
  const expected = new Map(specs.map((spec) => [spec.name, spec]))
  const seen = new Set<string>()
  for (const tensor of tensors) {
    const spec = expected.get(tensor.name)
    if (!spec)
      throw new TensorError(
        `"${tensor.name}" is not one of the tensors: ${specs.map(({ name }) => `"${name}"`).join(', ')}.`,
      )
    if (seen.has(tensor.name)) throw new TensorError(`"${tensor.name}" is given twice.`)
    seen.add(tensor.name)
    if (tensor.datatype !== spec.datatype)
      throw new TensorError(`"${tensor.name}" takes ${spec.datatype}, got ${tensor.datatype}.`)
    const fits =
      tensor.shape.length === spec.shape.length &&
      spec.shape.every((dimension, axis) => dimension === -1 || dimension === tensor.shape[axis])
    if (!fits)
      throw new TensorError(
        `"${tensor.name}" takes shape [${spec.shape.join(', ')}], got [${tensor.shape.join(', ')}].`,
      )
    try {
      checkTensorLength(tensor)
    } catch (error) {
      if (error instanceof EncodingError) throw new TensorError(error.message)
      throw error
    }
  }
  for (const { name } of specs) if (!seen.has(name)) throw new TensorError(`"${name}" is missing.`)
}

type JsonTensor = {
  name: string
  shape: number[]
  datatype: string
  parameters?: Record<string, unknown>
  data?: unknown
}

const views = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP32: Float32Array,
  FP64: Float64Array,
} as const

const ranges: Partial<Record<Datatype, readonly [number, number]>> = {
  UINT8: [0, 0xff],
  UINT16: [0, 0xffff],
  UINT32: [0, 0xffff_ffff],
  INT8: [-0x80, 0x7f],
  INT16: [-0x8000, 0x7fff],
  INT32: [-0x8000_0000, 0x7fff_ffff],
}

function flatten(data: unknown, into: unknown[], limit: number, depth = 0): void {
  if (!Array.isArray(data)) {
    if (into.length >= limit) throw new TensorError(`More than ${limit} elements are given.`)
    into.push(data)
    return
  }
  if (depth > 255) throw new TensorError('Data nests deeper than 255.')
  for (const entry of data) flatten(entry, into, limit, depth + 1)
}

function bytesElements(values: unknown[], name: string): Uint8Array {
  const parts = values.map((value) => {
    if (typeof value !== 'string') throw new TensorError(`"${name}": a BYTES element must be text.`)
    return utf8(value)
  })
  const data = new Uint8Array(parts.reduce((sum, part) => sum + 4 + part.length, 0))
  const view = new DataView(data.buffer)
  let offset = 0
  for (const part of parts) {
    view.setUint32(offset, part.length, true)
    data.set(part, offset + 4)
    offset += 4 + part.length
  }
  return data
}

function fromJsonData(name: string, datatype: Datatype, shape: number[], data: unknown): Uint8Array {
  if (datatype === 'FP16') throw new TensorError(`"${name}": FP16 has no JSON form; send it as binary data.`)
  const values: unknown[] = []
  const count = elementCount(shape)
  flatten(data, values, count)
  if (values.length !== count)
    throw new TensorError(`"${name}" takes ${count} elements for shape [${shape.join(', ')}], got ${values.length}.`)
  if (datatype === 'BYTES') return bytesElements(values, name)
  const bad = (value: unknown, expected: string): never => {
    throw new TensorError(`"${name}": ${JSON.stringify(value)?.slice(0, 40)} is not ${expected}.`)
  }
  const array = new views[datatype](count)
  for (let i = 0; i < count; i++) {
    const value = values[i]
    if (datatype === 'BOOL')
      array[i] = value === true || value === 1 ? 1 : value === false || value === 0 ? 0 : bad(value, 'a boolean')
    else if (datatype === 'INT64' || datatype === 'UINT64') {
      // Past 2^53 a JSON number has already lost digits, so such values are given as text.
      const whole =
        Number.isSafeInteger(value) || (typeof value === 'string' && /^-?\d{1,20}$/.test(value))
          ? BigInt(value as number | string)
          : bad(value, 'a whole number (as text beyond 2^53)')
      if ((datatype === 'INT64' ? BigInt.asIntN(64, whole) : BigInt.asUintN(64, whole)) !== whole) bad(value, datatype)
      array[i] = whole
    } else if (datatype === 'FP32' || datatype === 'FP64')
      array[i] = typeof value === 'number' ? value : bad(value, 'a number')
    else {
      const [low, high] = ranges[datatype]!
      array[i] =
        Number.isInteger(value) && (value as number) >= low && (value as number) <= high
          ? (value as number)
          : bad(value, `a whole number in ${datatype}`)
    }
  }
  return new Uint8Array(array.buffer)
}

/** Reads an Open Inference Protocol v2 tensor whose data stands in JSON, flat or nested. Throws TensorError. */
export function tensorFromJson(json: unknown): Tensor {
  const { name, shape, datatype, data } = (json ?? {}) as JsonTensor
  const header = readHeader({ name, shape, datatype })
  return { ...header, data: fromJsonData(header.name, header.datatype, header.shape as number[], data) }
}

function readHeader({ name, shape, datatype }: JsonTensor): Omit<Tensor, 'data'> {
  if (typeof name !== 'string' || name === '') throw new TensorError('A tensor has no name.')
  if (datatype === 'BF16')
    throw new TensorError(`"${name}": BF16 is not a datatype of the protocol; send FP16 or FP32.`)
  if (typeof datatype !== 'string' || !isDatatype(datatype))
    throw new TensorError(`"${name}": "${String(datatype).slice(0, 16)}" is not a datatype.`)
  if (!Array.isArray(shape) || shape.length > 255) throw new TensorError(`"${name}" has no shape.`)
  try {
    elementCount(shape)
  } catch (error) {
    throw new TensorError(`"${name}": ${(error as Error).message}`)
  }
  return { name, datatype, shape }
}

/** Gives the elements of a tensor as JSON values: numbers, text beyond 2^53, text for BYTES. Throws TensorError for FP16, which has no JSON form. */
export function tensorToJson(tensor: Tensor): JsonTensor {
  const { name, datatype, shape } = tensor
  if (datatype === 'FP16') throw new TensorError(`"${name}": FP16 has no JSON form; ask for binary data.`)
  const copy = tensor.data.slice()
  let data: unknown[]
  if (datatype === 'BYTES') {
    data = []
    const view = new DataView(copy.buffer)
    for (let offset = 0; offset < copy.length; ) {
      const length = view.getUint32(offset, true)
      data.push(fromUtf8(copy.subarray(offset + 4, offset + 4 + length)))
      offset += 4 + length
    }
  } else {
    const array = new views[datatype](copy.buffer)
    data = Array.from(array as ArrayLike<number | bigint>, (value) => {
      if (datatype === 'BOOL') return value !== 0
      if (typeof value === 'bigint')
        return value >= -(2n ** 53n) && value <= 2n ** 53n ? Number(value) : value.toString()
      // JSON has no word for these; null would pass for a number nowhere.
      return Number.isFinite(value) ? value : String(value)
    })
  }
  return { name, shape: [...shape], datatype, data }
}

/** Reads `{ inputs: [...] }` as a person writes it. Throws TensorError. */
export function tensorsFromJson(json: unknown): Tensor[] {
  const { inputs } = (json ?? {}) as { inputs?: unknown }
  if (!Array.isArray(inputs)) throw new TensorError('Expected { "inputs": [{ name, shape, datatype, data }] }.')
  return inputs.map(tensorFromJson)
}

type Parameters = Record<string, string | number | boolean>

/** Writes the plaintext of an envelope: a padded JSON header, then the tensors' bytes in order. */
export function encodeBody(
  member: 'inputs' | 'outputs',
  tensors: readonly Tensor[],
  parameters: Parameters = {},
): Uint8Array<ArrayBuffer> {
  const header = {
    parameters,
    [member]: tensors.map(({ name, shape, datatype, data }) => ({
      name,
      shape,
      datatype,
      parameters: { binary_data_size: data.length },
    })),
  }
  return assemble(
    utf8(JSON.stringify(header)),
    tensors.map(({ data }) => data),
  )
}

/** Writes the plaintext of an envelope that carries an error instead of tensors. */
export function encodeErrorBody(error: string): Uint8Array<ArrayBuffer> {
  return assemble(utf8(JSON.stringify({ error })), [])
}

function assemble(json: Uint8Array, parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const padded = Math.ceil(json.length / 8) * 8
  let length = 8 + padded
  for (const part of parts) length += part.length
  const bytes = new Uint8Array(length)
  new DataView(bytes.buffer).setUint32(0, padded, true)
  bytes.set(json, 8)
  bytes.fill(0x20, 8 + json.length, 8 + padded)
  let offset = 8 + padded
  for (const part of parts) {
    bytes.set(part, offset)
    offset += part.length
  }
  return bytes
}

/** Holds the plaintext of an envelope: tensors as views into it, or an error. */
export type Body = { parameters: Record<string, unknown>; tensors: Tensor[]; error?: string }

/** Reads the plaintext of an envelope. Tensors are views, nothing is copied. Throws TensorError unless every byte is accounted for. */
export function decodeBody(member: 'inputs' | 'outputs', bytes: Uint8Array): Body {
  if (bytes.length < 8) throw new TensorError('The body is shorter than its prefix.')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const headerLength = view.getUint32(0, true)
  if (view.getUint32(4, true) !== 0 || headerLength % 8 !== 0 || headerLength > bytes.length - 8)
    throw new TensorError("The body's prefix is malformed.")
  let header: Record<string, unknown>
  try {
    header = JSON.parse(fromUtf8(bytes.subarray(8, 8 + headerLength))) as Record<string, unknown>
  } catch {
    throw new TensorError("The body's header is not JSON.")
  }
  if (typeof header?.error === 'string') return { parameters: {}, tensors: [], error: header.error }
  const list = header?.[member]
  if (!Array.isArray(list)) throw new TensorError(`The body has no ${member}.`)
  let offset = 8 + headerLength
  const tensors = list.map((json: JsonTensor) => {
    const tensorHeader = readHeader(json ?? ({} as JsonTensor))
    const size = json.parameters?.binary_data_size
    if (!Number.isSafeInteger(size) || (size as number) < 0 || offset + (size as number) > bytes.length) {
      throw new TensorError(`"${tensorHeader.name}": binary_data_size does not fit the body.`)
    }
    const tensor: Tensor = { ...tensorHeader, data: bytes.subarray(offset, offset + (size as number)) }
    offset += size as number
    try {
      checkTensorLength(tensor)
    } catch (error) {
      throw new TensorError((error as Error).message)
    }
    return tensor
  })
  if (offset !== bytes.length) throw new TensorError(`${bytes.length - offset} bytes belong to no tensor.`)
  return { parameters: (header.parameters ?? {}) as Record<string, unknown>, tensors }
}

/** Reads the buyer's salt from a request's parameters. Throws TensorError unless it is 32 bytes of hexadecimal. */
export function saltOf(body: Body): Uint8Array {
  try {
    return fromHex(body.parameters.salt as Hex, 32)
  } catch {
    throw new TensorError('The request has no 32-byte salt.')
  }
}

/** Gives the number of bytes one row of the first dimension takes, or null when rows vary. */
export function rowBytes(tensor: Pick<Tensor, 'datatype' | 'shape'>): number | null {
  const size = elementSize(tensor.datatype)
  return size === null || tensor.shape.length === 0 ? null : elementCount(tensor.shape.slice(1)) * size
}
