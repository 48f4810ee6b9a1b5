import { EncodingError, fromUtf8 } from '../bytes.ts'

/** Holds a CBOR value of the kinds attestation documents use. Maps keep their keys as they are; a tag stands beside its content. */
export type Cbor = number | string | Uint8Array | null | boolean | Cbor[] | Map<string | number, Cbor> | CborTag

/** Holds a tagged CBOR value. */
export type CborTag = { tag: number; content: Cbor }

/** Reads one CBOR value strictly (RFC 8949 §4.2.1): lengths definite and in their shortest form, each map key once, nothing left over. Maps alone may be of indefinite length, because AWS writes its payloads so. Throws EncodingError. */
export function readCbor(bytes: Uint8Array): Cbor {
  const { value, length } = readCborPrefix(bytes)
  if (length !== bytes.length) throw new EncodingError('CBOR has bytes left over.')
  return value
}

/** Reads the CBOR value that bytes begin with, as strictly, and tells how many of them it takes. Throws EncodingError. */
export function readCborPrefix(bytes: Uint8Array): { value: Cbor; length: number } {
  const reader = new CborReader(bytes)
  const value = reader.value(0)
  return { value, length: reader.offset }
}

const maxDepth = 8
const indefinite = 31
const breakByte = 0xff

class CborReader {
  offset = 0
  readonly #bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  #take(length: number): Uint8Array {
    if (length > this.#bytes.length - this.offset) throw new EncodingError('CBOR ends early.')
    this.offset += length
    return this.#bytes.subarray(this.offset - length, this.offset)
  }

  #argument(info: number): number {
    if (info < 24) return info
    if (info > 27) throw new EncodingError('CBOR length is indefinite or reserved.')
    const width = 1 << (info - 24)
    const value = this.#take(width).reduce((sum, byte) => sum * 256 + byte, 0)
    const least = width === 1 ? 24 : 2 ** (width * 4)
    if (value < least) throw new EncodingError('CBOR number is not in its shortest form.')
    if (!Number.isSafeInteger(value)) throw new EncodingError('CBOR number is too large.')
    return value
  }

  value(depth: number): Cbor {
    if (depth > maxDepth) throw new EncodingError('CBOR is nested too deeply.')
    const first = this.#take(1)[0]!
    const info = first & 0x1f
    switch (first >> 5) {
      case 0:
        return this.#argument(info)
      case 1:
        return -1 - this.#argument(info)
      case 2:
        return this.#take(this.#argument(info))
      case 3:
        return fromUtf8(this.#take(this.#argument(info)))
      case 4:
        return this.#list(this.#argument(info), depth)
      case 5:
        return this.#map(info, depth)
      case 6:
        return { tag: this.#argument(info), content: this.value(depth + 1) }
      default:
        return this.#simple(info)
    }
  }

  #list(length: number, depth: number): Cbor[] {
    // Each element takes a byte at least, so a length beyond the bytes left is a lie told to fill memory.
    if (length > this.#bytes.length - this.offset) throw new EncodingError('CBOR list is longer than its bytes.')
    return Array.from({ length }, () => this.value(depth + 1))
  }

  #map(info: number, depth: number): Map<string | number, Cbor> {
    const length = info === indefinite ? Number.POSITIVE_INFINITY : this.#argument(info)
    if (info !== indefinite && length * 2 > this.#bytes.length - this.offset)
      throw new EncodingError('CBOR map is longer than its bytes.')
    const map = new Map<string | number, Cbor>()
    for (let i = 0; i < length; i++) {
      if (info === indefinite && this.#bytes[this.offset] === breakByte) {
        this.offset++
        break
      }
      const key = this.value(depth + 1)
      if (typeof key !== 'string' && typeof key !== 'number')
        throw new EncodingError('CBOR map key is not a name or a number.')
      if (map.has(key)) throw new EncodingError(`CBOR map names ${key} twice.`)
      map.set(key, this.value(depth + 1))
    }
    return map
  }

  #simple(info: number): null | boolean {
    if (info === 20) return false
    if (info === 21) return true
    if (info === 22) return null
    throw new EncodingError('CBOR value of a kind no attestation document has.')
  }
}
