import { readdirSync, readFileSync } from 'node:fs'
import { createExecutor } from '../../../gpu-runner/engine/executor.ts'
import * as graphs from './graphs.ts'

/** A control process to be killed: one of its executors is at a run of many minutes, the other at rest. */

const executor = createExecutor({ threads: 1 })
await executor.load({ digest: '0x02', graph: graphs.mlp(64, 4_096, 4_096, 4_096, 4), external: [] })
const rows = { name: 'x', datatype: 'FP32' as const, shape: [100_000, 64], data: new Uint8Array(100_000 * 256) }
void executor.run('0x02', [rows], 600_000)
await new Promise((resolve) => setTimeout(resolve, 1_000))
const children = readdirSync('/proc')
  .filter((name) => /^\d+$/.test(name))
  .filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[1] === String(process.pid)
    } catch {
      return false
    }
  })
process.stdout.write(JSON.stringify(children.map(Number)))
setInterval(() => {}, 1_000)
