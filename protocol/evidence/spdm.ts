import { EncodingError, fromUtf8, LittleReader } from '../bytes.ts'

/** Holds an NVIDIA GPU's measurements: a SPDM 1.1 GET_MEASUREMENTS request and its response (DMTF DSP0274 §10.11), cut into their parts; views into the evidence. */
export type SpdmMeasurements = {
  /** The requester's nonce, 32 bytes. */
  nonce: Uint8Array
  /** SHA-384 values by SPDM index, 1 to 64. */
  blocks: Map<number, Uint8Array>
  /** What NVIDIA adds, by type. */
  opaque: Map<number, Uint8Array>
  /** Request and response up to the signature. */
  signed: Uint8Array
  signature: Uint8Array
}

/** Numbers the opaque fields that verification reads (NVIDIA attestation SDK, GPU opaque data). */
export const opaqueField = {
  driverVersion: 3,
  vbiosVersion: 6,
  nvdec0: 11,
  chipSku: 15,
  project: 17,
  projectSku: 18,
  fwid: 20,
  protectedPcie: 21,
  featureFlag: 36,
} as const

const requestLength = 37
const signatureLength = 96
const blockHeaderLength = 7

function expect(condition: boolean, what: string): void {
  if (!condition) throw new EncodingError(what)
}

function readBlocks(record: Uint8Array, count: number): Map<number, Uint8Array> {
  const reader = new LittleReader(record, 'Measurement record')
  const blocks = new Map<number, Uint8Array>()
  while (!reader.done) {
    const index = reader.number(1)
    expect(reader.number(1) === 1, 'A measurement is not in the DMTF form.')
    const block = new LittleReader(reader.take(reader.number(2)), 'Measurement')
    block.number(1)
    const value = block.take(block.number(2))
    expect(block.done && block.bytes.length >= blockHeaderLength - 4, 'A measurement is longer than its value.')
    expect(index >= 1 && index <= 64 && !blocks.has(index), `Measurement ${index} is out of range or stands twice.`)
    blocks.set(index, value)
  }
  expect(blocks.size === count, `${blocks.size} measurements, where ${count} are announced.`)
  return blocks
}

function readOpaque(data: Uint8Array): Map<number, Uint8Array> {
  const reader = new LittleReader(data, 'Opaque data')
  const fields = new Map<number, Uint8Array>()
  while (!reader.done) {
    const type = reader.number(2)
    const value = reader.take(reader.number(2))
    expect(!fields.has(type), `Opaque field ${type} stands twice.`)
    fields.set(type, value)
  }
  return fields
}

/** Cuts a GPU's measurements into their parts. Throws EncodingError unless they are a whole signed request and response; one zero byte of padding, which some drivers add, is ignored. */
export function parseSpdm(bytes: Uint8Array): SpdmMeasurements {
  const reader = new LittleReader(bytes, 'SPDM message')
  expect(reader.number(1) === 0x11 && reader.number(1) === 0xe0, 'Not a SPDM 1.1 request for measurements.')
  expect(reader.number(1) === 1, 'The request asks for no signature.')
  expect(reader.number(1) === 0xff, 'The request does not ask for all measurements.')
  const nonce = reader.take(32)
  reader.take(1)
  expect(reader.offset === requestLength, 'The request is not 37 bytes.')
  expect(reader.number(1) === 0x11 && reader.number(1) === 0x60, 'Not a SPDM 1.1 response with measurements.')
  reader.take(2)
  const count = reader.number(1)
  const blocks = readBlocks(reader.take(reader.number(3)), count)
  reader.take(32)
  const opaque = readOpaque(reader.take(reader.number(2)))
  const signed = bytes.subarray(0, reader.offset)
  const signature = reader.take(signatureLength)
  const left = bytes.subarray(reader.offset)
  expect(left.length === 0 || (left.length === 1 && left[0] === 0), 'Bytes are left over after the signature.')
  return { nonce, blocks, opaque, signed, signature }
}

/** Reads an opaque field as text, which a zero byte ends. Throws EncodingError when it is absent. */
export function opaqueText(opaque: ReadonlyMap<number, Uint8Array>, field: number): string {
  const value = opaque.get(field)
  if (!value) throw new EncodingError(`Opaque field ${field} is missing.`)
  const end = value.indexOf(0)
  return fromUtf8(end < 0 ? value : value.subarray(0, end))
}

/** Reads the version of the video BIOS as NVIDIA prints it: five numbers out of a little-endian word. Throws EncodingError when it is absent. */
export function vbiosVersion(opaque: ReadonlyMap<number, Uint8Array>): string {
  const value = opaque.get(opaqueField.vbiosVersion)
  if (value?.length !== 8) throw new EncodingError('The version of the video BIOS is missing.')
  const pairs = [...value].reverse().map((byte) => byte.toString(16).padStart(2, '0').toUpperCase())
  return [...pairs.slice(4), pairs[3]].join('.')
}
