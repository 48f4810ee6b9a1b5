import { EncodingError, fromUtf8 } from '../bytes.ts'
import type { TensorSpec } from '../manifest.ts'
import type { Datatype } from '../tensors.ts'

/** Lists why an ONNX file is refused. */
const onnxRefusals = ['truncated', 'malformed', 'too_large', 'too_deep', 'no_graph', 'unsupported_type'] as const

/** Reports an ONNX file that cannot be listed, and what to do. */
export class OnnxError extends Error {
  override name = 'OnnxError'
  readonly code: (typeof onnxRefusals)[number]
  readonly hint: string
  constructor(
    code: (typeof onnxRefusals)[number],
    message: string,
    hint = 'Export the model again with a current ONNX exporter.',
  ) {
    super(message)
    this.code = code
    this.hint = hint
  }
}

/** Holds what a listing reads from a graph. */
export type GraphInfo = {
  irVersion: number
  opsets: { domain: string; version: number }[]
  inputs: TensorSpec[]
  outputs: TensorSpec[]
  nodeCount: number
  /** Paths of files outside the graph that its tensors name. */
  externalData: string[]
}

/** Largest graph accepted, in bytes: protobuf itself ends at 2 GiB. */
const maxGraphBytes = 512 * 1024 * 1024
const maxDepth = 64

// Own reader: the listing needs a dozen fields of ONNX's protobuf (onnx.proto, IR version 10), must run in a Worker, and must survive hostile bytes; a general decoder allocates by what the file claims.
class ProtobufReader {
  offset: number
  readonly end: number
  readonly bytes: Uint8Array
  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.bytes = bytes
    this.offset = start
    this.end = end
  }

  get done(): boolean {
    return this.offset >= this.end
  }

  varint(): bigint {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (this.offset >= this.end) throw new OnnxError('truncated', 'The file ends inside a number.')
      const byte = this.bytes[this.offset++]!
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value & 0xffff_ffff_ffff_ffffn
    }
    throw new OnnxError('malformed', 'A number takes more than ten bytes.')
  }

  /** Reads a field's tag: its number and wire type. */
  tag(): { field: number; wire: number } {
    const tag = this.varint()
    const field = Number(tag >> 3n)
    if (field === 0 || field > 0x1fff_ffff)
      throw new OnnxError('malformed', `Field number ${field} does not exist.`, 'Is this an ONNX file?')
    return { field, wire: Number(tag & 7n) }
  }

  /** Takes a length-delimited field as a reader of its own. */
  nested(wire: number): ProtobufReader {
    if (wire !== 2) throw new OnnxError('malformed', 'A message field has another wire type.', 'Is this an ONNX file?')
    const length = this.varint()
    if (length > BigInt(this.end - this.offset))
      throw new OnnxError('truncated', 'A field runs past the end of the file.')
    const start = this.offset
    this.offset += Number(length)
    return new ProtobufReader(this.bytes, start, this.offset)
  }

  text(wire: number): string {
    const field = this.nested(wire)
    if (field.end - field.offset > 65_535) throw new OnnxError('too_large', 'A name is longer than 65,535 bytes.')
    try {
      return fromUtf8(this.bytes.subarray(field.offset, field.end))
    } catch (error) {
      if (error instanceof EncodingError) throw new OnnxError('malformed', 'A name is not UTF-8.')
      throw error
    }
  }

  number(wire: number): bigint {
    if (wire !== 0) throw new OnnxError('malformed', 'A number field has another wire type.', 'Is this an ONNX file?')
    return BigInt.asIntN(64, this.varint())
  }

  skip(wire: number): void {
    if (wire === 0) this.varint()
    else if (wire === 1) this.advance(8)
    else if (wire === 2) this.nested(2)
    else if (wire === 5) this.advance(4)
    else throw new OnnxError('malformed', `Wire type ${wire} does not exist.`, 'Is this an ONNX file?')
  }

  advance(length: number): void {
    if (length > this.end - this.offset) throw new OnnxError('truncated', 'The file ends inside a field.')
    this.offset += length
  }
}

