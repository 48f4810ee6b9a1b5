import { createRequire } from 'node:module'
import { addressOf, createSigner, type Signer } from '../protocol/secp256k1.ts'

type NativeSecp256k1 = {
  publicKeyCreate(privateKey: Uint8Array, compressed: boolean): Uint8Array
  ecdsaSign(digest: Uint8Array, privateKey: Uint8Array): { signature: Uint8Array; recid: number }
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
