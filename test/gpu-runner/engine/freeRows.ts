import { concat, utf8 } from '../../../protocol/bytes.ts'

/** Reads and writes as much of a protobuf as it takes to free the first dimension of a graph's inputs and outputs, so that models written for one batch can be tried with others. */

function readVarint(bytes: Uint8Array, at: number): { value: number; next: number } {
  let value = 0
  for (let shift = 0, next = at; ; shift += 7, next++) {
    const byte = bytes[next]!
    value += (byte & 0x7f) * 2 ** shift
    if (byte < 0x80) return { value, next: next + 1 }
  }
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return new Uint8Array([...bytes, rest])
    bytes.push((rest % 128) + 128)
  }
}

/** Rewrites the length-delimited fields of a number; everything else is kept byte by byte. */
function rewrite(bytes: Uint8Array, field: number, change: (content: Uint8Array, index: number) => Uint8Array) {
  const parts: Uint8Array[] = []
  let seen = 0
  for (let at = 0; at < bytes.length; ) {
    const start = at
    const tag = readVarint(bytes, at)
    const wire = tag.value % 8
    at = tag.next
    if (wire === 0) at = readVarint(bytes, at).next
    else if (wire === 1) at += 8
    else if (wire === 5) at += 4
    else {
      const length = readVarint(bytes, at)
      at = length.next + length.value
      if (Math.floor(tag.value / 8) === field) {
        const content = change(bytes.subarray(length.next, at), seen++)
        parts.push(varint(tag.value), varint(content.length), content)
        continue
      }
    }
    parts.push(bytes.subarray(start, at))
  }
  return concat(...parts)
}

// ModelProto.graph 7; GraphProto.input 11 and output 12; ValueInfoProto.type 2; TypeProto.tensor_type 1; its shape 2; TensorShapeProto.dim 1; dim_param 2 (onnx.proto)
const freeDimension = concat(new Uint8Array([0x12, 0x05]), utf8('batch'))

/** Makes the first dimension of every input and output free. Whether the model then still runs is for the caller to find out. */
export function freeRows(model: Uint8Array): Uint8Array {
  const freeValue = (value: Uint8Array) =>
    rewrite(value, 2, (type) =>
      rewrite(type, 1, (tensor) =>
        rewrite(tensor, 2, (shape) =>
          rewrite(shape, 1, (dimension, index) => (index === 0 ? freeDimension : dimension)),
        ),
      ),
    )
  return rewrite(model, 7, (graph) => rewrite(rewrite(graph, 11, freeValue), 12, freeValue))
}
