import { decodeBody, encodeBody } from '../protocol/oip.ts'
import type { Tensor } from '../protocol/tensors.ts'
import type { Row } from './main.ts'
import { sideBySide } from './sideBySide.ts'

type Case = { size: string; floats: number; bar: number; repeat: number }

const cases: Case[] = [
  { size: '4 KB', floats: 1_024, bar: 50, repeat: 50 },
  { size: '600 KB', floats: 150_528, bar: 300, repeat: 2 },
]

/** Measures one inference request written and read again in the binary form of the Open Inference Protocol, beside the same request in JSON: from typed array to typed array. */
export async function run(): Promise<Row[]> {
  const rows: Row[] = []
  for (const { size, floats, bar, repeat } of cases) {
    const values = Float32Array.from({ length: floats }, (_, index) => Math.sin(index) * 3)
    const tensor: Tensor = {
      name: 'pixels',
      datatype: 'FP32',
      shape: [1, floats],
      data: new Uint8Array(values.buffer),
    }
    const binary = () => {
      const [read] = decodeBody('inputs', encodeBody('inputs', [tensor], {})).tensors
      const { buffer, byteOffset, byteLength } = read!.data
      return new Float32Array(buffer, byteOffset, byteLength / 4)
    }
    const toJson = () =>
      JSON.stringify({ inputs: [{ name: 'pixels', datatype: 'FP32', shape: [1, floats], data: Array.from(values) }] })
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
    const bytes = encodeBody('inputs', [tensor], {}).length
    const ratio = bytes / Buffer.byteLength(toJson())
    rows.push({
      figure: `${size}: bytes / JSON`,
      value: bytes,
      unit: 'bytes',
      baseline: Buffer.byteLength(toJson()),
      ratio,
      bar: 0.21,
      met: ratio <= 0.21,
    })
  }
  return rows
}
