import { secp256k1 } from '@noble/curves/secp256k1.js'
import { describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { fromHex, toHex, uint, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { rememberKeys } from '../../protocol/knownKeys.ts'
import { createSigner, recoverAddress, type Signer } from '../../protocol/secp256k1.ts'

const { n } = secp256k1.Point.CURVE()
const secret = fromHex(developmentKey('runner'), 32)
const signer = createSigner(secret)
const digestOf = (index: number) => sha256(utf8(`digest ${index}`))
const signed = (by: Signer, index: number) => by.sign(digestOf(index)) as Uint8Array

/** Gives a `recover` that has seen the runner often enough to look it up by a table. */
function acquainted() {
  const recover = rememberKeys()
  for (let index = 0; index < 40; index++)
    expect(recover(digestOf(index), signed(signer, index), signer.address)).toBe(signer.address)
  return recover
}

describe('rememberKeys', () => {
  test('behavior: a known key is known again in new signatures, and without being named', () => {
    const recover = acquainted()
    expect(recover(digestOf(99), signed(signer, 99), signer.address)).toBe(signer.address)
    expect(recover(digestOf(98), signed(signer, 98))).toBe(signer.address)
  })

  test('behavior: whoever is named, another key is told as itself', () => {
    const recover = acquainted()
    const other = createSigner(fromHex(developmentKey('another runner'), 32))
    expect(recover(digestOf(1), signed(other, 1), signer.address)).toBe(other.address)
  })

  test('attack: the other v names another point with the same x, and so another key', () => {
    const recover = acquainted()
    for (let index = 50; index < 54; index++) {
      const flipped = signed(signer, index)
      flipped[64] = 55 - flipped[64]!
      const expected = recoverAddress(digestOf(index), flipped)
      expect(expected).not.toBe(signer.address)
      expect(expected).not.toBeNull()
      expect(recover(digestOf(index), flipped, signer.address)).toBe(expected)
    }
  })

  test('attack: the key of opposite sign is another', () => {
    const recover = acquainted()
    const opposite = createSigner(uint(n - BigInt(toHex(secret)), 32))
    expect(opposite.address).not.toBe(signer.address)
    expect(recover(digestOf(2), signed(opposite, 2), signer.address)).toBe(opposite.address)
  })

  test('behavior: each changed byte has the outcome it has without a table', () => {
    const recover = acquainted()
    const digest = digestOf(3)
    const signature = signed(signer, 3)
    for (let at = 0; at < 65; at++) {
      const changed = signature.slice()
      changed[at]! ^= 1
      const expected = recoverAddress(digest, changed)
      expect(expected).not.toBe(signer.address)
      expect(recover(digest, changed, signer.address)).toBe(expected)
    }
    const another = digest.slice()
    another[31]! ^= 1
    expect(recover(another, signature, signer.address)).toBe(recoverAddress(another, signature))
  })

  test('behavior: a signature that is not canonical is nobody’s, of a known key too', () => {
    const recover = acquainted()
    const digest = digestOf(4)
    const signature = signed(signer, 4)
    const s = BigInt(toHex(signature.subarray(32, 64)))
    const high = signature.slice()
    high.set(uint(n - s, 32), 32)
    high[64] = 55 - high[64]!
    const withV = (v: number) => Uint8Array.of(...signature.subarray(0, 64), v)
    const none = [high, withV(0), withV(1), withV(29), signature.subarray(0, 64), Uint8Array.of(...signature, 27)]
    const zero = [new Uint8Array(64), Uint8Array.of(...new Uint8Array(32), ...signature.subarray(32, 64))]
    const filled = zero.map((bytes) => Uint8Array.of(...bytes, 27))
    for (const bad of [...none, ...filled]) expect(recover(digest, bad, signer.address)).toBeNull()
    expect(recover(digest.subarray(1), signature, signer.address)).toBeNull()
  })

  test('behavior: digests past the order of the curve, and of zero, are judged as without a table', () => {
    const recover = acquainted()
    for (const value of [0n, 1n, n - 1n, n, n + 1n, 2n ** 256n - 1n]) {
      const digest = uint(value, 32)
      const signature = signer.sign(digest) as Uint8Array
      expect(recoverAddress(digest, signature)).toBe(signer.address)
      expect(recover(digest, signature, signer.address)).toBe(signer.address)
    }
  })

  test('behavior: of many keys the newest are kept, and each is told right', () => {
    const recover = rememberKeys(2)
    const keys = [1, 2, 3].map((index) => createSigner(fromHex(developmentKey(`runner ${index}`), 32)))
    for (let index = 0; index < 36; index++)
      for (const key of keys) expect(recover(digestOf(index), signed(key, index), key.address)).toBe(key.address)
  })
})
