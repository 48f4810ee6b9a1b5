import type { TensorSpec } from '../../protocol/manifest.ts'
import { type Datatype, elementCount, elementSize, type Tensor } from '../../protocol/tensors.ts'

/** Draws bytes nobody can foresee, so that a model cannot be built to behave for the rows it will be tried on. */
export type RandomBytes = (length: number) => Uint8Array

/** Lists what a trial row holds: everyday numbers, numbers of every magnitude, and what makes kernels take another path. */
export const rowKinds = ['unit', 'wide', 'zero', 'denormal', 'large', 'laced', 'sparse', 'flat', 'bytes'] as const

/** Names what a trial row holds. */
export type RowKind = (typeof rowKinds)[number]

/** Exponent and mantissa bits of the IEEE 754 formats the protocol carries. */
const formats = { FP16: [5, 10], FP32: [8, 23], FP64: [11, 52] } as const
type FloatType = keyof typeof formats

/** Gives the bits of one number of a kind. Built from bits, so that FP16, denormals and every NaN come out alike for all formats. */
function floatBits(type: FloatType, kind: RowKind, entropy: bigint): bigint {
  const [exponentBits, mantissaBits] = formats[type]
  const bias = (1n << BigInt(exponentBits - 1)) - 1n
  const top = (1n << BigInt(exponentBits)) - 1n
  const sign = entropy & 1n
  const chance = Number((entropy >> 1n) & 15n)
  const step = (entropy >> 5n) & 0xffn
  const mantissa = (entropy >> 13n) & ((1n << BigInt(mantissaBits)) - 1n)
  const bits = (exponent: bigint, fraction: bigint) =>
    (sign << BigInt(exponentBits + mantissaBits)) | (exponent << BigInt(mantissaBits)) | fraction
  const unit = () => bits(bias - 1n - (step % 8n), mantissa)
  switch (kind) {
    case 'unit':
    case 'flat':
      return unit()
    case 'wide': {
      const reach = bias < 20n ? bias - 1n : 20n
      return bits(bias - reach + (step % (2n * reach + 1n)), mantissa)
    }
    case 'zero':
      return bits(0n, 0n)
    case 'denormal':
      return bits(0n, mantissa | 1n)
    case 'large':
      return bits(top - 1n - (step % 2n), mantissa)
    case 'laced':
      // Signalling NaNs too: a buyer's bytes are not checked for them, and a kernel's vector path and its tail treat them apart.
      if (chance < 5) return bits(top, mantissa | 1n)
      return chance < 7 ? bits(top, 0n) : unit()
    case 'sparse':
      return chance < 10 ? bits(0n, 0n) : unit()
    case 'bytes': {
      // A whole number of at most 255, as of an image that was not scaled.
      const value = Number(step % (type === 'FP16' ? 128n : 256n))
      if (value === 0) return 0n
      const exponent = 31 - Math.clz32(value)
      const fraction = BigInt(value - 2 ** exponent) << BigInt(mantissaBits - exponent)
      return ((bias + BigInt(exponent)) << BigInt(mantissaBits)) | fraction
    }
  }
}

const isFloat = (datatype: Datatype): datatype is FloatType => datatype in formats

/** Gives how far a whole number of a type may reach, as a trial row of this kind and a model's own bound allow. */
function wholeRange(datatype: Datatype, bound: bigint): { low: bigint; span: bigint } {
  const bits = BigInt(elementSize(datatype)! * 8)
  const signed = datatype.startsWith('INT')
  const highest = (1n << (signed ? bits - 1n : bits)) - 1n
  // A model that takes its numbers for indices refuses what lies outside its table; a bound of 0 stands for none.
  if (bound > 0n) return { low: 0n, span: bound - 1n < highest ? bound : highest + 1n }
  return signed ? { low: -highest - 1n, span: 1n << bits } : { low: 0n, span: 1n << bits }
}

/** How many numbers of a kind are made afresh for a tensor; its elements are drawn from them, because a large input has too many to make each one. */
const paletteSize = 4_096

/** Makes the bits of one number of a kind. `bound` is the number below which whole numbers stay, 0 for their type's full range. */
function elementBits(datatype: Datatype, kind: RowKind, bound: bigint, word: bigint): bigint {
  if (isFloat(datatype)) return floatBits(datatype, kind, word)
  if (kind === 'zero' || (kind === 'sparse' && (word & 1n) === 0n)) return 0n
  if (datatype === 'BOOL') return (word >> 1n) & 1n
  const { low, span } = wholeRange(datatype, bound)
  return BigInt.asUintN(elementSize(datatype)! * 8, low + ((word >> 1n) % span))
}

const unsigned = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array } as const

function trialData(datatype: Datatype, count: number, kind: RowKind, bound: bigint, random: RandomBytes): Uint8Array {
  const size = elementSize(datatype)! as 1 | 2 | 4 | 8
  const colours = kind === 'flat' ? 1 : Math.min(count, paletteSize)
  const words = new BigUint64Array(random(colours * 8).slice().buffer)
  const bits = (at: number) => elementBits(datatype, kind, bound, words[at]!)
  const draws = count > colours ? new Uint16Array(random(count * 2).slice().buffer) : null
  const pick = (at: number) => (draws ? draws[at]! % colours : at)
  if (size === 8) {
    const palette = BigUint64Array.from(words, (_, at) => bits(at))
    return new Uint8Array(BigUint64Array.from({ length: count }, (_, at) => palette[pick(at)]!).buffer)
  }
  const palette = Array.from(words, (_, at) => Number(bits(at)))
  const data = new unsigned[size](count)
  for (let at = 0; at < count; at++) data[at] = palette[pick(at)]!
  return new Uint8Array(data.buffer)
}

/** Makes one row of input for a model: each tensor with a first dimension of 1 where that is free. Every other dimension must have a size, and no datatype may be BYTES. */
export function trialRow(
  inputs: readonly TensorSpec[],
  { kind, bound, random }: { kind: RowKind; bound: bigint; random: RandomBytes },
): Tensor[] {
  return inputs.map(({ name, datatype, shape }) => {
    const row = shape.map((dimension, axis) => (axis === 0 && dimension === -1 ? 1 : dimension))
    return { name, datatype, shape: row, data: trialData(datatype, elementCount(row), kind, bound, random) }
  })
}
