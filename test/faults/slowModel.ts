import { createRandom } from '../../dev/sample/glyphs.ts'
import { type Node, writeModel } from '../../dev/sample/onnxWriter.ts'

/** Writes a model that takes about a tenth of a second for one input, so that a fault can strike while it runs: products of 64 x 1,024 and 1,024 x 1,024. */
export function slowModel(products = 24): Uint8Array<ArrayBuffer> {
  const width = 1_024
  const random = createRandom(3)
  const weights = (rows: number, columns: number) =>
    Float32Array.from({ length: rows * columns }, () => (random() - 0.5) / Math.sqrt(rows / 12))
  const chain: Node[] = Array.from({ length: products }, (_, index) => ({
    op: 'MatMul',
    inputs: [`x${index}`, 'w'],
    outputs: [`x${index + 1}`],
  }))
  return writeModel({
    name: 'slow',
    inputs: [{ name: 'pixels', elementType: 1, shape: [1, 64] }],
    outputs: [{ name: 'out', elementType: 1, shape: [64, 4] }],
    weights: [
      { name: 'first', shape: [1, width], data: weights(1, width) },
      { name: 'w', shape: [width, width], data: weights(width, width) },
      { name: 'last', shape: [width, 4], data: weights(width, 4) },
    ],
    nodes: [
      { op: 'Transpose', inputs: ['pixels'], outputs: ['column'], attributes: { perm: [1, 0] } },
      { op: 'MatMul', inputs: ['column', 'first'], outputs: ['x0'] },
      ...chain,
      { op: 'MatMul', inputs: [`x${products}`, 'last'], outputs: ['out'] },
    ],
  })
}
