import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toHex } from '../../protocol/bytes.ts'
import {
  decodeBody,
  encodeBody,
  numbersOf,
  parseJson,
  readTensors,
  TensorError,
  tensorDataText,
  tensorFromJson,
  tensorToJson,
} from '../../protocol/oip.ts'
import {
  readHeaderLength,
  readInferRequest,
  readInferResponse,
  readRawTensor,
  writeInferRequest,
  writeInferResponse,
} from '../../protocol/oipHttp.ts'
import {
  canonicalTensors,
  type Datatype,
  datatypes,
  elementCount,
  elementSize,
  type Tensor,
} from '../../protocol/tensors.ts'

const shape = fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 })
const name = fc.string({ minLength: 1, maxLength: 8, unit: 'grapheme' }).filter((text) => text.isWellFormed())

/** Draws a tensor whose bytes are any that its datatype can hold, and that JSON can carry back: canonical booleans and NaNs, text. */
const tensorOf = (datatype: Datatype, label: string): fc.Arbitrary<Tensor> =>
  shape.chain((dimensions) => {
    const count = elementCount(dimensions)
    const exactly = { minLength: count, maxLength: count }
    const made = (data: fc.Arbitrary<Uint8Array>) =>
      data.map((bytes) => ({ name: label, datatype, shape: dimensions, data: bytes }))
    if (datatype === 'BYTES')
      return made(
        fc
          .array(
            fc.string({ maxLength: 5, unit: 'grapheme' }).filter((text) => text.isWellFormed()),
            exactly,
          )
          .map((texts) => encodeText(texts)),
      )
    if (datatype === 'BOOL')
      return made(fc.array(fc.integer({ min: 0, max: 1 }), exactly).map((bits) => Uint8Array.from(bits)))
    if (datatype === 'FP32')
      return made(fc.array(fc.float(), exactly).map((values) => new Uint8Array(Float32Array.from(values).buffer)))
    if (datatype === 'FP64')
      return made(fc.array(fc.double(), exactly).map((values) => new Uint8Array(Float64Array.from(values).buffer)))
    const size = count * elementSize(datatype)!
    return made(fc.uint8Array({ minLength: size, maxLength: size }))
  })

const encodeText = (texts: string[]) =>
  tensorFromJson({ name: 't', datatype: 'BYTES', shape: [texts.length], data: texts }).data

const inJson = datatypes.filter((each) => each !== 'FP16')
const tensorsOf = (kinds: readonly Datatype[]) =>
  fc
    .uniqueArray(name, { maxLength: 4 })
    .chain((names) =>
      fc.tuple(...names.map((label) => fc.constantFrom(...kinds).chain((datatype) => tensorOf(datatype, label)))),
    )

