import fc from 'fast-check'
import { expect, test } from 'vitest'
import { fromHex, toHex } from '../../protocol/bytes.ts'

test('behavior: hexadecimal is the same however long, and reads back', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ minLength: 250, maxLength: 2_000 })),
      (bytes) => {
        const text = toHex(bytes)
        expect(text).toBe(`0x${Buffer.from(bytes).toString('hex')}`)
        expect(fromHex(text)).toEqual(Uint8Array.from(bytes))
      },
    ),
  )
  for (const length of [0, 1, 255, 256, 257]) {
    const bytes = Uint8Array.from({ length }, (_, at) => at)
    expect(toHex(bytes)).toBe(`0x${Buffer.from(bytes).toString('hex')}`)
  }
})