// TensorProto.DataType
const datatypeOf: Record<number, Datatype> = {
  1: 'FP32',
  2: 'UINT8',
  3: 'INT8',
  4: 'UINT16',
  5: 'INT16',
  6: 'INT32',
  7: 'INT64',
  8: 'BYTES',
  9: 'BOOL',
  10: 'FP16',
  11: 'FP64',
  12: 'UINT32',
  13: 'UINT64',
}
const unsupportedNames: Record<number, string> = { 14: 'COMPLEX64', 15: 'COMPLEX128', 16: 'BFLOAT16' }

type ValueInfo = { name: string; spec: () => TensorSpec }

function readShape(shape: ProtobufReader): number[] {
  const dimensions: number[] = []
  while (!shape.done) {
    const { field, wire } = shape.tag()
    if (field !== 1) {
      shape.skip(wire)
      continue
    }
    if (dimensions.length >= 255) throw new OnnxError('too_large', 'A tensor has more than 255 dimensions.')
    const dimension = shape.nested(wire)
    let size = -1n
    while (!dimension.done) {
      const part = dimension.tag()
      if (part.field === 1) size = dimension.number(part.wire)
      else dimension.skip(part.wire)
    }
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new OnnxError('too_large', 'A dimension is too large.')
    // Exporters write -1 and 0 for "unknown" as well as a name; a tensor of no elements cannot be asked for.
    dimensions.push(size < 0n ? -1 : Number(size))
  }
  return dimensions
}

function readValueInfo(reader: ProtobufReader): ValueInfo {
  let name = ''
  let elementType = 0
  let shape: number[] | null = null
  let kind = ''
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (field === 1) name = reader.text(wire)
    else if (field === 2) {
      const type = reader.nested(wire)
      while (!type.done) {
        const variant = type.tag()
        if (variant.field === 1) {
          kind = 'tensor'
          const tensor = type.nested(variant.wire)
          while (!tensor.done) {
            const part = tensor.tag()
            if (part.field === 1) elementType = Number(tensor.number(part.wire))
            else if (part.field === 2) shape = readShape(tensor.nested(part.wire))
            else tensor.skip(part.wire)
          }
        } else {
          const kinds: Record<number, string> = { 4: 'sequence', 5: 'map', 8: 'sparse tensor', 9: 'optional' }
          if (kinds[variant.field]) kind = kinds[variant.field]!
          type.skip(variant.wire)
        }
      }
    } else reader.skip(wire)
  }
  const spec = (): TensorSpec => {
    if (name === '') throw new OnnxError('malformed', 'An input or output has no name.')
    if (kind !== 'tensor')
      throw new OnnxError(
        'unsupported_type',
        `"${name}" is a ${kind || 'value without a type'}; only tensors are served.`,
        'Wrap the model so that its inputs and outputs are tensors.',
      )
    const datatype = datatypeOf[elementType]
    if (!datatype) {
      throw new OnnxError(
        'unsupported_type',
        `"${name}" has element type ${unsupportedNames[elementType] ?? elementType}, which the protocol does not carry.`,
        'Cast it to FP32 or FP16 at the edge of the graph.',
      )
    }
    if (!shape)
      throw new OnnxError(
        'unsupported_type',
        `"${name}" has no shape.`,
        'Run shape inference when exporting, so that every input and output has a rank.',
      )
    return { name, datatype, shape }
  }
  return { name, spec }
}

function readTensor(tensor: ProtobufReader, external: Set<string>): string {
  let name = ''
  let location = ''
  let isExternal = false
  while (!tensor.done) {
    const { field, wire } = tensor.tag()
    if (field === 8) name = tensor.text(wire)
    else if (field === 14) isExternal = tensor.number(wire) === 1n
    else if (field === 13) {
      const entry = tensor.nested(wire)
      let key = ''
      let value = ''
      while (!entry.done) {
        const part = entry.tag()
        if (part.field === 1) key = entry.text(part.wire)
        else if (part.field === 2) value = entry.text(part.wire)
        else entry.skip(part.wire)
      }
      if (key === 'location') location = value
    } else tensor.skip(wire)
  }
  if (isExternal || location !== '') external.add(location)
  return name
}

