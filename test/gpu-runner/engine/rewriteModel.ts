import { concat, utf8 } from '../../../protocol/bytes.ts'

/** Reads and writes as much of a protobuf as it takes to change a model that somebody else wrote: to free its rows, or to move its weights to a file of their own. */

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

/** Rewrites the length-delimited fields of a number, or leaves them out for null; everything else is kept byte by byte. */
function rewrite(bytes: Uint8Array, field: number, change: (content: Uint8Array, index: number) => Uint8Array | null) {
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
        if (!content) continue
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

const field = (number: number, content: Uint8Array) => concat(varint(number * 8 + 2), varint(content.length), content)
const entry = (key: string, value: string) => field(13, concat(field(1, utf8(key)), field(2, utf8(value))))

/** Moves a model's weights to one external file, as exporters do with large ones. */
export function externalise(model: Uint8Array, path: string): { graph: Uint8Array; data: Uint8Array } {
  const data: Uint8Array[] = []
  let offset = 0
  // GraphProto.initializer 5; TensorProto.raw_data 9, external_data 13, data_location 14 (onnx.proto)
  const graph = rewrite(model, 7, (content) =>
    rewrite(content, 5, (tensor) => {
      let length = 0
      const rest = rewrite(tensor, 9, (raw) => {
        data.push(raw)
        length = raw.length
        return null
      })
      const place = concat(entry('location', path), entry('offset', `${offset}`), entry('length', `${length}`))
      offset += length
      return concat(rest, place, new Uint8Array([0x70, 1]))
    }),
  )
  return { graph, data: concat(...data) }
}
