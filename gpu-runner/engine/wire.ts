import { datatypes, type Tensor } from '../../protocol/tensors.ts'

/** The bytes between the control process and an executor: one message at a time each way. All integers little-endian; the payload begins at a multiple of 8 and so does each tensor in it, so that both sides use the bytes where they lie. */

/** Says what a message is. */
export const kinds = { ready: 1, load: 2, unload: 3, run: 4, done: 5, failed: 6 } as const

/** Names what a message is, by its number. */
export type Kind = (typeof kinds)[keyof typeof kinds]

/** Holds a message: a word about it (a digest, a reason, JSON) and tensors; a file travels as a UINT8 tensor under its path. */
export type Message = { kind: Kind; id: number; text: string; tensors: Tensor[] }

/** Reports bytes that are no message. */
export class WireError extends Error {
  override name = 'WireError'
}

/** prefix: u32 header length, u32 id, f64 payload length, u8 kind, 7 zero bytes */
export const prefixLength = 24

/** The longest header taken: names and shapes of a thousand tensors. */
const maxHeaderLength = 4_194_304

const pad8 = (length: number) => (length + 7) & ~7
/** Rounds up lengths past 2^31, which bit operations would cut. */
const padLarge = (length: number) => Math.ceil(length / 8) * 8

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true })

/** Texts whose bytes are kept, and the longest of them: a model's digest and the names of its tensors come with every run, and making their bytes anew takes longer than writing the rest of the header. */
const mostTexts = 256
const longestText = 256
const encoded = new Map<string, Uint8Array>()

/** Gives a text's bytes, which nobody may change. */
function bytesOfText(text: string): Uint8Array {
  const known = encoded.get(text)
  if (known) return known
  const bytes = encoder.encode(text)
  if (text.length > longestText) return bytes
  if (encoded.size >= mostTexts) encoded.clear()
  encoded.set(text, bytes)
  return bytes
}

/** Writes a message as parts to be sent in order; the tensors' data is not copied. */
export function encodeMessage({ kind, id, text, tensors }: Message): Uint8Array[] {
  const textBytes = bytesOfText(text)
  const names = tensors.map(({ name }) => bytesOfText(name))
  let length = 8 + textBytes.length
  for (const [index, { shape }] of tensors.entries()) length += 12 + names[index]!.length + shape.length * 8
  const headerLength = pad8(length)
  const head = new Uint8Array(prefixLength + headerLength)
  const view = new DataView(head.buffer)
  const parts: Uint8Array[] = [head]
  view.setUint32(0, headerLength, true)
  view.setUint32(4, id, true)
  view.setUint8(16, kind)
  view.setUint32(24, textBytes.length, true)
  view.setUint32(28, tensors.length, true)
  head.set(textBytes, 32)
  let at = 32 + textBytes.length
  let payload = 0
  for (const [index, { datatype, shape, data }] of tensors.entries()) {
    const name = names[index]!
    view.setUint8(at, datatypes.indexOf(datatype))
    view.setUint8(at + 1, shape.length)
    view.setUint16(at + 2, name.length, true)
    view.setFloat64(at + 4, data.length, true)
    head.set(name, at + 12)
    at += 12 + name.length
    for (const dimension of shape) {
      view.setFloat64(at, dimension, true)
      at += 8
    }
    const padding = padLarge(data.length) - data.length
    parts.push(data)
    if (padding > 0) parts.push(zeros.subarray(0, padding))
    payload += data.length + padding
  }
  view.setFloat64(8, payload, true)
  return parts
}

const zeros = new Uint8Array(8)

/** Reads a message's prefix, of 24 bytes at least, and gives the length of the whole message. Throws WireError when it is no prefix or longer than `limit`. */
export function messageLength(bytes: Uint8Array, limit: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const headerLength = view.getUint32(0, true)
  const payloadLength = view.getFloat64(8, true)
  if (headerLength % 8 !== 0 || headerLength < 8 || headerLength > maxHeaderLength)
    throw new WireError('The header has no possible length.')
  if (!Number.isSafeInteger(payloadLength) || payloadLength < 0 || payloadLength % 8 !== 0)
    throw new WireError('The payload has no possible length.')
  const length = prefixLength + headerLength + payloadLength
  if (length > limit) throw new WireError(`The message takes ${length} bytes; at most ${limit} are taken.`)
  return length
}

const kindNumbers = new Set<number>(Object.values(kinds))

/** Reads a whole message; the tensors are views into it. Throws WireError on anything that is not one. */
export function decodeMessage(bytes: Uint8Array): Message {
  try {
    return readMessage(bytes)
  } catch (error) {
    if (error instanceof WireError) throw error
    throw new WireError('The message is cut off or not text where text belongs.')
  }
}

function readMessage(given: Uint8Array): Message {
  // A Buffer's slice() does not copy as a Uint8Array's does; what is handed on must be the latter.
  const bytes = new Uint8Array(given.buffer, given.byteOffset, given.byteLength)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const end = prefixLength + view.getUint32(0, true)
  const kind = view.getUint8(16)
  if (!kindNumbers.has(kind)) throw new WireError(`${kind} is no kind of message.`)
  const textLength = view.getUint32(24, true)
  const count = view.getUint32(28, true)
  let at = 32 + textLength
  if (at > end) throw new WireError('The text does not fit its header.')
  const text = decoder.decode(bytes.subarray(32, at))
  const tensors: Tensor[] = []
  let offset = end
  for (let index = 0; index < count; index++) {
    const datatype = datatypes[view.getUint8(at)]
    const rank = view.getUint8(at + 1)
    const nameLength = view.getUint16(at + 2, true)
    const length = view.getFloat64(at + 4, true)
    if (!datatype) throw new WireError('A tensor has no known datatype.')
    at += 12
    if (at + nameLength + rank * 8 > end) throw new WireError('A tensor does not fit its header.')
    const name = decoder.decode(bytes.subarray(at, at + nameLength))
    at += nameLength
    const shape: number[] = []
    for (let axis = 0; axis < rank; axis++, at += 8) {
      const dimension = view.getFloat64(at, true)
      if (!Number.isSafeInteger(dimension) || dimension < 0) throw new WireError('A dimension is no whole number.')
      shape.push(dimension)
    }
    if (!Number.isSafeInteger(length) || length < 0 || offset + padLarge(length) > bytes.length)
      throw new WireError('A tensor does not fit its message.')
    tensors.push({ name, datatype, shape, data: bytes.subarray(offset, offset + length) })
    offset += padLarge(length)
  }
  if (offset !== bytes.length) throw new WireError('A message ends before its bytes do.')
  return { kind: kind as Kind, id: view.getUint32(4, true), text, tensors }
}