type Graph = { inputs: ValueInfo[]; outputs: ValueInfo[]; initializers: Set<string>; nodeCount: number }

function readGraphProto(reader: ProtobufReader, external: Set<string>, depth: number): Graph {
  if (depth > maxDepth) throw new OnnxError('too_deep', `Subgraphs nest deeper than ${maxDepth}.`)
  const graph: Graph = { inputs: [], outputs: [], initializers: new Set(), nodeCount: 0 }
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (field === 1) {
      graph.nodeCount++
      readNode(reader.nested(wire), external, depth)
    } else if (field === 5) graph.initializers.add(readTensor(reader.nested(wire), external))
    else if (field === 11) graph.inputs.push(readValueInfo(reader.nested(wire)))
    else if (field === 12) graph.outputs.push(readValueInfo(reader.nested(wire)))
    else reader.skip(wire)
  }
  return graph
}

/** Looks into a node's attributes: tensors and subgraphs in there can name files as well. */
function readNode(node: ProtobufReader, external: Set<string>, depth: number): void {
  while (!node.done) {
    const { field, wire } = node.tag()
    if (field !== 5) {
      node.skip(wire)
      continue
    }
    const attribute = node.nested(wire)
    while (!attribute.done) {
      const part = attribute.tag()
      // t 5 and tensors 10; g 6 and graphs 11
      if (part.field === 5 || part.field === 10) readTensor(attribute.nested(part.wire), external)
      else if (part.field === 6 || part.field === 11) readGraphProto(attribute.nested(part.wire), external, depth + 1)
      else attribute.skip(part.wire)
    }
  }
}

/** Reads what a listing needs from the bytes of an ONNX model. Initializers are not inputs; a dimension without a number is -1. Throws OnnxError and nothing else. */
export function readGraph(bytes: Uint8Array): GraphInfo {
  if (bytes.length > maxGraphBytes) {
    throw new OnnxError(
      'too_large',
      `The graph takes ${bytes.length} bytes; at most ${maxGraphBytes} are listed.`,
      'Keep weights in external data files.',
    )
  }
  const reader = new ProtobufReader(bytes)
  const external = new Set<string>()
  const opsets: { domain: string; version: number }[] = []
  let irVersion = 0
  let graph: Graph | null = null
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (field === 1) irVersion = Number(reader.number(wire))
    else if (field === 7) {
      if (graph) throw new OnnxError('malformed', 'The model has two graphs.')
      graph = readGraphProto(reader.nested(wire), external, 0)
    } else if (field === 8) {
      const opset = reader.nested(wire)
      const entry = { domain: '', version: 0 }
      while (!opset.done) {
        const part = opset.tag()
        if (part.field === 1) entry.domain = opset.text(part.wire)
        else if (part.field === 2) entry.version = Number(opset.number(part.wire))
        else opset.skip(part.wire)
      }
      opsets.push(entry)
    } else if (field === 25) {
      // Local functions can hold tensors in their nodes.
      const local = reader.nested(wire)
      while (!local.done) {
        const part = local.tag()
        if (part.field === 7) readNode(local.nested(part.wire), external, 0)
        else local.skip(part.wire)
      }
    } else reader.skip(wire)
  }
  if (!graph || graph.outputs.length === 0)
    throw new OnnxError('no_graph', 'The file holds no graph with outputs.', 'Is this an ONNX file?')
  const { initializers } = graph
  return {
    irVersion,
    opsets,
    inputs: graph.inputs.filter(({ name }) => !initializers.has(name)).map(({ spec }) => spec()),
    outputs: graph.outputs.map(({ spec }) => spec()),
    nodeCount: graph.nodeCount,
    externalData: [...external].sort(),
  }
}
