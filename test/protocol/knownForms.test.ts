import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { TensorSpec } from '../../protocol/manifest.ts'
import { checkTensors, decodeBody, encodeBody, saltOf, TensorError } from '../../protocol/oip.ts'
import { canonicalTensors, type Tensor, tensorCommitment } from '../../protocol/tensors.ts'

/** What is remembered of tensors' forms must never change what is said of them. */

const float = (name: string, shape: number[], seed = 0): Tensor => {
  const count = shape.reduce((product, each) => product * each, 1)
  const data = new Uint8Array(Float32Array.from({ length: count }, (_, at) => at + seed).buffer)
  return { name, datatype: 'FP32', shape, data }
}
const saltNumber = (number: number) => toHex(sha256(utf8(`salt ${number}`)))
/** Says what a commitment is without anything remembered. */
const committed = (salt: Uint8Array, tensors: Tensor[]) =>
  toHex(sha256(new Uint8Array([...utf8('ASY1tens'), ...salt, ...canonicalTensors(tensors)])))

/** Few names, shapes and datatypes, so that forms come again among others that nearly are the same. */
const part = fc.record({
  name: fc.constantFrom('a', 'b', 'ab', 'ü'),
  rows: fc.integer({ min: 0, max: 3 }),
  width: fc.constantFrom(1, 2, 4),
  datatype: fc.constantFrom('FP32', 'INT32', 'UINT8', 'BYTES'),
  flat: fc.boolean(),
  seed: fc.nat(255),
})
const tensorsOfParts = fc.uniqueArray(part, { maxLength: 3, selector: ({ name }) => name }).map((parts) =>
  parts.map(({ name, rows, width, datatype, flat, seed }): Tensor => {
    const shape = flat ? [rows * width] : [rows, width]
    const size = datatype === 'UINT8' ? 1 : 4
    const fixed = new Uint8Array(rows * width * size).fill(seed)
    // Elements of no byte: four for each length.
    const data = datatype === 'BYTES' ? new Uint8Array(rows * width * 4) : fixed
    return { name, datatype: datatype as Tensor['datatype'], shape, data }
  }),
)

describe('remembered forms', () => {
  test('property: commitments and bodies are what they are with nothing remembered', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(tensorsOfParts, fc.nat(3)), { minLength: 1, maxLength: 40 }), (asked) => {
        for (const [tensors, number] of asked) {
          const salt = saltNumber(number)
          if (toHex(tensorCommitment(fromHex(salt), tensors)) !== committed(fromHex(salt), tensors)) return false
          for (const member of ['inputs', 'outputs'] as const) {
            const bytes = encodeBody(member, tensors, member === 'inputs' ? { salt } : undefined)
            const read = decodeBody(member, bytes)
            if (JSON.stringify(read.tensors) !== JSON.stringify(tensors)) return false
            if (member === 'inputs' && toHex(saltOf(read)) !== salt) return false
            if (member === 'outputs' && toHex(encodeBody(member, read.tensors)) !== toHex(bytes)) return false
          }
        }
        return true
      }),
      { numRuns: 150 },
    )
  })

  test('attack: who changes the tensors given to him changes nothing for the next', () => {
    const body = () => encodeBody('outputs', [float('y', [1, 4])])
    for (let round = 0; round < 3; round++) {
      const [tensor] = decodeBody('outputs', body()).tensors as [Tensor & { shape: number[] }]
      expect(tensor.shape).toEqual([1, 4])
      tensor.shape.push(9)
      tensor.name = 'z'
    }
  })

  test('attack: a header that differs from a known one in its salt is read, and one that differs elsewhere is read anew', () => {
    const write = (salt: unknown, name = 'x') => {
      const bytes = encodeBody('inputs', [float(name, [1, 2])], { salt: salt as string })
      return bytes
    }
    expect(toHex(saltOf(decodeBody('inputs', write(saltNumber(1)))))).toBe(saltNumber(1))
    expect(toHex(saltOf(decodeBody('inputs', write(saltNumber(2)))))).toBe(saltNumber(2))
    expect(toHex(saltOf(decodeBody('inputs', write(saltNumber(3).toUpperCase().replace('0X', '0x')))))).toBe(
      saltNumber(3),
    )
    // As long as a salt, and none.
    const none = `0x${'g'.repeat(64)}`
    expect(() => saltOf(decodeBody('inputs', write(none)))).toThrow(TensorError)
    expect(() => saltOf(decodeBody('inputs', write(`0x${'\u0007'.repeat(8)}${'1'.repeat(16)}`)))).toThrow(TensorError)
    expect(decodeBody('inputs', write(saltNumber(4), 'z')).tensors[0]!.name).toBe('z')
  })

  test('attack: text that looks like a salt elsewhere in the header is none', () => {
    const fake = `"salt":"0x${'1'.repeat(64)}`
    for (let round = 0; round < 3; round++) {
      const bytes = encodeBody('inputs', [float(`${fake}${round}`, [1])], { salt: saltNumber(round) })
      const read = decodeBody('inputs', bytes)
      expect(toHex(saltOf(read))).toBe(saltNumber(round))
      expect(read.tensors[0]!.name).toBe(`${fake}${round}`)
    }
    // A second parameter of the same name wins, as JSON has it.
    const twice = (salt: string) => {
      const json = `{"parameters":{"salt":"${salt}","salt":"none"},"inputs":[]}`.padEnd(128)
      const bytes = new Uint8Array(8 + 128)
      bytes[0] = 128
      bytes.set(utf8(json), 8)
      return decodeBody('inputs', bytes)
    }
    for (const number of [1, 2]) expect(() => saltOf(twice(saltNumber(number)))).toThrow(TensorError)
  })

  test('attack: a known header with more or fewer bytes behind it is refused as any other', () => {
    const bytes = encodeBody('inputs', [float('x', [1, 4])], { salt: saltNumber(1) })
    decodeBody('inputs', bytes)
    expect(() => decodeBody('inputs', bytes.subarray(0, bytes.length - 1))).toThrow(TensorError)
    expect(() => decodeBody('inputs', new Uint8Array([...bytes, 0]))).toThrow(TensorError)
  })

  test('attack: what fits one model is not taken for fitting another, nor a form nearly the same', () => {
    const spec = (name: string, shape: number[]): TensorSpec => ({ name, datatype: 'FP32', shape })
    const wide = [spec('x', [-1, 4])]
    const narrow = [spec('x', [-1, 2])]
    for (let round = 0; round < 2; round++) {
      checkTensors([float('x', [1, 4])], wide)
      expect(() => checkTensors([float('x', [1, 4])], narrow)).toThrow(TensorError)
      expect(() => checkTensors([float('x', [4])], wide)).toThrow(TensorError)
      expect(() => checkTensors([{ ...float('x', [1, 4]), datatype: 'INT32' }], wide)).toThrow(TensorError)
      expect(() => checkTensors([{ ...float('x', [1, 4]), data: new Uint8Array(15) }], wide)).toThrow(TensorError)
      expect(() => checkTensors([float('x', [1, 4]), float('x', [1, 4])], wide)).toThrow(TensorError)
    }
  })

  test('behavior: more forms than are remembered push each other out, and nothing else', () => {
    for (let round = 0; round < 3; round++)
      for (let width = 1; width <= 20; width++) {
        const tensors = [float('x', [1, width], round)]
        const salt = fromHex(saltNumber(width))
        expect(toHex(tensorCommitment(salt, tensors))).toBe(committed(salt, tensors))
      }
  })
})
