import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeMessage, encodeMessage, kinds, messageLength, WireError } from '../../../gpu-runner/engine/wire.ts'
import { concat } from '../../../protocol/bytes.ts'
import { datatypes, type Tensor } from '../../../protocol/tensors.ts'

const tensor = fc.record({
  name: fc.string({ unit: 'grapheme', maxLength: 20 }),
  datatype: fc.constantFrom(...datatypes),
  shape: fc.array(fc.nat(), { maxLength: 5 }),
  data: fc.uint8Array({ maxLength: 100 }),
})
const message = fc.record({
  kind: fc.constantFrom(...Object.values(kinds)),
  id: fc.nat(0xffff_ffff),
  text: fc.string({ unit: 'grapheme', maxLength: 100 }),
  tensors: fc.array(tensor, { maxLength: 5 }),
})

describe('the bytes between the control process and an executor', () => {
  test('property: a message comes back as it was, its tensors at multiples of 8', () => {
    fc.assert(
      fc.property(message, (sent) => {
        const bytes = concat(...encodeMessage(sent))
        expect(messageLength(bytes, 2 ** 30)).toBe(bytes.length)
        const received = decodeMessage(bytes)
        expect(received).toEqual(sent)
        for (const { data } of received.tensors) expect(data.byteOffset % 8).toBe(0)
      }),
    )
  })

  test('property: whatever bytes come, what is thrown says that they are no message', () => {
    const attempt = (bytes: Uint8Array) => {
      try {
        decodeMessage(bytes)
      } catch (error) {
        expect(error).toBeInstanceOf(WireError)
      }
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        attempt(bytes)
      }),
    )
    fc.assert(
      fc.property(message, fc.nat(), fc.nat(255), fc.nat(), (sent, at, byte, cut) => {
        const bytes = concat(...encodeMessage(sent))
        bytes[at % bytes.length] = byte
        attempt(bytes)
        attempt(bytes.subarray(0, cut % (bytes.length + 1)))
      }),
      { numRuns: 1_000 },
    )
  })

  test('behavior: texts come back whatever was written before: again, among many others, long or of other letters', () => {
    const texts = [
      ...Array.from({ length: 600 }, (_, at) => `text ${at % 300}`),
      'ü'.repeat(100),
      'x'.repeat(4_096),
      '',
    ]
    for (let round = 0; round < 2; round++)
      for (const text of texts) {
        const tensors: Tensor[] = [
          { name: `${text} of a tensor`, datatype: 'UINT8', shape: [1], data: new Uint8Array(1) },
        ]
        const message = Buffer.concat(encodeMessage({ kind: kinds.run, id: 1, text, tensors }))
        const read = decodeMessage(message)
        expect([read.text, read.tensors[0]!.name]).toEqual([text, `${text} of a tensor`])
      }
  })

  test('behavior: from a Buffer come tensors whose slice is a copy', () => {
    const data = new Uint8Array([1, 2, 3])
    const sent = {
      kind: kinds.run,
      id: 1,
      text: '',
      tensors: [{ name: 'x', datatype: 'UINT8' as const, shape: [3], data }],
    }
    const bytes = Buffer.concat(encodeMessage(sent))
    const copy = decodeMessage(bytes).tensors[0]!.data.slice()
    bytes.fill(0)
    expect(copy).toEqual(data)
    expect(copy.buffer.byteLength).toBe(3)
  })

  test('refusal: a length past the limit, or none that can be', () => {
    const [head] = encodeMessage({ kind: kinds.run, id: 1, text: '', tensors: [] })
    expect(() => messageLength(head!, 31)).toThrow(/at most 31/)
    const view = new DataView(head!.buffer)
    for (const payload of [-8, 0.5, Number.NaN, 2 ** 60, 7]) {
      view.setFloat64(8, payload, true)
      expect(() => messageLength(head!, 2 ** 53)).toThrow(WireError)
    }
  })
})
