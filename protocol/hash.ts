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

export { keccak256 } from './keccak.ts'
