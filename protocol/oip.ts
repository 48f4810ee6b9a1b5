import { EncodingError, fromHex, fromUtf8, type Hex, utf8 } from './bytes.ts'
import { KnownHeaders } from './knownHeaders.ts'
import type { TensorSpec } from './manifest.ts'
import { ByForm } from './tensorForm.ts'
import { checkTensorLength, type Datatype, elementCount, elementSize, isDatatype, type Tensor } from './tensors.ts'

/** Reports a tensor that is not what a model takes, or a request that is not in the protocol's form. */
export class TensorError extends Error {
  override name = 'TensorError'
}

/** Checks tensors against what a model takes: every name once, datatype, rank, fixed dimensions, and length of data. Throws TensorError naming the tensor, what was expected and what came. */
export function checkTensors(tensors: readonly Tensor[], specs: readonly TensorSpec[]): void {
  const known = fitting.get(specs)
  if (known?.find(tensors)) return
  checkEach(tensors, specs)
  const forms = known ?? new ByForm<true>()
  forms.remember(tensors, true)
  if (!known) fitting.set(specs, forms)
}

/** Forms that were found to fit, by what a model takes. */
const fitting = new WeakMap<readonly TensorSpec[], ByForm<true>>()

function checkEach(tensors: readonly Tensor[], specs: readonly TensorSpec[]): void {
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

/** Holds a tensor as JSON carries it. */
export type JsonTensor = {
  name: string
  shape: number[]
  datatype: string
  parameters?: Record<string, unknown> | null
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

/** Names what JSON has no number for, as ProtoJSON writes it. */
const words: Record<string, number> = { NaN: Number.NaN, Infinity: Infinity, '-Infinity': -Infinity }

type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown

/** Parses JSON and keeps every digit: a whole number beyond 2^53 becomes a bigint. Throws SyntaxError. */
export function parseJson(text: string): unknown {
  // Only a run of sixteen digits can be such a number, and a reviver makes parsing several times slower.
  if (!/\d{16}/.test(text)) return JSON.parse(text)
  const exact: Reviver = (_, value, { source }) =>
    typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(source ?? '') ? BigInt(source!) : value
  return JSON.parse(text, exact as (key: string, value: unknown) => unknown)
}

/** Gives the elements in row-major order, from a flat list or from lists nested as the shape says. */
function flatten(name: string, shape: readonly number[], data: unknown): unknown[] {
  const count = elementCount(shape)
  if (Array.isArray(data) && data.length === count && !Array.isArray(data[0])) return data
  const values: unknown[] = []
  const walk = (entry: unknown, axis: number): void => {
    if (axis === shape.length) {
      values.push(entry)
      return
    }
    if (!Array.isArray(entry) || entry.length !== shape[axis])
      throw new TensorError(
        `"${name}" takes ${count} elements in one list, or lists nested as shape [${shape.join(', ')}], got ${Array.isArray(entry) ? `a list of ${entry.length}` : typeof entry}.`,
      )
    for (const each of entry) walk(each, axis + 1)
  }
  walk(data, 0)
  return values
}

function bytesElements(values: unknown[], name: string): Uint8Array {
  const parts = values.map((value) => {
    if (typeof value !== 'string') throw new TensorError(`"${name}": a BYTES element must be text.`)
    return utf8(value)
  })
  return lengthPrefixed(parts)
}

/** Writes elements of BYTES: a little-endian u32 length before each. */
export function lengthPrefixed(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
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

/** Gives the elements of a BYTES tensor as views into it. The tensor's length must have been checked. */
export function bytesElementsOf({ data }: Pick<Tensor, 'data'>): Uint8Array[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  const parts: Uint8Array[] = []
  for (let offset = 0; offset < data.length; ) {
    const length = view.getUint32(offset, true)
    parts.push(data.subarray(offset + 4, offset + 4 + length))
    offset += 4 + length
  }
  return parts
}

/** Gives a tensor's numbers as a typed array: a view where the bytes are aligned, a copy where they are not. */
export function numbersOf({
  datatype,
  data,
}: Pick<Tensor, 'data'> & { datatype: Exclude<Datatype, 'BYTES' | 'FP16'> }): InstanceType<
  (typeof views)[keyof typeof views]
> {
  const View = views[datatype]
  const aligned = data.byteOffset % View.BYTES_PER_ELEMENT === 0 ? data : data.slice()
  return new View(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / View.BYTES_PER_ELEMENT)
}

/** Shows a value of somebody else's JSON in an error. A list or an object is named and not written out: it may nest too deep to write, or refuse to become text. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object' && value !== null) return 'an object'
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 40)) : String(value)
}

function wholeNumber(value: unknown): bigint | null {
  if (typeof value === 'bigint') return value
  if (Number.isSafeInteger(value)) return BigInt(value as number)
  return typeof value === 'string' && /^-?\d{1,20}$/.test(value) ? BigInt(value) : null
}

function realNumber(value: unknown): number | null {
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  if (typeof value === 'bigint') return Number(value)
  return typeof value === 'string' && Object.hasOwn(words, value) ? words[value]! : null
}

function fromJsonData(name: string, datatype: Datatype, shape: number[], data: unknown): Uint8Array {
  if (datatype === 'FP16') throw new TensorError(`"${name}": FP16 has no JSON form; send it as binary data.`)
  const values = flatten(name, shape, data)
  const count = values.length
  if (datatype === 'BYTES') return bytesElements(values, name)
  const bad = (value: unknown, expected: string): never => {
    throw new TensorError(`"${name}": ${shown(value)} is not ${expected}.`)
  }
  const array = new views[datatype](count)
  for (let i = 0; i < count; i++) {
    const value = values[i]
    if (datatype === 'BOOL')
      array[i] = value === true || value === 1 ? 1 : value === false || value === 0 ? 0 : bad(value, 'a boolean')
    else if (datatype === 'INT64' || datatype === 'UINT64') {
      const whole = wholeNumber(value) ?? bad(value, 'a whole number (as text beyond 2^53)')
      if ((datatype === 'INT64' ? BigInt.asIntN(64, whole) : BigInt.asUintN(64, whole)) !== whole) bad(value, datatype)
      array[i] = whole
    } else if (datatype === 'FP32' || datatype === 'FP64') {
      const real = realNumber(value) ?? bad(value, 'a number, "NaN", "Infinity" or "-Infinity"')
      array[i] = real
      // Rounding to infinity would make another number of it.
      if (typeof value !== 'string' && !Number.isFinite(array[i])) bad(value, `within the range of ${datatype}`)
    } else {
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
    throw new TensorError(`"${name}": ${shown(datatype)} is not a datatype.`)
  if (!Array.isArray(shape) || shape.length > 255) throw new TensorError(`"${name}" has no shape.`)
  try {
    elementCount(shape)
  } catch (error) {
    throw new TensorError(`"${name}": ${(error as Error).message}`)
  }
  return { name, datatype, shape }
}

/** Gives the elements of a tensor as JSON values: numbers, text beyond 2^53 and for what is no finite number, text for BYTES. Throws TensorError for FP16, which has no JSON form, and for BYTES that are not UTF-8. */
export function tensorToJson(tensor: Tensor): JsonTensor {
  const { name, datatype, shape } = tensor
  if (datatype === 'FP16') throw new TensorError(`"${name}": FP16 has no JSON form; ask for binary data.`)
  if (datatype === 'BYTES') return { name, shape: [...shape], datatype, data: textsOf(tensor) }
  const data = Array.from(numbersOf({ ...tensor, datatype }) as ArrayLike<number | bigint>, (value) => {
    if (datatype === 'BOOL') return value !== 0
    if (typeof value === 'bigint') return value >= -(2n ** 53n) && value <= 2n ** 53n ? Number(value) : value.toString()
    // JSON has no word for these; null would pass for a number nowhere.
    return Number.isFinite(value) ? value : String(value)
  })
  return { name, shape: [...shape], datatype, data }
}

/** Gives the elements of a BYTES tensor as text. Throws TensorError unless each is UTF-8. */
function textsOf(tensor: Pick<Tensor, 'name' | 'data'>): string[] {
  try {
    return bytesElementsOf(tensor).map(fromUtf8)
  } catch {
    throw new TensorError(`"${tensor.name}" holds bytes that are not text; ask for binary data.`)
  }
}

/** Writes the elements of a tensor as the text of a JSON list, every digit of a whole number and the sign of zero kept. Throws what `tensorToJson` throws. */
export function tensorDataText(tensor: Tensor): string {
  const { name, datatype } = tensor
  if (datatype === 'FP16') throw new TensorError(`"${name}": FP16 has no JSON form; ask for binary data.`)
  if (datatype === 'BYTES') return JSON.stringify(textsOf(tensor))
  const numbers = numbersOf({ ...tensor, datatype })
  if (datatype === 'BOOL') return `[${Array.from(numbers as Uint8Array, (value) => value !== 0).join()}]`
  if (datatype !== 'FP32' && datatype !== 'FP64') return `[${numbers.join()}]`
  const texts = Array.from(numbers as Float64Array, (value) =>
    Number.isFinite(value) ? (Object.is(value, -0) ? '-0' : String(value)) : `"${value}"`,
  )
  return `[${texts.join()}]`
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
  parameters?: Parameters,
): Uint8Array<ArrayBuffer> {
  if (parameters !== undefined)
    return assemble(`{"parameters":${JSON.stringify(parameters)},"${member}":[${listText(tensors)}]}`, tensors)
  const known = headers[member].find(tensors)
  if (known) return withHeader(known, tensors)
  const bytes = assemble(`{"${member}":[${listText(tensors)}]}`, tensors)
  headers[member].remember(tensors, bytes.slice(0, bytes.length - rawLength(tensors)))
  return bytes
}

/** Headers without parameters, their prefix before them. */
const headers = { inputs: new ByForm<Uint8Array>(), outputs: new ByForm<Uint8Array>() }
const lists = new ByForm<string>()

const listText = (tensors: readonly Tensor[]): string =>
  lists.find(tensors) ?? lists.remember(tensors, tensors.map(binaryTensorText).join())

function withHeader(header: Uint8Array, tensors: readonly Tensor[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(header.length + rawLength(tensors))
  bytes.set(header)
  setRaw(bytes, header.length, tensors)
  return bytes
}

function rawLength(tensors: readonly Tensor[]): number {
  let length = 0
  for (const { data } of tensors) length += data.length
  return length
}

function setRaw(bytes: Uint8Array, at: number, tensors: readonly Tensor[]): void {
  let offset = at
  for (const { data } of tensors) {
    bytes.set(data, offset)
    offset += data.length
  }
}

/** Writes the plaintext of an envelope that carries an error instead of tensors. */
export function encodeErrorBody(error: string): Uint8Array<ArrayBuffer> {
  return assemble(JSON.stringify({ error }), [])
}

/** Writes what a header says of a tensor whose bytes follow it. Joined by hand: at a thousand elements, making objects for `JSON.stringify` is a quarter of the work. */
export function binaryTensorText({ name, shape, datatype, data }: Tensor): string {
  return `{"name":${JSON.stringify(name)},"shape":[${shape.join()}],"datatype":"${datatype}","parameters":{"binary_data_size":${data.length}}}`
}

function assemble(json: string, tensors: readonly Tensor[]): Uint8Array<ArrayBuffer> {
  const { bytes, headerLength } = joinPadded(json, tensors, 8)
  for (let at = 0; at < 4; at++) bytes[at] = headerLength >>> (8 * at)
  return bytes
}

const encoder = new TextEncoder()

/** Joins JSON and raw tensors, with spaces between them so that the first tensor stands at a multiple of 8; `prefix` bytes are left free before. Gives the length of the JSON, its spaces included. */
export function joinPadded(
  json: string,
  tensors: readonly Tensor[],
  prefix: 0 | 8 = 0,
): { bytes: Uint8Array<ArrayBuffer>; headerLength: number } {
  const raw = rawLength(tensors)
  // ASCII takes as many bytes as characters, so the header is written straight to its place; other text is measured first.
  let room = roundUp8(json.length)
  let bytes = new Uint8Array(prefix + room + raw)
  let { read, written } = encoder.encodeInto(json, bytes.subarray(prefix, prefix + room))
  if (read < json.length) {
    room = roundUp8(encoder.encode(json).length)
    bytes = new Uint8Array(prefix + room + raw)
    ;({ read, written } = encoder.encodeInto(json, bytes.subarray(prefix, prefix + room)))
  }
  for (let at = prefix + written; at < prefix + room; at++) bytes[at] = 0x20
  setRaw(bytes, prefix + room, tensors)
  return { bytes, headerLength: room }
}

const roundUp8 = (length: number): number => Math.ceil(length / 8) * 8

/** Reads tensors whose data stands in JSON, or as `binary_data_size` bytes in `binary`; binary data is viewed, not copied. Throws TensorError unless every byte is accounted for. */
export function readTensors(list: unknown, member: 'inputs' | 'outputs', binary: Uint8Array): Tensor[] {
  if (!Array.isArray(list)) throw new TensorError(`The body has no ${member}.`)
  let offset = 0
  const tensors: Tensor[] = []
  for (const json of list as (JsonTensor | null)[]) {
    const size = json?.parameters?.binary_data_size
    if (size === undefined) {
      tensors.push(tensorFromJson(json))
      continue
    }
    const { name, datatype, shape } = readHeader(json!)
    if (json!.data !== undefined) throw new TensorError(`"${name}" has both data and binary_data_size; it takes one.`)
    if (!Number.isSafeInteger(size) || (size as number) < 0 || offset + (size as number) > binary.length)
      throw new TensorError(`"${name}": binary_data_size does not fit the body.`)
    const tensor: Tensor = { name, datatype, shape, data: binary.subarray(offset, offset + (size as number)) }
    offset += size as number
    try {
      checkTensorLength(tensor)
    } catch (error) {
      throw new TensorError((error as Error).message)
    }
    tensors.push(tensor)
  }
  if (offset !== binary.length) throw new TensorError(`${binary.length - offset} bytes belong to no tensor.`)
  return tensors
}

/** Holds the plaintext of an envelope: tensors as views into it, or an error; `salt` is what a request says it is. */
export type Body = { salt: unknown; tensors: Tensor[]; error?: string }

const knownHeaders = { inputs: new KnownHeaders(), outputs: new KnownHeaders() }

/** Reads the plaintext of an envelope. Tensors are views, nothing is copied. Throws TensorError unless every byte is accounted for. */
export function decodeBody(member: 'inputs' | 'outputs', bytes: Uint8Array): Body {
  if (bytes.length < 8) throw new TensorError('The body is shorter than its prefix.')
  const headerLength = u32(bytes, 0)
  if (u32(bytes, 4) !== 0 || headerLength % 8 !== 0 || headerLength > bytes.length - 8)
    throw new TensorError("The body's prefix is malformed.")
  const headerBytes = bytes.subarray(8, 8 + headerLength)
  const raw = bytes.subarray(8 + headerLength)
  const known = knownHeaders[member].read(headerBytes, raw)
  if (known) return known
  let text: string
  let header: Record<string, unknown>
  try {
    text = fromUtf8(headerBytes)
    header = JSON.parse(text) as Record<string, unknown>
  } catch {
    throw new TensorError("The body's header is not JSON.")
  }
  if (typeof header?.error === 'string') return { salt: undefined, tensors: [], error: header.error }
  const list = header?.[member]
  // An envelope carries tensors in binary only: one form, one size, one set of bytes to commit to.
  if (Array.isArray(list) && list.some((json: JsonTensor | null) => json?.parameters?.binary_data_size === undefined))
    throw new TensorError('A tensor in an envelope has no binary_data_size.')
  const tensors = readTensors(list, member, raw)
  const { salt } = (header.parameters ?? {}) as { salt?: unknown }
  knownHeaders[member].remember(headerBytes, text, salt, tensors)
  return { salt, tensors }
}

/** Reads a little-endian u32; four bytes cost less than making a DataView. */
function u32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
}

/** Reads the buyer's salt from a request's parameters. Throws TensorError unless it is 32 bytes of hexadecimal. */
export function saltOf({ salt }: Body): Uint8Array {
  try {
    return salt instanceof Uint8Array ? salt : fromHex(salt as Hex, 32)
  } catch {
    throw new TensorError('The request has no 32-byte salt.')
  }
}

/** Gives the number of bytes one row of the first dimension takes, or null when rows vary. */
export function rowBytes(tensor: Pick<Tensor, 'datatype' | 'shape'>): number | null {
  const size = elementSize(tensor.datatype)
  return size === null || tensor.shape.length === 0 ? null : elementCount(tensor.shape.slice(1)) * size
}
