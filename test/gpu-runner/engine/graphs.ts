import { createRandom } from '../../../dev/sample/glyphs.ts'
import { randomMlp, writeMlp } from '../../../dev/sample/model.ts'
import { type Node, type ValueSpec, type Weights, writeModel } from '../../../dev/sample/onnxWriter.ts'

const float = 1
const int64 = 7

function weights(name: string, shape: number[], seed: number): Weights {
  const random = createRandom(seed)
  const count = shape.reduce((a, b) => a * b, 1)
  const scale = 2 / Math.sqrt(shape[0]!)
  return { name, shape, data: Float32Array.from({ length: count }, () => (random() - 0.5) * scale) }
}

const value = (name: string, ...shape: (number | string)[]): ValueSpec => ({ name, elementType: float, shape })

/** Writes a model of one operator on rows of a width, whose outputs are rows of the same width. */
export function elementwise(op: string, width: number, attributes?: Node['attributes']): Uint8Array<ArrayBuffer> {
  return writeModel({
    name: op,
    inputs: [value('x', 'batch', width)],
    outputs: [value('y', 'batch', width)],
    weights: [],
    nodes: [{ op, inputs: ['x'], outputs: ['y'], ...(attributes ? { attributes } : {}) }],
  })
}

/** Writes a perceptron of random weights. */
export const mlp = (...widths: number[]): Uint8Array<ArrayBuffer> => writeMlp('mlp', randomMlp(widths), 'x', 'y')

/** Writes a small convolutional classifier. */
export function convolutional(): Uint8Array<ArrayBuffer> {
  return writeModel({
    name: 'conv',
    inputs: [value('x', 'batch', 3, 16, 16)],
    outputs: [value('y', 'batch', 10)],
    weights: [weights('w1', [8, 3, 3, 3], 1), weights('w2', [16, 8, 3, 3], 2), weights('w3', [16, 10], 3)],
    nodes: [
      { op: 'Conv', inputs: ['x', 'w1'], outputs: ['c1'], attributes: { pads: [1, 1, 1, 1], strides: [2, 2] } },
      { op: 'Relu', inputs: ['c1'], outputs: ['r1'] },
      { op: 'Conv', inputs: ['r1', 'w2'], outputs: ['c2'], attributes: { pads: [1, 1, 1, 1], strides: [2, 2] } },
      { op: 'Relu', inputs: ['c2'], outputs: ['r2'] },
      { op: 'GlobalAveragePool', inputs: ['r2'], outputs: ['p'] },
      { op: 'Flatten', inputs: ['p'], outputs: ['f'], attributes: { axis: 1 } },
      { op: 'MatMul', inputs: ['f', 'w3'], outputs: ['y'] },
    ],
  })
}

/** Writes one attention block with a mean over the sequence, whose order of summing the runtime chooses by the size of the batch. */
export function attention(length = 64, width = 256): Uint8Array<ArrayBuffer> {
  const project = (to: string, seed: number) => ({
    weights: weights(`w${to}`, [width, width], seed),
    node: { op: 'MatMul', inputs: ['x', `w${to}`], outputs: [to] } satisfies Node,
  })
  const parts = [project('q', 1), project('k', 2), project('v', 3)]
  return writeModel({
    name: 'attention',
    inputs: [value('x', 'batch', length, width)],
    outputs: [value('y', 'batch', width)],
    weights: parts.map((part) => part.weights),
    nodes: [
      ...parts.map((part) => part.node),
      { op: 'Transpose', inputs: ['k'], outputs: ['kt'], attributes: { perm: [0, 2, 1] } },
      { op: 'MatMul', inputs: ['q', 'kt'], outputs: ['s'] },
      { op: 'Softmax', inputs: ['s'], outputs: ['p'], attributes: { axis: 2 } },
      { op: 'MatMul', inputs: ['p', 'v'], outputs: ['o'] },
      { op: 'Add', inputs: ['x', 'o'], outputs: ['r'] },
      { op: 'ReduceMean', inputs: ['r'], outputs: ['y'], attributes: { axes: [1], keepdims: 0 } },
    ],
  })
}

/** Writes a model of token ids: rows of a table of `rows`, added up by a perceptron's first layer. */
export function embedding(rows: number, length = 4, width = 8): Uint8Array<ArrayBuffer> {
  return writeModel({
    name: 'embedding',
    inputs: [{ name: 'ids', elementType: int64, shape: ['batch', length] }],
    outputs: [value('y', 'batch', length, width)],
    weights: [weights('table', [rows, width], 5)],
    nodes: [{ op: 'Gather', inputs: ['table', 'ids'], outputs: ['y'], attributes: { axis: 0 } }],
  })
}

/** Writes a model whose input has a free length besides the free number of rows. */
export function freeLength(): Uint8Array<ArrayBuffer> {
  return writeModel({
    name: 'free',
    inputs: [value('x', 'batch', 'length')],
    outputs: [value('y', 'batch', 'length')],
    weights: [],
    nodes: [{ op: 'Relu', inputs: ['x'], outputs: ['y'] }],
  })
}

/** Writes a model that adds all its rows up into one. */
export function total(width: number): Uint8Array<ArrayBuffer> {
  return writeModel({
    name: 'total',
    inputs: [value('x', 'batch', width)],
    outputs: [value('y', width)],
    weights: [],
    nodes: [{ op: 'ReduceMean', inputs: ['x'], outputs: ['y'], attributes: { axes: [0], keepdims: 0 } }],
  })
}

/** Writes a model of two inputs, the second meant to be the publisher's. */
export function scaled(width: number): Uint8Array<ArrayBuffer> {
  return writeModel({
    name: 'scaled',
    inputs: [value('x', 'batch', width), value('scale', 1, width)],
    outputs: [value('y', 'batch', width)],
    weights: [],
    nodes: [{ op: 'Mul', inputs: ['x', 'scale'], outputs: ['y'] }],
  })
}
