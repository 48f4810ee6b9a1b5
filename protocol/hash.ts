import { sha256 as portableSha256 } from '@noble/hashes/sha2.js'
import { keccak_256 } from '@noble/hashes/sha3.js'

type NativeHash = (algorithm: 'sha256', data: Uint8Array, encoding: 'buffer') => Uint8Array

// WebCrypto only hashes asynchronously, too slow for the many small digests of a receipt. Node and workerd offer a synchronous native one, reached without an import so browsers can load this file.
const native = (
  globalThis as { process?: { getBuiltinModule?: (id: string) => { hash?: NativeHash } | undefined } }
).process?.getBuiltinModule?.('node:crypto')?.hash

/** Hashes bytes with SHA-256 (FIPS 180-4): the platform's own where it is synchronous, a portable one elsewhere; the digests are equal. */
export const sha256: (bytes: Uint8Array) => Uint8Array = native
  ? (bytes) => native('sha256', bytes, 'buffer')
  : portableSha256

/** Hashes bytes with Keccak-256, as Ethereum uses it; for EIP-712 and addresses only. */
export function keccak256(bytes: Uint8Array): Uint8Array {
  return keccak_256(bytes)
}
