import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createSealer } from '../../client/sealer.ts'
import { createEnvelope, type Direction, direction } from '../../protocol/envelope.ts'
import { sha256 } from '../../protocol/hash.ts'
import { findNodeCrypto } from '../../protocol/nodeEnvelope.ts'

const bytes = (label: number) => new Uint8Array(sha256(new Uint8Array([label])))
const keys = { request: bytes(1), answer: bytes(2), salt: bytes(3) }
const channel = bytes(4)
const refused = expect.objectContaining({ name: 'EncodingError' })

describe('createSealer', () => {
  test('behavior: Node has the cipher, which answers at once; without it WebCrypto does the same', async () => {
    expect(findNodeCrypto()).not.toBeNull()
    const body = new Uint8Array(100).fill(9)
    const atOnce = (await createSealer(channel, keys)).seal(7n, direction.request, body)
    const portable = (await createSealer(channel, keys, null)).seal(7n, direction.request, body)
    expect(atOnce).toBeInstanceOf(Uint8Array)
    expect(portable).toBeInstanceOf(Promise)
    expect(await portable).toEqual(atOnce)
  })

  test('behavior: seals the same bytes as the portable envelope, and each opens what the other sealed', async () => {
    const own = await createSealer(channel, keys)
    const portable = await createEnvelope(channel, keys)
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 5_000 }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.constantFrom<Direction>(direction.request, direction.answer),
        async (body, job, way) => {
          const sealed = await own.seal(job, way, body)
          expect(sealed).toEqual(await portable.seal(job, way, body))
          expect(await own.open(job, way, sealed)).toEqual(body)
          expect(await portable.open(job, way, sealed)).toEqual(body)
          expect(await own.outputSalt(job)).toEqual(await portable.outputSalt(job))
        },
      ),
      { numRuns: 200 },
    )
  })

  test('behavior: what is opened starts where numbers may start, and slice() copies it', async () => {
    const own = await createSealer(channel, keys)
    const opened = await own.open(
      1n,
      direction.answer,
      await own.seal(1n, direction.answer, new Uint8Array(64).fill(3)),
    )
    expect(opened.byteOffset % 8).toBe(0)
    const copy = opened.slice()
    copy[0] = 4
    expect(opened[0]).toBe(3)
  })

  test('attack: a changed, cut, moved or turned-round body does not open', async () => {
    const own = await createSealer(channel, keys)
    const sealed = await own.seal(7n, direction.request, new Uint8Array(100).fill(9))
    for (let at = 0; at < sealed.length; at++) {
      const changed = sealed.slice()
      changed[at]! ^= 1
      expect(() => own.open(7n, direction.request, changed)).toThrow(refused)
    }
    for (let length = 0; length < sealed.length; length++)
      expect(() => own.open(7n, direction.request, sealed.subarray(0, length))).toThrow(refused)
    expect(() => own.open(8n, direction.request, sealed)).toThrow(refused)
    expect(() => own.open(7n, direction.answer, sealed)).toThrow(refused)
    const elsewhere = await createSealer(bytes(5), keys)
    expect(() => elsewhere.open(7n, direction.request, sealed)).toThrow(refused)
  })
})
