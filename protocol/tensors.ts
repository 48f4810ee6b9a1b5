import { compareBytes, EncodingError, fromUtf8, Reader, utf8 } from './bytes.ts'
import { digestsApart, type HashRows, sha256 } from './hash.ts'
import { ByForm } from './tensorForm.ts'

/** Lists the Open Inference Protocol v2 datatypes. */
export const datatypes = [
  'BOOL',
  'UINT8',
  'UINT16',
  'UINT32',
  'UINT64',
  'INT8',
  'INT16',
  'INT32',
  'INT64',
  'FP16',
  'FP32',
  'FP64',
  'BYTES',
] as const

/** Names an Open Inference Protocol v2 datatype. */
export type Datatype = (typeof datatypes)[number]

/** Holds a named tensor; `data` is little-endian, row-major; BYTES elements carry a little-endian u32 length each. */
export type Tensor = { name: string; datatype: Datatype; shape: readonly number[]; data: Uint8Array }

const elementSizes: Record<Exclude<Datatype, 'BYTES'>, number> = {
  BOOL: 1,
  UINT8: 1,
  UINT16: 2,
  UINT32: 4,
  UINT64: 8,
  INT8: 1,
  INT16: 2,
  INT32: 4,
  INT64: 8,
  FP16: 2,
  FP32: 4,
  FP64: 8,
}

/** Gives the bytes of one element, or null for BYTES, whose elements vary. */
export function elementSize(datatype: Datatype): number | null {
  return datatype === 'BYTES' ? null : elementSizes[datatype]
}

/** Tells whether a string names a datatype. */
export function isDatatype(text: string): text is Datatype {
  return (datatypes as readonly string[]).includes(text)
}

/** Counts the elements of a shape. Throws EncodingError on a negative or fractional dimension or a count past 2^53. */
export function elementCount(shape: readonly number[]): number {
  let count = 1
  for (const dimension of shape) {
    if (!Number.isSafeInteger(dimension) || dimension < 0) {
      throw new EncodingError(`Dimension ${dimension} is not a whole number of elements.`)
    }
    count *= dimension
  }
  if (!Number.isSafeInteger(count))
    throw new EncodingError(`Shape [${shape.join(', ')}] has more elements than can be counted.`)
  return count
}

/** Checks that the data of a tensor is exactly as long as its shape says. Throws EncodingError naming the tensor. */
export function checkTensorLength({ name, datatype, shape, data }: Tensor): void {
  const count = elementCount(shape)
  const size = elementSize(datatype)
  if (size !== null) {
    if (data.length !== count * size) {
      throw new EncodingError(
        `Tensor "${name}": ${datatype} [${shape.join(', ')}] takes ${count * size} bytes, got ${data.length}.`,
      )
    }
    return
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  let offset = 0
  let seen = 0
  while (offset < data.length) {
    if (offset + 4 > data.length) throw new EncodingError(`Tensor "${name}": a BYTES element is cut off.`)
    offset += 4 + view.getUint32(offset, true)
    seen++
  }
  if (offset !== data.length || seen !== count) {
    throw new EncodingError(`Tensor "${name}": BYTES [${shape.join(', ')}] takes ${count} whole elements, got ${seen}.`)
  }
}

type Prepared = { tensor: Tensor; nameBytes: Uint8Array; datatype: Uint8Array }

function prepare(tensors: readonly Tensor[]): Prepared[] {
  const prepared = tensors.map((tensor) => {
    checkTensorLength(tensor)
    const nameBytes = utf8(tensor.name)
    if (nameBytes.length === 0 || nameBytes.length > 0xffff)
      throw new EncodingError('A tensor name takes 1 to 65,535 bytes.')
    // A lone surrogate and U+FFFD encode alike, so a name must survive the round trip to have one encoding.
    if (!tensor.name.isWellFormed()) throw new EncodingError('A tensor name must be well-formed Unicode.')
    if (tensor.shape.length > 255) throw new EncodingError(`Tensor "${tensor.name}" has more than 255 dimensions.`)
    return { tensor, nameBytes, datatype: datatypeBytes[tensor.datatype] }
  })
  if (prepared.length > 1) prepared.sort((a, b) => compareBytes(a.nameBytes, b.nameBytes))
  for (let i = 1; i < prepared.length; i++) {
    if (prepared[i]!.tensor.name === prepared[i - 1]!.tensor.name) {
      throw new EncodingError(`Two tensors are named "${prepared[i]!.tensor.name}".`)
    }
  }
  return prepared
}

const datatypeBytes = Object.fromEntries(datatypes.map((name) => [name, utf8(name)])) as Record<Datatype, Uint8Array>

const lengthOf = ({ tensor, nameBytes, datatype }: Prepared) =>
  2 + nameBytes.length + 1 + datatype.length + 1 + 8 * tensor.shape.length + 8 + tensor.data.length

/** Holds canonical bytes, and where in them the data of each tensor stands, in the order the tensors were given. */
type Canonical = { bytes: Uint8Array<ArrayBuffer>; places: number[] }

/** Writes the canonical bytes of a set of tensors behind `prefix`, in one pass. */
function writeCanonical(prefix: readonly Uint8Array[], tensors: readonly Tensor[]): Canonical {
  const prepared = prepare(tensors)
  let length = 4
  for (const part of prefix) length += part.length
  for (const each of prepared) length += lengthOf(each)
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)
  const places: number[] = []
  let offset = 0
  const put = (part: Uint8Array) => {
    bytes.set(part, offset)
    offset += part.length
  }
  const putU64 = (value: number) => {
    view.setUint32(offset, Math.floor(value / 2 ** 32))
    view.setUint32(offset + 4, value % 2 ** 32)
    offset += 8
  }
  for (const part of prefix) put(part)
  view.setUint32(offset, prepared.length)
  offset += 4
  for (const { tensor, nameBytes, datatype } of prepared) {
    view.setUint16(offset, nameBytes.length)
    offset += 2
    put(nameBytes)
    bytes[offset++] = datatype.length
    put(datatype)
    bytes[offset++] = tensor.shape.length
    for (const dimension of tensor.shape) putU64(dimension)
    putU64(tensor.data.length)
    places[tensors.indexOf(tensor)] = offset
    put(tensor.data)
  }
  return { bytes, places }
}

