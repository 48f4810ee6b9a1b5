import { createRequire } from 'node:module'
import { type Hex, toHex } from '../protocol/bytes.ts'
import { keccak256 } from '../protocol/hash.ts'
import { RenewedMap } from '../protocol/renewedMap.ts'
import { addressOf, createSigner, recoverAddress, type Signer } from '../protocol/secp256k1.ts'
import { byteText } from './digestText.ts'

type NativeSecp256k1 = {
  publicKeyCreate(privateKey: Uint8Array, compressed: boolean): Uint8Array
  ecdsaSign(digest: Uint8Array, privateKey: Uint8Array): { signature: Uint8Array; recid: number }
  ecdsaRecover(signature: Uint8Array, recid: number, digest: Uint8Array, compressed: boolean): Uint8Array
}

function loadNative(): NativeSecp256k1 | null {
  try {
    const require = createRequire(import.meta.url)
    // The addon's own entry falls back to slow JavaScript silently; its bindings say so when they cannot load.
    return require('secp256k1/bindings') as NativeSecp256k1
  } catch {
    return null
  }
}

/** Tells whether libsecp256k1's prebuilt binary loads here. */
export const hasNativeSigner = (): boolean => loadNative() !== null

/** Makes a signer from a private key: libsecp256k1 where its prebuilt binary loads (ten times faster), portable JavaScript otherwise; both sign deterministically (RFC 6979), so the bytes are equal. */
export function createRunnerSigner(privateKey: Uint8Array, native = loadNative()): Signer {
  if (!native) return createSigner(privateKey)
  const publicKey = native.publicKeyCreate(privateKey, true)
  return {
    address: addressOf(publicKey),
    publicKey,
    sign(digest) {
      const { signature, recid } = native.ecdsaSign(digest, privateKey)
      const bytes = new Uint8Array(65)
      bytes.set(signature)
      bytes[64] = 27 + recid
      return bytes
    },
  }
}

/** Recovers the address that signed a digest, or null when the 65 bytes are not a canonical signature (EIP-2: low s; v 27 or 28). */
export type RecoverAddress = (digest: Uint8Array, signature: Uint8Array) => Hex | null

/** Most keys whose addresses are remembered. */
const keysKept = 1_024

/** Makes the check of vouchers: libsecp256k1 where its prebuilt binary loads (twenty times faster), portable JavaScript otherwise; both accept exactly the same signatures. */
export function createRecoverer(native = loadNative()): RecoverAddress {
  if (!native) return recoverAddress
  const addresses = new RenewedMap<string, Hex>()
  /** Gives a key's address; hashing costs more than looking up, and vouchers are of buyers met before. */
  const addressOfKey = (publicKey: Uint8Array): Hex => {
    const key = byteText(publicKey)
    const known = addresses.get(key)
    if (known) return known
    const address = toHex(keccak256(publicKey.subarray(1)).subarray(12))
    addresses.set(key, address)
    addresses.trim(keysKept)
    return address
  }
  return (digest, signature) => {
    const v = signature[64]
    if (signature.length !== 65 || digest.length !== 32 || (v !== 27 && v !== 28)) return null
    const compact = signature.subarray(0, 64)
    try {
      // The library recovers from a high s too; the escrow does not, so such a voucher is worth nothing.
      if (isHighS(compact)) return null
      const publicKey = native.ecdsaRecover(compact, v - 27, digest, false)
      return addressOfKey(publicKey)
    } catch {
      return null
    }
  }
}

/** Half the order of secp256k1 (SEC 2 §2.4.1), rounded down, big-endian. */
const halfOrder = Uint8Array.from(
  Buffer.from('7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0', 'hex'),
)

const isHighS = (compact: Uint8Array) => Buffer.compare(compact.subarray(32), halfOrder) > 0
