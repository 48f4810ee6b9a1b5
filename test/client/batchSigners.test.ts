import { describe, expect, test } from 'vitest'
import { rememberSigners } from '../../client/batchSigners.ts'
import { developmentKey } from '../../dev/keys.ts'
import { fromHex } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { createSigner, recoverAddress } from '../../protocol/secp256k1.ts'

const signer = createSigner(fromHex(developmentKey('runner'), 32))
const digest = (index: number) => sha256(Uint8Array.of(index))

/** Counts how often a signature is truly recovered. */
function counted(capacity?: number) {
  const asked: Uint8Array[] = []
  const recover = rememberSigners((of, signature) => {
    asked.push(of)
    return recoverAddress(of, signature)
  }, capacity)
  return { recover, asked }
}

describe('rememberSigners', () => {
  test('behavior: one signature of a batch is recovered once, however many answers carry it', async () => {
    const { recover, asked } = counted()
    const signature = await signer.sign(digest(1))
    for (let answer = 0; answer < 64; answer++) expect(recover(digest(1), signature)).toBe(signer.address)
    expect(asked).toHaveLength(1)
  })

  test('attack: a known signature under another digest, with another length or one bit changed, is not taken for known', async () => {
    const { recover, asked } = counted()
    const signature = await signer.sign(digest(1))
    recover(digest(1), signature)
    expect(recover(digest(2), signature)).not.toBe(signer.address)
    expect(recover(digest(1), signature.slice(0, 64))).toBeNull()
    expect(recover(digest(1), signature.slice(0, 64))).toBeNull()
    for (let bit = 0; bit < 64 * 8; bit += 37) {
      const changed = signature.slice()
      changed[bit >> 3]! ^= 1 << (bit & 7)
      expect(recover(digest(1), changed)).not.toBe(signer.address)
    }
    expect(asked.length).toBeGreaterThan(14)
  })

  test('behavior: it holds no more than it may, and forgets the oldest', async () => {
    const { recover, asked } = counted(2)
    const signatures = await Promise.all([1, 2, 3].map((index) => signer.sign(digest(index))))
    for (const index of [1, 2, 3, 3, 2, 1]) recover(digest(index), signatures[index - 1]!)
    expect(asked).toHaveLength(4)
  })
})
