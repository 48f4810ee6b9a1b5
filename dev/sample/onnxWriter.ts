import { concat, utf8 } from '../../protocol/bytes.ts'

/** Writes the little of ONNX's protobuf that small models need (onnx.proto, IR version 8). */

function varint(value: number | bigint): Uint8Array<ArrayBuffer> {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  do {
    const low = Number(rest & 0x7fn)
    rest >>= 7n
    bytes.push(rest > 0n ? low | 0x80 : low)
  } while (rest > 0n)
  return new Uint8Array(bytes)
}

const int = (field: number, value: number | bigint) => concat(varint(field << 3), varint(value))
const message = (field: number, ...parts: Uint8Array[]) => {
  const content = concat(...parts)
  return concat(varint((field << 3) | 2), varint(content.length), content)
}
const text = (field: number, value: string) => message(field, utf8(value))

/** Names a value of a graph with its type; a dimension given as text is free. */
export type ValueSpec = { name: string; elementType: number; shape: readonly (number | string)[] }

/** Holds one operator of a graph. */
export type Node = { op: string; inputs: string[]; outputs: string[]; attributes?: Record<string, number | number[]> }

/** Holds constant weights, FP32; with `external`, they stand in a file of that path and the graph only names it. */
export type Weights = { name: string; shape: number[]; data: Float32Array; external?: string }

function valueInfo(field: number, { name, elementType, shape }: ValueSpec): Uint8Array {
  const dimensions = shape.map((dimension) =>
    message(1, typeof dimension === 'number' ? int(1, dimension) : text(2, dimension)),
  )
  return message(field, text(1, name), message(2, message(1, int(1, elementType), message(2, ...dimensions))))
}

function attribute(name: string, value: number | number[]): Uint8Array {
  const list = Array.isArray(value)
  return message(
    5,
    text(1, name),
    ...(list ? value.map((entry) => int(8, entry)) : [int(3, value)]),
    int(20, list ? 7 : 2),
  )
}

/** Writes a model. */
export function writeModel({
  name,
  inputs,
  outputs,
  weights,
  nodes,
  opset = 13,
}: {
  name: string
  inputs: ValueSpec[]
  outputs: ValueSpec[]
  weights: Weights[]
  nodes: Node[]
  opset?: number
}): Uint8Array<ArrayBuffer> {
  const graph = [
    ...nodes.map((node) =>
      message(
        1,
        ...node.inputs.map((input) => text(1, input)),
        ...node.outputs.map((output) => text(2, output)),
        text(4, node.op),
        ...Object.entries(node.attributes ?? {}).map(([key, value]) => attribute(key, value)),
      ),
    ),
    text(2, name),
    ...weights.map(({ name: weight, shape, data, external }) =>
      message(
        5,
        ...shape.map((dimension) => int(1, dimension)),
        int(2, 1),
        text(8, weight),
        ...(external === undefined
          ? [message(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))]
          : [message(13, text(1, 'location'), text(2, external)), int(14, 1)]),
      ),
    ),
    ...inputs.map((input) => valueInfo(11, input)),
    ...outputs.map((output) => valueInfo(12, output)),
  ]
  return concat(int(1, 8), text(2, 'assay'), message(7, ...graph), message(8, text(1, ''), int(2, opset)))
}
