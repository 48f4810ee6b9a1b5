/** A lower-case hexadecimal string with its 0x prefix, as JSON and EIP-712 carry bytes. */
export type Hex = `0x${string}`

/** Reports bytes or text that do not have the form an encoding requires. */
export class EncodingError extends Error {
  override name = 'EncodingError'
}

const hexDigits = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** Bytes beyond which text is made at once: joined piece by piece, a tensor of megabytes takes seconds. */
const longHex = 256
const digitCodes = new TextEncoder().encode('0123456789abcdef')
const asciiDecoder = new TextDecoder()

/** Writes bytes as lower-case hexadecimal with a 0x prefix. */
export function toHex(bytes: Uint8Array): Hex {
  if (bytes.length > longHex) {
    const codes = new Uint8Array(bytes.length * 2)
    for (let i = 0; i < bytes.length; i++) {
      codes[2 * i] = digitCodes[bytes[i]! >> 4]!
      codes[2 * i + 1] = digitCodes[bytes[i]! & 15]!
    }
    return `0x${asciiDecoder.decode(codes)}`
  }
  let text = '0x'
  for (let i = 0; i < bytes.length; i++) text += hexDigits[bytes[i]!]!
  return text as Hex
}

/** Values of hexadecimal digits by their character code; 255 for every other character below 128. */
const digitValues = Uint8Array.from({ length: 128 }, (_, code) => {
  const value = '0123456789abcdef'.indexOf(String.fromCharCode(code).toLowerCase())
  return value < 0 ? 255 : value
})

/** Reads hexadecimal with or without 0x. Throws EncodingError on an odd length, a foreign character, or a length other than `size` bytes. */
export function fromHex(text: string, size?: number): Uint8Array<ArrayBuffer> {
  const start = text.startsWith('0x') ? 2 : 0
  const length = (text.length - start) / 2
  const foreign = () => new EncodingError('Expected hexadecimal bytes, two digits each.')
  if (!Number.isInteger(length)) throw foreign()
  const bytes = new Uint8Array(length)
  for (let i = 0, at = start; i < length; i++, at += 2) {
    const high = digitValues[text.charCodeAt(at)] ?? 255
    const low = digitValues[text.charCodeAt(at + 1)] ?? 255
    if ((high | low) > 15) throw foreign()
    bytes[i] = (high << 4) | low
  }
  if (size !== undefined && length !== size)
    throw new EncodingError(`Expected ${size} bytes of hexadecimal, got ${length}.`)
  return bytes
}

/** Reads hexadecimal digits that stand as text among bytes; null where a character is none. */
export function fromHexDigits(text: Uint8Array, at: number, size: number): Uint8Array<ArrayBuffer> | null {
  const bytes = new Uint8Array(size)
  for (let i = 0; i < size; i++, at += 2) {
    const high = digitValues[text[at]!] ?? 255
    const low = digitValues[text[at + 1]!] ?? 255
    if ((high | low) > 15) return null
    bytes[i] = (high << 4) | low
  }
  return bytes
}

/** Makes a check for text of so many bytes in hexadecimal of either case with its 0x prefix, as people write keys and addresses. */
export function isHexOf(size: number): (text: unknown) => text is Hex {
  const form = new RegExp(`^0x[0-9a-fA-F]{${size * 2}}$`)
  return (text): text is Hex => typeof text === 'string' && form.test(text)
}

/** Joins byte strings. */
export function concat(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  let length = 0
  for (const part of parts) length += part.length
  const joined = new Uint8Array(length)
  let offset = 0
  for (const part of parts) {
    joined.set(part, offset)
    offset += part.length
  }
  return joined
}

/** Compares two byte strings; not constant-time, so never for secrets. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** Orders byte strings lexicographically, as `Array.sort` expects. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length)
  for (let i = 0; i < shared; i++) if (a[i] !== b[i]) return a[i]! - b[i]!
  return a.length - b.length
}

const encoder = new TextEncoder()
const strictDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Encodes text as UTF-8. */
export function utf8(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text)
}

/** Decodes UTF-8. Throws EncodingError on malformed bytes instead of replacing them. */
export function fromUtf8(bytes: Uint8Array): string {
  try {
    return strictDecoder.decode(bytes)
  } catch {
    throw new EncodingError('Expected UTF-8 text.')
  }
}

/** Writes an unsigned integer big-endian in `width` bytes. Throws EncodingError when it does not fit. */
export function uint(value: bigint | number, width: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(width)
  setUint(bytes, 0, value, width)
  return bytes
}

