import { EncodingError } from './bytes.ts'

/** Lists the values JSON can carry. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/** Writes JSON in the one form of RFC 8785: keys sorted by UTF-16 code units, no spaces, numbers as ECMAScript prints them. Throws EncodingError on a value JSON cannot carry. */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new EncodingError('JSON has no NaN and no infinity.')
    return JSON.stringify(value)
  }
  if (typeof value === 'string') {
    if (!value.isWellFormed()) throw new EncodingError('JSON text must be well-formed Unicode.')
    return JSON.stringify(value)
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`
  if (typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    const entries = Object.entries(value).filter(([, member]) => member !== undefined)
    entries.sort(([a], [b]) => (a < b ? -1 : 1))
    return `{${entries.map(([key, member]) => `${canonicalJson(key)}:${canonicalJson(member)}`).join(',')}}`
  }
  throw new EncodingError(`JSON cannot carry a ${typeof value}.`)
}
