import { keccak_256 } from '@noble/hashes/sha3.js'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toHex, utf8 } from '../../protocol/bytes.ts'
import { keccak256 } from '../../protocol/keccak.ts'

describe('Keccak-256', () => {
  test('vector: nothing, and three letters, as Ethereum hashes them', () => {
    expect(toHex(keccak256(new Uint8Array(0)))).toBe(
      '0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470',
    )
    expect(toHex(keccak256(utf8('abc')))).toBe('0x4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45')
  })

  test('behavior: every length around the ends of its blocks gives what a library of its own gives', () => {
    for (let length = 0; length <= 3 * 136 + 1; length++) {
      const bytes = Uint8Array.from({ length }, (_, at) => at * 31 + length)
      expect(toHex(keccak256(bytes))).toBe(toHex(keccak_256(bytes)))
    }
  })

  test('property: any bytes, one after the other, are hashed alike and stay as they were', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2_000, size: 'max' }), (bytes) => {
        const before = bytes.slice()
        const digest = keccak256(bytes)
        keccak256(utf8('another'))
        return toHex(digest) === toHex(keccak_256(before)) && toHex(bytes) === toHex(before)
      }),
    )
  })
})
