import { secp256k1 } from '@noble/curves/secp256k1.js'
import { type Hex, toHex } from './bytes.ts'
import { keccak256 } from './hash.ts'

/** Signs 32-byte digests with a secp256k1 key that never leaves it. */
export type Signer = {
  readonly address: Hex
  /** Compressed public key, 33 bytes. */
  readonly publicKey: Uint8Array
  /** Signs a digest: 65 bytes r ‖ s ‖ v, low s, v 27 or 28. */
  sign(digest: Uint8Array): Uint8Array | Promise<Uint8Array>
}

/** Derives the Ethereum address of a public key, compressed (33 bytes) or not (65). Throws on a point off the curve. */
export function addressOf(publicKey: Uint8Array): Hex {
  return addressOfPoint(secp256k1.Point.fromBytes(publicKey))
}

/** Derives the Ethereum address of a point. */
export const addressOfPoint = (point: { toBytes(compressed: boolean): Uint8Array }): Hex =>
  toHex(keccak256(point.toBytes(false).subarray(1)).subarray(12))

/** Makes a signer in portable JavaScript from a 32-byte private key. */
export function createSigner(privateKey: Uint8Array): Signer {
  const publicKey = secp256k1.getPublicKey(privateKey, true)
  return {
    address: addressOf(publicKey),
    publicKey,
    sign(digest) {
      const recovered = secp256k1.sign(digest, privateKey, { prehash: false, format: 'recovered', lowS: true })
      const signature = new Uint8Array(65)
      signature.set(recovered.subarray(1))
      signature[64] = 27 + recovered[0]!
      return signature
    },
  }
}

const halfOrder = secp256k1.Point.CURVE().n >> 1n

/** Holds a point of the curve, neither at infinity nor off it. */
export type Point = InstanceType<typeof secp256k1.Point>

/** Reads 65 bytes as a canonical signature (EIP-2: low s; v 27 or 28), or gives null. */
export function readSignature(signature: Uint8Array): { r: bigint; s: bigint; yParity: 0 | 1 } | null {
  const v = signature[64]
  if (signature.length !== 65 || (v !== 27 && v !== 28)) return null
  try {
    const { r, s } = secp256k1.Signature.fromBytes(signature.subarray(0, 64), 'compact')
    return s > halfOrder ? null : { r, s, yParity: v === 27 ? 0 : 1 }
  } catch {
    return null
  }
}

/** Recovers the public key that signed a digest, or null when the 65 bytes are not a canonical signature. */
export function recoverPoint(digest: Uint8Array, signature: Uint8Array): Point | null {
  const read = digest.length === 32 ? readSignature(signature) : null
  if (!read) return null
  try {
    return new secp256k1.Signature(read.r, read.s, read.yParity).recoverPublicKey(digest)
  } catch {
    return null
  }
}

/** Recovers the address that signed a digest, or null when the 65 bytes are not a canonical signature (EIP-2: low s; v 27 or 28). */
export function recoverAddress(digest: Uint8Array, signature: Uint8Array): Hex | null {
  const point = recoverPoint(digest, signature)
  return point && addressOfPoint(point)
}