/** Writes the canonical bytes of a set of tensors, sorted by name. Throws EncodingError on a repeated name or a wrong length. */
export function canonicalTensors(tensors: readonly Tensor[]): Uint8Array {
  return writeCanonical([], tensors).bytes
}

/** Reads canonical bytes back. Throws EncodingError unless the bytes are exactly what `canonicalTensors` would write. */
export function parseCanonicalTensors(bytes: Uint8Array): Tensor[] {
  const reader = new Reader(bytes)
  const count = reader.u32()
  const tensors: Tensor[] = []
  let previous: Uint8Array | undefined
  for (let i = 0; i < count; i++) {
    const nameBytes = reader.take(reader.u16())
    if (previous && compareBytes(previous, nameBytes) >= 0)
      throw new EncodingError('Tensors are not in the order of their names.')
    previous = nameBytes
    const datatype = fromUtf8(reader.take(reader.u8()))
    if (!isDatatype(datatype)) throw new EncodingError(`"${datatype.slice(0, 16)}" is not a datatype.`)
    const rank = reader.u8()
    const shape: number[] = []
    for (let axis = 0; axis < rank; axis++) {
      const dimension = reader.u64()
      if (dimension > BigInt(Number.MAX_SAFE_INTEGER)) throw new EncodingError('A dimension is too large.')
      shape.push(Number(dimension))
    }
    const length = reader.u64()
    if (length > BigInt(bytes.length)) throw new EncodingError('A tensor is longer than the bytes that hold it.')
    const tensor: Tensor = { name: fromUtf8(nameBytes), datatype, shape, data: reader.take(Number(length)) }
    if (nameBytes.length === 0) throw new EncodingError('A tensor has no name.')
    checkTensorLength(tensor)
    tensors.push(tensor)
  }
  reader.end()
  return tensors
}

const commitmentTag = utf8('ASY1tens')

/** Longest canonical bytes kept to be written over for the next tensors of the same form. */
const maxKept = 16 * 1024
const kept = new ByForm<Canonical>()

/** Commits to a set of tensors under a 32-byte salt, so a small input cannot be guessed from its digest. */
export function tensorCommitment(salt: Uint8Array, tensors: readonly Tensor[]): Uint8Array {
  if (salt.length !== 32) throw new EncodingError(`A salt takes 32 bytes, got ${salt.length}.`)
  const known = kept.find(tensors)
  if (known) {
    known.bytes.set(salt, commitmentTag.length)
    for (let at = 0; at < tensors.length; at++) known.bytes.set(tensors[at]!.data, known.places[at]!)
    return sha256(known.bytes)
  }
  const written = writeCanonical([commitmentTag, salt], tensors)
  if (written.bytes.length <= maxKept) kept.remember(tensors, written)
  return sha256(written.bytes)
}

/** Longest canonical bytes hashed as rows: of longer ones the call that hashes each by itself is the smaller part. */
const longestRow = 512

/** Commits to sets of tensors, each under its 32-byte salt: as rows where they are of one form, known and short. */
export function tensorCommitments(
  salts: readonly Uint8Array[],
  sets: readonly (readonly Tensor[])[],
  hashRows: HashRows,
): Uint8Array[] {
  const known = sets.length > 1 && salts.every(({ length }) => length === 32) ? kept.find(sets[0]!) : undefined
  if (!known || known.bytes.length > longestRow || sets.some((tensors) => kept.find(tensors) !== known))
    return sets.map((tensors, at) => tensorCommitment(salts[at]!, tensors))
  const { bytes, places } = known
  const rows = new Uint8Array(sets.length * bytes.length)
  for (let row = 0; row < sets.length; row++) {
    const start = row * bytes.length
    const tensors = sets[row]!
    rows.set(bytes, start)
    rows.set(salts[row]!, start + commitmentTag.length)
    for (let at = 0; at < tensors.length; at++) rows.set(tensors[at]!.data, start + places[at]!)
  }
  return digestsApart(hashRows(rows, bytes.length))
}
