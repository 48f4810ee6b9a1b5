import { fromHexDigits } from './bytes.ts'
import { formOf, type Part } from './tensorForm.ts'
import type { Tensor } from './tensors.ts'

type Known = { header: Uint8Array; saltAt: number | null; parts: Part[] }

/** Holds what a body's header says: the salt of a request, and the tensors as views into what follows the header. */
export type ReadHeader = { salt: Uint8Array | null; tensors: Tensor[] }

/** Headers remembered, and the longest: the bodies of one client of one model differ in the salt alone. */
const most = 8
const maxHeader = 2_048
const saltDigits = 64
const marker = '"salt":"0x'

/** Recognises headers that were read before but for the digits of their salt: to compare a few hundred bytes costs less than decoding, parsing and checking them. */
export class KnownHeaders {
  readonly #known: Known[] = []

  /** Reads a header that is known; null where it is not, or what follows it is not as long as it says. */
  read(header: Uint8Array, raw: Uint8Array): ReadHeader | null {
    for (let at = 0; at < this.#known.length; at++) {
      const known = this.#known[at]!
      if (!isAlike(known, header)) continue
      const salt = known.saltAt === null ? null : fromHexDigits(header, known.saltAt, saltDigits / 2)
      if (known.saltAt !== null && !salt) return null
      if (at > 0) this.#known.unshift(...this.#known.splice(at, 1))
      const tensors: Tensor[] = []
      let offset = 0
      for (const { name, datatype, shape, length } of known.parts) {
        const data = raw.subarray(offset, offset + length)
        // A copy, for whoever is given the tensors may change it.
        tensors.push({ name, datatype, shape: shape.slice(), data })
        offset += length
      }
      return offset === raw.length ? { salt, tensors } : null
    }
    return null
  }

  /** Remembers a header as it was read, in place of the one not met for the longest. `text` is the header, `salt` what it says of it. */
  remember(header: Uint8Array, text: string, salt: unknown, tensors: readonly Tensor[]): void {
    // One byte a character, so that places in the text are places in the bytes.
    if (header.length > maxHeader || text.length !== header.length) return
    const parts = formOf(tensors)
    const saltAt = salt === undefined ? null : placeOf(text, salt)
    if (!parts || saltAt === undefined) return
    this.#known.unshift({ header: header.slice(), saltAt, parts })
    if (this.#known.length > most) this.#known.pop()
  }
}

/** Finds where a salt's digits stand in a header; undefined unless they stand in one place, and changing them there changes the salt. */
function placeOf(text: string, salt: unknown): number | undefined {
  const at = text.indexOf(marker) + marker.length
  if (typeof salt !== 'string' || at < marker.length || text.lastIndexOf(marker) + marker.length !== at)
    return undefined
  if (text.slice(at, at + saltDigits) !== salt.slice(2) || salt.length !== 2 + saltDigits) return undefined
  const other = '5'.repeat(saltDigits)
  const changed = JSON.parse(text.slice(0, at) + other + text.slice(at + saltDigits)) as {
    parameters?: { salt?: unknown }
  }
  return changed.parameters?.salt === `0x${other}` ? at : undefined
}

function isAlike({ header, saltAt }: Known, other: Uint8Array): boolean {
  if (header.length !== other.length) return false
  const end = saltAt ?? header.length
  for (let at = 0; at < end; at++) if (header[at] !== other[at]) return false
  for (let at = end + saltDigits; at < header.length; at++) if (header[at] !== other[at]) return false
  return true
}
