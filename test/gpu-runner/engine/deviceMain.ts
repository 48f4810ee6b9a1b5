import { mkdirSync, readSync, rmdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { decodeMessage, encodeMessage, kinds, messageLength } from '../../../gpu-runner/engine/wire.ts'

/** Stands in for an executor process on a machine with several devices, which no test machine is: it answers every run with the number of the device its model was loaded on, and fails where another process is at a run on the same one. */

const socket = 3
const say = (...parts: Parameters<typeof encodeMessage>) => {
  for (const part of encodeMessage(...parts)) writeSync(socket, part)
}
const buffer = Buffer.alloc(65_536)
let filled = 0
let device: number | null = null

function run(): Uint8Array {
  const taken = join(process.env.DEVICES!, String(device))
  mkdirSync(taken)
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
  rmdirSync(taken)
  return Uint8Array.of(device ?? 255)
}

say({ kind: kinds.ready, id: 0, text: '["cpu","cuda"]', tensors: [] })
for (;;) {
  const count = readSync(socket, buffer, filled, buffer.length - filled, null)
  if (count === 0) process.exit(0)
  filled += count
  while (filled >= 24 && filled >= messageLength(buffer.subarray(0, filled), 2 ** 20)) {
    const length = messageLength(buffer.subarray(0, filled), 2 ** 20)
    // Copied, for the buffer moves up behind it.
    const request = decodeMessage(new Uint8Array(buffer.subarray(0, length)))
    buffer.copy(buffer, 0, length, filled)
    filled -= length
    try {
      if (request.kind === kinds.load) device = (JSON.parse(request.text) as { device: number | null }).device
      const data = request.kind === kinds.run ? run() : null
      const tensors = data ? [{ name: 'device', datatype: 'UINT8' as const, shape: [1], data }] : []
      say({ kind: kinds.done, id: request.id, text: '', tensors })
    } catch (error) {
      say({ kind: kinds.failed, id: request.id, text: String(error), tensors: [] })
    }
  }
}
