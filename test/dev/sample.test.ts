import { createRequire } from 'node:module'
import { describe, expect, test } from 'vitest'
import { accuracy, sampleModel } from '../../dev/sample/model.ts'
import { OnnxError, readGraph } from '../../protocol/onnx/reader.ts'

const ort = createRequire(import.meta.url)('onnxruntime-node') as {
  Tensor: new (type: string, data: unknown, dims: number[]) => unknown
  InferenceSession: {
    create(bytes: Uint8Array): Promise<{
      run(feeds: object): Promise<Record<string, { data: Float32Array }>>
      inputMetadata: { name: string; shape: (number | string)[] }[]
    }>
  }
}

describe('sample model', () => {
  const sample = sampleModel()

  test('behavior: classifies freshly drawn digits, and onnxruntime agrees about the example', async () => {
    expect(accuracy(sample.layers)).toBeGreaterThan(0.95)
    const session = await ort.InferenceSession.create(sample.graph)
    const { probabilities } = await session.run({ pixels: new ort.Tensor('float32', sample.example.pixels, [1, 64]) })
    const { data } = probabilities!
    expect(data.indexOf(Math.max(...data))).toBe(sample.example.digit)
  })

  test('behavior: trained twice, it is the same bytes', () => {
    expect(sampleModel().graph).toEqual(sample.graph)
    expect(sample.graph.length).toBeLessThan(300_000)
  })

  test('behavior: the reader sees the tensors onnxruntime sees', async () => {
    const { inputs, outputs, opsets, externalData } = readGraph(sample.graph)
    const session = await ort.InferenceSession.create(sample.graph)
    expect(inputs).toEqual([{ name: session.inputMetadata[0]!.name, datatype: 'FP32', shape: [-1, 64] }])
    expect(outputs).toEqual([{ name: 'probabilities', datatype: 'FP32', shape: [-1, 10] }])
    expect(opsets).toEqual([{ domain: '', version: 13 }])
    expect(externalData).toEqual([])
  })

  test('refusal: cut or mutated, a graph is read or refused with a reason, never anything else, and quickly', () => {
    let state = 1
    const random = (below: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      return state % below
    }
    const started = performance.now()
    for (let round = 0; round < 4_000; round++) {
      const bytes = round % 4 === 0 ? sample.graph.slice(0, random(sample.graph.length)) : sample.graph.slice()
      // Most of the file is weights; the structure is at its two ends.
      for (let flips = 0; flips < 3; flips++)
        bytes[round % 2 ? random(Math.min(600, bytes.length || 1)) : random(bytes.length || 1)]! ^= 1 << random(8)
      try {
        readGraph(bytes)
      } catch (error) {
        expect(error).toBeInstanceOf(OnnxError)
        expect((error as OnnxError).hint).not.toBe('')
      }
    }
    expect(performance.now() - started).toBeLessThan(10_000)
  })

  test.each([
    ['nothing', new Uint8Array(), 'no_graph'],
    ['text', new TextEncoder().encode('hello, this is not a model'), 'malformed'],
    ['a length past the end', new Uint8Array([0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f]), 'truncated'],
    ['an endless number', new Uint8Array(40).fill(0xff), 'malformed'],
    ['graphs nested a thousand deep', nested(1_000), 'too_deep'],
  ])('refusal: %s', (_, bytes, code) => {
    expect(() => readGraph(bytes)).toThrow(expect.objectContaining({ code }))
  })
})

/** Wraps a graph in an attribute of a node of a graph, many times. */
function nested(depth: number): Uint8Array {
  const field = (tag: number, content: number[]) => {
    const length: number[] = []
    for (let rest = content.length; ; rest = Math.floor(rest / 128)) {
      length.push(rest >= 128 ? (rest % 128) + 128 : rest)
      if (rest < 128) break
    }
    return [tag, ...length, ...content]
  }
  let graph: number[] = []
  for (let i = 0; i < depth; i++) graph = field(0x0a, field(0x2a, field(0x32, graph)))
  return new Uint8Array(field(0x3a, graph))
}
