import { EncodingError } from '../bytes.ts'

/** Holds one DER element: its tag, its content, and the whole of it as bytes. */
export type Element = { tag: number; content: Uint8Array; whole: Uint8Array }

/** Names the ASN.1 tags that certificates use (X.690 §8). */
export const asn1 = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  enumerated: 0x0a,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const

/** Reads DER strictly: single-byte tags, definite lengths in their shortest form, nothing past the end. Throws EncodingError. */
export class DerReader {
  #offset = 0
  readonly #bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get done(): boolean {
    return this.#offset === this.#bytes.length
  }

  /** Gives the next tag without taking it, or null at the end. */
  peek(): number | null {
    return this.#bytes[this.#offset] ?? null
  }

  /** Takes the next element; with `tag`, refuses any other. */
  next(tag?: number): Element {
    const start = this.#offset
    const bytes = this.#bytes
    if (start + 2 > bytes.length) throw new EncodingError('DER ends early.')
    const found = bytes[start]!
    if ((found & 0x1f) === 0x1f) throw new EncodingError('DER tag takes several bytes.')
    if (tag !== undefined && found !== tag)
      throw new EncodingError(`DER tag 0x${found.toString(16)} where 0x${tag.toString(16)} belongs.`)
    let offset = start + 1
    let length = bytes[offset++]!
    if (length >= 0x80) {
      const width = length & 0x7f
      if (width === 0 || width > 3) throw new EncodingError('DER length is indefinite or too large.')
      if (offset + width > bytes.length) throw new EncodingError('DER ends early.')
      if (bytes[offset] === 0) throw new EncodingError('DER length is not in its shortest form.')
      length = 0
      for (let i = 0; i < width; i++) length = length * 256 + bytes[offset++]!
      if (length < 0x80) throw new EncodingError('DER length is not in its shortest form.')
    }
    if (offset + length > bytes.length) throw new EncodingError('DER element runs past the end.')
    this.#offset = offset + length
    return { tag: found, content: bytes.subarray(offset, this.#offset), whole: bytes.subarray(start, this.#offset) }
  }

  /** Takes the next element when it has this tag. */
  optional(tag: number): Element | null {
    return this.peek() === tag ? this.next(tag) : null
  }

  /** Throws EncodingError when elements are left over. */
  end(): void {
    if (!this.done) throw new EncodingError('DER has elements left over.')
  }
}

/** Opens an element's content for reading. */
export function inside(element: Element): DerReader {
  return new DerReader(element.content)
}

/** Reads an object identifier as dotted text (X.690 §8.19). */
export function readOid(element: Element): string {
  const { content } = element
  if (content.length === 0 || content.at(-1)! & 0x80) throw new EncodingError('DER object identifier is cut off.')
  const arcs: number[] = []
  let value = 0
  for (const byte of content) {
    if (value === 0 && byte === 0x80) throw new EncodingError('DER object identifier has padding.')
    value = value * 128 + (byte & 0x7f)
    if (value > 0xffff_ffff) throw new EncodingError('DER object identifier arc is too large.')
    if (byte & 0x80) continue
    if (arcs.length === 0)
      arcs.push(Math.min(2, Math.floor(value / 40)), value - Math.min(2, Math.floor(value / 40)) * 40)
    else arcs.push(value)
    value = 0
  }
  return arcs.join('.')
}

/** Reads the magnitude bytes of a non-negative integer in its shortest form. */
export function readUnsigned(element: Element): Uint8Array {
  const { content } = element
  if (element.tag !== asn1.integer && element.tag !== asn1.enumerated) throw new EncodingError('DER integer expected.')
  if (content.length === 0) throw new EncodingError('DER integer is empty.')
  if (content[0]! & 0x80) throw new EncodingError('DER integer is negative.')
  if (content.length > 1 && content[0] === 0 && !(content[1]! & 0x80))
    throw new EncodingError('DER integer has padding.')
  return content[0] === 0 && content.length > 1 ? content.subarray(1) : content
}

/** Reads a small non-negative integer. Throws EncodingError past 2^32. */
export function readSmall(element: Element): number {
  const magnitude = readUnsigned(element)
  if (magnitude.length > 4) throw new EncodingError('DER integer is too large.')
  return magnitude.reduce((value, byte) => value * 256 + byte, 0)
}

/** Reads a UTCTime or GeneralizedTime in the only forms RFC 5280 §4.1.2.5 allows, as unix seconds. */
export function readTime(element: Element): number {
  const text = String.fromCharCode(...element.content)
  let match: RegExpMatchArray | null
  let year: number
  if (element.tag === asn1.utcTime) {
    match = /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)
    year = Number(match?.[1])
    year += year < 50 ? 2000 : 1900
  } else if (element.tag === asn1.generalizedTime) {
    match = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)
    year = Number(match?.[1])
  } else {
    throw new EncodingError('DER time expected.')
  }
  if (!match) throw new EncodingError('DER time is malformed.')
  const [month, day, hour, minute, second] = match.slice(2).map(Number) as [number, number, number, number, number]
  const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second))
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day || hour > 23 || minute > 59 || second > 59) {
    throw new EncodingError('DER time is not a date.')
  }
  return date.getTime() / 1000
}

/** Reads a bit string with no unused bits. */
export function readBits(element: Element): Uint8Array {
  if (element.tag !== asn1.bitString || element.content[0] !== 0)
    throw new EncodingError('DER bit string of whole bytes expected.')
  return element.content.subarray(1)
}

/** Reads a DER ECDSA signature into the fixed r ‖ s form, each `width` bytes. */
export function readEcdsaSignature(bytes: Uint8Array, width: number): Uint8Array<ArrayBuffer> {
  const outer = new DerReader(bytes)
  const pair = inside(outer.next(asn1.sequence))
  outer.end()
  const signature = new Uint8Array(width * 2)
  for (const half of [0, 1]) {
    const magnitude = readUnsigned(pair.next(asn1.integer))
    if (magnitude.length > width) throw new EncodingError('ECDSA signature value is too large.')
    signature.set(magnitude, (half + 1) * width - magnitude.length)
  }
  pair.end()
  return signature
}