/** Writes an unsigned integer big-endian in `width` bytes at an offset. Throws EncodingError when it does not fit. */
export function setUint(bytes: Uint8Array, offset: number, value: bigint | number, width: number): void {
  if (typeof value === 'number' && width <= 4) {
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** (width * 8)) throw tooWide(value, width)
    for (let i = width - 1, rest = value; i >= 0; i--, rest = Math.floor(rest / 256)) bytes[offset + i] = rest
    return
  }
  let rest = BigInt(value)
  if (rest < 0n || rest >> BigInt(width * 8) !== 0n) throw tooWide(value, width)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let end = offset + width
  // Eight bytes at a time: arithmetic on bigints costs more than everything around it.
  for (; end - offset >= 8; end -= 8) {
    view.setBigUint64(end - 8, rest)
    rest = end - offset > 8 ? rest >> 64n : 0n
  }
  for (; end > offset; end--) {
    bytes[end - 1] = Number(rest & 0xffn)
    rest >>= 8n
  }
}

const maxU64 = 0xffff_ffff_ffff_ffffn

/** Writes a 64-bit unsigned integer big-endian. Throws EncodingError when it does not fit. */
export function setU64(view: DataView, offset: number, value: bigint): void {
  if (value < 0n || value > maxU64) throw tooWide(value, 8)
  view.setBigUint64(offset, value)
}

/** Writes a 128-bit unsigned integer big-endian. Throws EncodingError when it does not fit. */
export function setU128(view: DataView, offset: number, value: bigint): void {
  const small = value >= 0n && value <= maxU64
  if (!small && (value < 0n || value >> 128n !== 0n)) throw tooWide(value, 16)
  view.setBigUint64(offset, small ? 0n : value >> 64n)
  view.setBigUint64(offset + 8, small ? value : value & maxU64)
}

const tooWide = (value: bigint | number, width: number) =>
  new EncodingError(`${value} does not fit in ${width} unsigned bytes.`)

/** Reads a big-endian unsigned integer of any width. */
export function readUint(bytes: Uint8Array): bigint {
  let value = 0n
  for (const byte of bytes) value = (value << 8n) | BigInt(byte)
  return value
}

/** Writes bytes as base64 (RFC 4648 §4). */
export function toBase64(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000))
  return btoa(text)
}

/** Reads base64 (RFC 4648 §4). Throws EncodingError on anything else. */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  let binary: string
  try {
    binary = atob(text)
  } catch {
    throw new EncodingError('Expected base64.')
  }
  return fromLatin1(binary)
}

/** Reads text of one character a byte (ISO 8859-1), as base64 and native digests come. */
export function fromLatin1(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  return bytes
}

/** Walks over bytes front to back, refusing to read past the end. */
export class Reader {
  offset = 0
  readonly bytes: Uint8Array
  readonly #view: DataView

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  #advance(length: number): number {
    const start = this.offset
    if (length > this.bytes.length - start) {
      throw new EncodingError(`Expected ${length} more bytes at offset ${start}, found ${this.bytes.length - start}.`)
    }
    this.offset = start + length
    return start
  }

  /** Takes the next `length` bytes as a view. */
  take(length: number): Uint8Array {
    const start = this.#advance(length)
    return this.bytes.subarray(start, start + length)
  }

  u8(): number {
    return this.bytes[this.#advance(1)]!
  }

  u16(): number {
    return this.#view.getUint16(this.#advance(2))
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4))
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#advance(8))
  }

  u128(): bigint {
    const high = this.u64()
    return (high << 64n) | this.u64()
  }

  /** Takes everything that is left as a view. */
  rest(): Uint8Array {
    return this.take(this.bytes.length - this.offset)
  }

  /** Throws EncodingError when bytes are left over. */
  end(): void {
    if (this.offset !== this.bytes.length) throw new EncodingError(`${this.bytes.length - this.offset} bytes too many.`)
  }
}

/** Reads little-endian fields one after the other; `what` names the bytes in errors. Every read throws EncodingError past the end. */
export class LittleReader {
  offset = 0
  readonly bytes: Uint8Array
  readonly #what: string
  constructor(bytes: Uint8Array, what: string) {
    this.bytes = bytes
    this.#what = what
  }
  /** Takes the next bytes, as a view. */
  take(length: number): Uint8Array {
    if (length > this.bytes.length - this.offset)
      throw new EncodingError(`${this.#what} ends at ${this.bytes.length}, inside a field at ${this.offset}.`)
    this.offset += length
    return this.bytes.subarray(this.offset - length, this.offset)
  }
  /** Takes an unsigned integer of at most 6 bytes. */
  number(width: number): number {
    return this.take(width).reduceRight((value, byte) => value * 256 + byte, 0)
  }
  get done(): boolean {
    return this.offset === this.bytes.length
  }
}
