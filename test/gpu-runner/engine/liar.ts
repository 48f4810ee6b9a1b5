import { readSync, writeSync } from 'node:fs'
import { decodeMessage, encodeMessage, kinds, messageLength } from '../../../gpu-runner/engine/wire.ts'

/** An executor process that was taken over: it starts as one should and then answers as its argument says. */

const socket = 3
const say = (parts: Uint8Array[]) => {
  for (const part of parts) writeSync(socket, part)
}
const message = (id: number, kind: (typeof kinds)[keyof typeof kinds] = kinds.done) =>
  encodeMessage({ kind, id, text: '["cpu"]', tensors: [] })

const lies: Record<string, () => void> = {
  garbage: () => say([new Uint8Array(64).fill(0xff)]),
  huge: () => {
    const [head] = message(1)
    new DataView(head!.buffer).setFloat64(8, 2 ** 40, true)
    say([head!])
  },
  stranger: () => say(message(77)),
  twice: () => say([...message(1), ...message(1)]),
  unknown: () => {
    const [head] = message(1)
    head![16] = 99
    say([head!])
  },
  silent: () => {},
  once: () => say(message(1)),
  swapped: () => say(message(2)),
  dead: () => process.exit(139),
  last: () => {
    say(message(1))
    process.exit(139)
  },
}
say(message(0, kinds.ready))
const request = Buffer.alloc(65_536)
if (process.env.LIE === 'crash') {
  // Takes every model, and dies as soon as it should run one that is marked.
  for (;;) {
    const length = readSync(socket, request, 0, request.length, null)
    const { id, kind, text } = decodeMessage(request.subarray(0, length))
    if (kind === kinds.run && text.endsWith('dead')) process.exit(139)
    say(message(id))
  }
}
if (process.env.LIE === 'pairs') {
  // Answers a run when the next lies ready, and tells which that was.
  const runs: number[] = []
  for (;;) {
    const end = readSync(socket, request, 0, request.length, null)
    for (let at = 0; at < end; at += messageLength(request.subarray(at, end), end)) {
      const { id, kind } = decodeMessage(request.subarray(at, at + messageLength(request.subarray(at, end), end)))
      if (kind === kinds.run) runs.push(id)
      else say(message(id))
    }
    while (runs.length >= 2) for (const id of runs.splice(0, 2)) say(message(id))
  }
}
readSync(socket, request, 0, request.length, null)
lies[process.env.LIE!]!()
setInterval(() => {}, 1_000)
