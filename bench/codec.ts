import { keccak_256 } from '@noble/hashes/sha3.js'
import { createRandom } from '../dev/sample/glyphs.ts'
import { sha256Rows } from '../protocol/hash.ts'
import { keccak256 } from '../protocol/keccak.ts'
import { decodeBody, encodeBody } from '../protocol/oip.ts'
import { hashRows } from '../protocol/sha256Lanes.ts'
import type { Tensor } from '../protocol/tensors.ts'
import type { Row } from './main.ts'
import { sideBySide } from './sideBySide.ts'

type Case = { size: string; floats: number; bar: number; repeat: number }

/** Repeats enough that the code is compiled, as a server's is; `JSON.parse` comes compiled. */
const cases: Case[] = [
  { size: '4 KB', floats: 1_024, bar: 50, repeat: 2_000 },
  { size: '600 KB', floats: 150_528, bar: 300, repeat: 10 },
]

/** Draws standard normal numbers, as features and activations are: what JSON takes depends on how many digits a number has. */
function createNormal(seed: number): () => number {
  const random = createRandom(seed)
  // Box and Muller's transform.
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/** Measures one inference request written and read again in the binary form of the Open Inference Protocol, beside the same request in JSON: from typed array to typed array. */
export async function run(): Promise<Row[]> {
  const rows: Row[] = []
  for (const { size, floats, bar, repeat } of cases) {
    const values = Float32Array.from({ length: floats }, createNormal(1))
    const tensor: Tensor = {
      name: 'pixels',
      datatype: 'FP32',
      shape: [1, floats],
      data: new Uint8Array(values.buffer),
    }
    const binary = () => {
      const [read] = decodeBody('inputs', encodeBody('inputs', [tensor])).tensors
      const { buffer, byteOffset, byteLength } = read!.data
      return new Float32Array(buffer, byteOffset, byteLength / 4)
    }
    const jsonOf = (data: Float32Array) =>
      JSON.stringify({ inputs: [{ name: 'pixels', datatype: 'FP32', shape: [1, floats], data: Array.from(data) }] })
    const toJson = () => jsonOf(values)
    const json = () => Float32Array.from(JSON.parse(toJson()).inputs[0].data as number[])
    const read = json()
    if (binary().some((value, index) => value !== read[index])) throw new Error('The two forms disagree.')
    const times = await sideBySide({ binary, json }, { repeat })
    const speed = times.json / times.binary
    rows.push({
      figure: `${size}: binary encode and decode, times faster than JSON (at least)`,
      value: times.binary,
      unit: 'ms',
      baseline: times.json,
      ratio: speed,
      bar,
      met: speed >= bar,
    })
    // JSON takes as many bytes as a number has digits, so the same binary stands beside several kinds of numbers.
    const bytes = encodeBody('inputs', [tensor]).length
    const kinds = {
      'standard normal numbers': values,
      'numbers in [0, 1)': Float32Array.from({ length: floats }, createRandom(1)),
      'a sine wave of height 3': Float32Array.from({ length: floats }, (_, index) => 3 * Math.sin(index)),
    }
    for (const [kind, data] of Object.entries(kinds)) {
      const baseline = Buffer.byteLength(jsonOf(data))
      const ratio = bytes / baseline
      rows.push({
        figure: `${size}: bytes / JSON, ${kind}`,
        value: bytes,
        unit: 'bytes',
        baseline,
        ratio,
        bar: 0.21,
        met: ratio <= 0.21,
      })
    }
  }
  return [...rows, await hashing(), await hashingRows()]
}

/** Compares the hash of EIP-712's digests, of the 66 bytes that the last of them has, with the portable library's. */
async function hashing(): Promise<Row> {
  const bytes = Uint8Array.from({ length: 66 }, (_, at) => at)
  const times = await sideBySide({ ours: () => keccak256(bytes), library: () => keccak_256(bytes) }, { repeat: 20_000 })
  const speed = times.library / times.ours
  return {
    figure: 'Keccak-256 of 66 bytes, times faster than @noble/hashes (at least)',
    value: times.ours,
    unit: 'ms',
    baseline: times.library,
    ratio: speed,
    bar: 2,
    met: speed >= 2,
  }
}

/** Compares the digests of 32 messages of 106 bytes, as many as receipts of one request, made four at a time and one by one. */
async function hashingRows(): Promise<Row> {
  const count = 32
  const length = 106
  const rows = Uint8Array.from({ length: count * length }, (_, at) => at)
  const digests = new Uint8Array(32 * count)
  const together = () => hashRows(rows, length, digests)
  const oneByOne = () => sha256Rows(rows, length, digests)
  const times = await sideBySide({ together, oneByOne }, { repeat: 2_000 })
  const speed = times.oneByOne / times.together
  return {
    figure: 'SHA-256 of 106 bytes in rows of 32, times faster than one by one (at least)',
    value: times.together / count,
    unit: 'ms',
    baseline: times.oneByOne / count,
    ratio: speed,
    bar: 2,
    met: speed >= 2,
  }
}