describe('the Open Inference Protocol over HTTP', () => {
  test('behavior: in JSON and in binary the same tensors arrive, to the bit', () => {
    fc.assert(
      fc.property(tensorsOf(inJson), (tensors) => {
        const canonical = toHex(canonicalTensors(tensors))
        for (const binary of [true, false]) {
          const { bytes, headerLength } = writeInferRequest({ id: 'x', inputs: tensors, binary })
          const request = readInferRequest(bytes, headerLength)
          expect(toHex(canonicalTensors(request.inputs))).toBe(canonical)
          expect(request).toMatchObject({ id: 'x', outputs: null, binaryOutput: binary })
        }
      }),
    )
  })

  test('behavior: any mix of forms in an answer is read back, FP16 in binary', () => {
    fc.assert(
      fc.property(tensorsOf(datatypes), fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), (tensors, forms) => {
        const outputs = tensors.map((tensor, at) => ({ tensor, binary: forms[at]! || tensor.datatype === 'FP16' }))
        const { bytes, headerLength } = writeInferResponse({
          modelName: 'm',
          parameters: { a: 1, b: 'x', c: true },
          outputs,
        })
        expect(headerLength === null).toBe(outputs.every(({ binary }) => !binary))
        const answer = readInferResponse(bytes, headerLength)
        expect(toHex(canonicalTensors(answer.outputs))).toBe(toHex(canonicalTensors(tensors)))
        expect(answer).toMatchObject({ modelName: 'm', parameters: { a: 1, b: 'x', c: true } })
      }),
    )
  })

  test('behavior: lists nested as the shape says hold the same as one flat list', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 }), (dimensions) => {
        const flat = Array.from({ length: elementCount(dimensions) }, (_, index) => index)
        let rest = 0
        const nest = (axis: number): unknown =>
          axis === dimensions.length ? flat[rest++] : Array.from({ length: dimensions[axis]! }, () => nest(axis + 1))
        const read = (data: unknown) => tensorFromJson({ name: 'x', datatype: 'INT16', shape: dimensions, data }).data
        expect(read(nest(0))).toEqual(read(flat))
      }),
    )
  })

  test('behavior: whole numbers keep every digit, and zero its sign', () => {
    const text =
      '{"inputs":[{"name":"l","shape":[4],"datatype":"INT64","data":[-9223372036854775808,9223372036854775807,"9007199254740993",-0]},' +
      '{"name":"u","shape":[1],"datatype":"UINT64","data":[18446744073709551615]},' +
      '{"name":"f","shape":[3],"datatype":"FP64","data":[-0,12345678901234567890,"-Infinity"]}]}'
    const [l, u, f] = readInferRequest(new TextEncoder().encode(text), null).inputs
    expect(numbersOf(l as never)).toEqual(BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n, 2n ** 53n + 1n, 0n))
    expect(numbersOf(u as never)).toEqual(BigUint64Array.of(2n ** 64n - 1n))
    expect(numbersOf(f as never)).toEqual(Float64Array.of(-0, Number(12345678901234567890n), Number.NEGATIVE_INFINITY))
    expect(tensorDataText(l!)).toBe('[-9223372036854775808,9223372036854775807,9007199254740993,0]')
    expect(tensorDataText(f!)).toBe('[-0,12345678901234567000,"-Infinity"]')
  })

  const edges: [Datatype, string, string][] = [
    ['UINT8', '[256]', 'UINT8'],
    ['UINT8', '[-1]', 'UINT8'],
    ['INT8', '[128]', 'INT8'],
    ['INT16', '[32768]', 'INT16'],
    ['INT32', '[2147483648]', 'INT32'],
    ['UINT32', '[4294967296]', 'UINT32'],
    ['INT32', '[1.5]', 'INT32'],
    ['INT32', '["1"]', 'INT32'],
    ['INT64', '[9223372036854775808]', 'INT64'],
    ['UINT64', '[-1]', 'UINT64'],
    ['UINT64', '[18446744073709551616]', 'UINT64'],
    ['INT64', '[1e18]', 'whole number'],
    ['INT64', '["0x10"]', 'whole number'],
    ['FP32', '[3.5e38]', 'range of FP32'],
    ['FP64', '[1e999]', 'a number'],
    ['FP32', '["nan"]', 'a number'],
    ['FP32', '[true]', 'a number'],
    ['BOOL', '[2]', 'a boolean'],
    ['BOOL', '["true"]', 'a boolean'],
    ['BYTES', '[1]', 'must be text'],
    ['FP16', '[1]', 'no JSON form'],
    ['FP32', '[[1]]', 'nested as shape'],
    ['FP32', '[]', 'got a list of 0'],
    ['FP32', '[[]]', 'a list is not a number'],
    ['FP32', '1', 'got number'],
    ['FP32', 'null', 'nested as shape'],
  ]
  test.each(edges)('refusal: %s %s', (datatype, data, message) => {
    const dimensions = data === '[[1]]' ? [2, 1] : [1]
    const text = `{"inputs":[{"name":"x","shape":[${dimensions}],"datatype":"${datatype}","data":${data}}]}`
    const read = () => readInferRequest(new TextEncoder().encode(text), null)
    expect(read).toThrow(TensorError)
    expect(read).toThrow(message)
  })

  test('attack: a shape of a quintillion elements takes no memory', () => {
    const huge = { name: 'x', shape: [2 ** 31, 2 ** 20], datatype: 'FP32', data: [1] }
    expect(() => readTensors([huge], 'inputs', new Uint8Array())).toThrow('got a list of 1')
    expect(() => readRawTensor(new Uint8Array(8), [{ name: 'x', datatype: 'FP32', shape: [-1, 0] }])).toThrow(
      'multiple of 0',
    )
  })

  test('attack: mangled requests are refused as such or read as tensors of their stated length, never with another error', () => {
    const { bytes, headerLength } = writeInferRequest({
      id: 'a',
      inputs: [
        { name: 'x', datatype: 'FP32', shape: [2], data: new Uint8Array(8) },
        { name: 's', datatype: 'BYTES', shape: [1], data: encodeText(['hi']) },
      ],
    })
    let refused = 0
    let read = 0
    for (let at = 0; at < bytes.length; at++)
      for (const flip of [1, 4, 64, 255]) {
        const mangled = bytes.slice()
        mangled[at]! ^= flip
        try {
          canonicalTensors(readInferRequest(mangled, headerLength).inputs)
          read++
        } catch (error) {
          // Two tensors of one name are for whoever knows the model to refuse; every other fault is the reader's.
          if (!(error instanceof TensorError)) expect(String(error)).toMatch(/Two tensors are named|well-formed/)
          refused++
        }
      }
    expect(refused).toBeGreaterThan(100)
    expect(read).toBeGreaterThan(50)
    for (let length = 0; length < bytes.length; length++)
      expect(() => readInferRequest(bytes.slice(0, length), readHeaderLength(String(headerLength), length))).toThrow(
        TensorError,
      )
  })

  test('attack: any JSON in any place is refused as such, or read', () => {
    const deep = Array.from({ length: 200_000 }).reduce<unknown>((inner) => [inner], 1)
    const stubborn = { toString: 1, valueOf: 1 }
    const anything = fc.oneof(fc.jsonValue(), fc.constantFrom<unknown>(stubborn, 'FP32', 'BYTES', [1], 4, true))
    const input = fc.record(
      {
        name: anything,
        shape: anything,
        datatype: anything,
        parameters: fc.oneof(anything, fc.record({ binary_data_size: anything })),
        data: anything,
      },
      { requiredKeys: [] },
    )
    const request = fc.record(
      {
        id: anything,
        parameters: anything,
        inputs: fc.oneof(anything, fc.array(fc.oneof(anything, input))),
        outputs: fc.oneof(anything, fc.array(fc.record({ name: anything, parameters: anything }))),
      },
      { requiredKeys: [] },
    )
    const survives = (read: () => unknown) => {
      try {
        read()
      } catch (error) {
        expect(error).toBeInstanceOf(TensorError)
      }
    }
    const textOf = (json: unknown) => new TextEncoder().encode(JSON.stringify(json))
    fc.assert(
      fc.property(request, (json) => {
        const text = textOf(json)
        survives(() => readInferRequest(text, null))
        survives(() => readInferRequest(new Uint8Array([...text, 0, 0, 0, 0]), text.length))
        survives(() => readInferResponse(textOf({ ...json, outputs: json.inputs }), null))
        const body = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20)
        body.set([text.length & 0xf8, text.length >> 8, 0, 0, 0, 0, 0, 0])
        body.set(text, 8)
        survives(() => decodeBody('inputs', body))
      }),
      { numRuns: 2_000 },
    )
    const nested = (field: string) =>
      new TextEncoder().encode(
        `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"${field}":${'['.repeat(200_000)}1234567890123456${']'.repeat(200_000)}}]}`,
      )
    for (const field of ['name', 'shape', 'datatype', 'data', 'parameters'])
      survives(() => readInferRequest(nested(field), null))
    survives(() => tensorFromJson({ name: 'x', shape: [1], datatype: 'FP32', data: deep }))
    survives(() => tensorFromJson({ name: 'x', shape: [1], datatype: stubborn, data: [1] }))
  })

  test('behavior: a raw body is one tensor: its open dimension is counted, BYTES is one element', () => {
    const spec = (datatype: Datatype, dimensions: number[]) => [{ name: 'x', datatype, shape: dimensions }]
    expect(readRawTensor(new Uint8Array(24), spec('FP16', [3, -1])).shape).toEqual([3, 4])
    expect(readRawTensor(new Uint8Array(4), spec('FP32', [])).shape).toEqual([])
    const text = readRawTensor(new TextEncoder().encode('hé'), spec('BYTES', [-1]))
    expect(tensorToJson(text)).toEqual({ name: 'x', datatype: 'BYTES', shape: [1], data: ['hé'] })
    expect(() => readRawTensor(new Uint8Array(4), spec('BYTES', [2]))).toThrow('one element')
    expect(() => readRawTensor(new Uint8Array(5), spec('FP32', [1]))).toThrow('takes 4 bytes')
  })

  test('refusal: a header length that is not one, in every spelling', () => {
    expect(readHeaderLength(null, 3)).toBeNull()
    expect(readHeaderLength('3', 3)).toBe(3)
    for (const text of ['', '4', '-1', '1.5', '0x1', ' 1', '1e1', '9'.repeat(40)])
      expect(() => readHeaderLength(text, 3)).toThrow(TensorError)
  })

  test('behavior: JSON without long numbers is JSON, and prototypes are left alone', () => {
    expect(parseJson('{"a":[1,2.5,"x",null]}')).toEqual({ a: [1, 2.5, 'x', null] })
    expect(parseJson('[12345678901234567890, 1.5, "12345678901234567890", 1e20]')).toEqual([
      12345678901234567890n,
      1.5,
      '12345678901234567890',
      1e20,
    ])
    expect(() => parseJson('{"a":12345678901234567890')).toThrow(SyntaxError)
    const read = readInferRequest(
      new TextEncoder().encode('{"__proto__":{"id":"polluted"},"inputs":[],"parameters":{"constructor":"x"}}'),
      null,
    )
    expect(read.id).toBeUndefined()
    expect(({} as { id?: string }).id).toBeUndefined()
  })
})

describe('the plaintext of an envelope', () => {
  test('behavior: what is written is read, its tensors as views at multiples of 8 where their sizes allow', () => {
    fc.assert(
      fc.property(tensorsOf(datatypes), (tensors) => {
        const bytes = encodeBody('inputs', tensors, { salt: 'x' })
        const { tensors: read, salt } = decodeBody('inputs', bytes)
        expect(toHex(canonicalTensors(read))).toBe(toHex(canonicalTensors(tensors)))
        expect(salt).toBe('x')
        for (const { data } of read) expect(data.buffer).toBe(bytes.buffer)
        if (read[0]) expect(read[0].data.byteOffset % 8).toBe(0)
      }),
    )
  })

  test('refusal: a tensor in JSON, which would have other bytes than it commits to', () => {
    const json = new TextEncoder().encode('{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}      ')
    const bytes = new Uint8Array(8 + 72)
    new DataView(bytes.buffer).setUint32(0, 72, true)
    bytes.fill(0x20, 8)
    bytes.set(json.subarray(0, 72), 8)
    expect(() => decodeBody('inputs', bytes)).toThrow('no binary_data_size')
  })
})
