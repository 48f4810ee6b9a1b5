import { sha256 as portableSha256 } from '@noble/hashes/sha2.js'
import { fromLatin1 } from './bytes.ts'

type NativeHash = (algorithm: 'sha256', data: Uint8Array, encoding: 'binary') => string

// WebCrypto only hashes asynchronously, too slow for the many small digests of a receipt. Node and workerd offer a synchronous native one, reached without an import so browsers can load this file.
const native = (
  globalThis as { process?: { getBuiltinModule?: (id: string) => { hash?: NativeHash } | undefined } }
).process?.getBuiltinModule?.('node:crypto')?.hash

// A digest comes back as text of 32 characters: a Buffer of it would be memory outside the heap, which costs twice the hashing and, later, the collector.
/** Hashes bytes with SHA-256 (FIPS 180-4): the platform's own where it is synchronous, a portable one elsewhere; the digests are equal. */
export const sha256: (bytes: Uint8Array) => Uint8Array<ArrayBuffer> = native
  ? (bytes) => fromLatin1(native('sha256', bytes, 'binary'))
  : (bytes) => portableSha256(bytes) as Uint8Array<ArrayBuffer>

/** Hashes rows of `length` bytes that stand back to back; gives their digests of 32 bytes, which stand so too. */
export type HashRows = (rows: Uint8Array, length: number) => Uint8Array<ArrayBuffer>

/** Hashes rows with SHA-256 one by one, into `digests`, which says how many there are. */
export function sha256Rows(
  rows: Uint8Array,
  length: number,
  digests: Uint8Array<ArrayBuffer> = new Uint8Array((32 * rows.length) / length),
): Uint8Array<ArrayBuffer> {
  for (let at = 0, row = 0; at < digests.length; at += 32, row += length)
    digests.set(sha256(rows.subarray(row, row + length)), at)
  return digests
}

/** Takes digests that stand back to back apart. */
export function digestsApart(digests: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  const apart: Uint8Array<ArrayBuffer>[] = []
  for (let at = 0; at < digests.length; at += 32) apart.push(digests.subarray(at, at + 32))
  return apart
}

export { keccak256 } from './keccak.ts'
