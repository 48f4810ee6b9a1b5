import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createNativeEnvelope } from '../../gpu-runner/nativeEnvelope.ts'
import { createEnvelope, type Direction, direction } from '../../protocol/envelope.ts'
import { sha256 } from '../../protocol/hash.ts'

const bytes = (label: number) => new Uint8Array(sha256(new Uint8Array([label])))
const keys = { request: bytes(1), answer: bytes(2), salt: bytes(3) }
const channel = bytes(4)

describe('createNativeEnvelope', () => {
  const native = createNativeEnvelope(channel, keys)

  test('behavior: seals the same bytes as the portable envelope, and each opens what the other sealed', async () => {
    const portable = await createEnvelope(channel, keys)
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 5_000 }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.constantFrom<Direction>(direction.request, direction.answer),
        async (body, job, way) => {
          const sealed = native.seal(job, way, body)
          expect(sealed).toEqual(await portable.seal(job, way, body))
          expect(native.open(job, way, sealed)).toEqual(body)
          expect(native.outputSalt(job)).toEqual(await portable.outputSalt(job))
        },
      ),
      { numRuns: 200 },
    )
  })

  test('property: the salts of jobs that follow, come again, leap or go back are those of the portable envelope', async () => {
    const portable = await createEnvelope(channel, keys)
    const expected = new Map<bigint, Uint8Array>()
    const top = 2n ** 64n - 1n
    const walk = fc.array(
      fc.tuple(fc.constantFrom(0n, 1n, 2n, 30n, 100n, top - 40n, top - 16n, top - 3n), fc.integer({ min: 1, max: 40 })),
      { minLength: 1, maxLength: 6 },
    )
    await fc.assert(
      fc.asyncProperty(walk, async (steps) => {
        const own = createNativeEnvelope(channel, keys)
        for (const [from, count] of steps)
          for (let job = from; job < from + BigInt(count) && job <= top; job++) {
            if (!expected.has(job)) expected.set(job, await portable.outputSalt(job))
            expect(own.outputSalt(job)).toEqual(expected.get(job))
          }
      }),
      { numRuns: 60 },
    )
  })

  test('attack: keys wiped once the envelope is made change no salt of it', () => {
    const given = { request: bytes(1), answer: bytes(2), salt: bytes(3) }
    const own = createNativeEnvelope(channel, given)
    given.salt.fill(0)
    for (let job = 1n; job < 40n; job++) expect(own.outputSalt(job)).toEqual(native.outputSalt(job))
  })

  test('attack: a changed, cut, moved or turned-round body does not open', () => {
    const sealed = native.seal(7n, direction.request, new Uint8Array(100).fill(9))
    const refused = { name: 'EncodingError' }
    for (let at = 0; at < sealed.length; at++) {
      const changed = sealed.slice()
      changed[at]! ^= 1
      expect(() => native.open(7n, direction.request, changed)).toThrow(expect.objectContaining(refused))
    }
    for (let length = 0; length < sealed.length; length++)
      expect(() => native.open(7n, direction.request, sealed.subarray(0, length))).toThrow(
        expect.objectContaining(refused),
      )
    expect(() => native.open(8n, direction.request, sealed)).toThrow(expect.objectContaining(refused))
    expect(() => native.open(7n, direction.answer, sealed)).toThrow(expect.objectContaining(refused))
    const elsewhere = createNativeEnvelope(bytes(5), keys)
    expect(() => elsewhere.open(7n, direction.request, sealed)).toThrow(expect.objectContaining(refused))
  })
})
