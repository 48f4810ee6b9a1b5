import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { createRecoverer, createRunnerSigner } from '../../gpu-runner/signer.ts'
import { fromHex, readUint, uint, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'

const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n
const signer = createRunnerSigner(fromHex(developmentKey('buyer'), 32))
const digest = sha256(utf8('a voucher'))
const signed = () => (signer.sign(digest) as Uint8Array).slice()

describe('createRecoverer', () => {
  const native = createRecoverer()
  const contenders = [
    ['native', native],
    ['portable', createRecoverer(null)],
  ] as const

  test('behavior: the prebuilt binary is what is measured here', () => {
    expect(native).not.toBe(recoverAddress)
  })

  test.each(contenders)('behavior: %s finds the signer', (_, recover) => {
    expect(recover(digest, signed())).toBe(signer.address)
  })

  test.each(contenders)('attack: %s refuses the twin of a signature with a high s', (_, recover) => {
    const twin = signed()
    twin.set(uint(order - readUint(twin.subarray(32, 64)), 32), 32)
    twin[64] = 55 - twin[64]!
    expect(recover(digest, twin)).toBeNull()
  })

  test('behavior: both say the same of any bytes', () => {
    const edges = fc.constantFrom(0n, 1n, order >> 1n, (order >> 1n) + 1n, order - 1n, order, 2n ** 256n - 1n)
    const scalar = fc.oneof(edges, fc.bigInt({ min: 0n, max: 2n ** 256n - 1n }))
    fc.assert(
      fc.property(scalar, scalar, fc.constantFrom(0, 1, 26, 27, 28, 29, 255), (r, s, v) => {
        const signature = Uint8Array.from([...uint(r, 32), ...uint(s, 32), v])
        expect(native(digest, signature)).toBe(recoverAddress(digest, signature))
      }),
      { numRuns: 300 },
    )
    fc.assert(
      fc.property(fc.nat(64), fc.nat(7), (at, bit) => {
        const changed = signed()
        changed[at]! ^= 1 << bit
        expect(native(digest, changed)).toBe(recoverAddress(digest, changed))
      }),
      { numRuns: 200 },
    )
    for (const length of [0, 64, 66]) expect(native(digest, new Uint8Array(length).fill(27))).toBeNull()
  })
})
