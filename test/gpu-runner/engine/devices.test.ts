import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createExecutor, type Executor, type ExecutorOptions } from '../../../gpu-runner/engine/executor.ts'
import { tryProvider } from '../../../gpu-runner/engine/tryProvider.ts'

const model = { digest: '0x01', graph: new Uint8Array(8), external: [] }

/** What executors do with devices, played by processes that only say which they were given: no machine of the tests has two. */
describe('an executor a device', () => {
  let folder: string
  let executor: Executor
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'assay-devices-'))
  })
  afterEach(async () => {
    await executor.stop()
    rmSync(folder, { recursive: true, force: true })
  })
  const start = async (options: Partial<ExecutorOptions>) => {
    const main = join(import.meta.dirname, 'deviceMain.ts')
    const environment = { DEVICES: folder }
    executor = createExecutor({ threads: 1, provider: 'cuda', main, environment, ...options })
    await executor.load(model)
    await executor.prepared()
  }
  const devicesOf = async (runs: number) => {
    const outputs = await Promise.all(Array.from({ length: runs }, () => executor.run(model.digest, [], 60_000)))
    return outputs.map(([tensor]) => tensor!.data[0]!)
  }

  test.each([true, false])(
    'behavior: runs go to every device named and to no other, never two to one at a time (spare %s)',
    async (spare) => {
      await start({ devices: [3, 5, 0], spare })
      expect([...new Set(await devicesOf(30))].sort()).toEqual([0, 3, 5])
    },
  )

  test('behavior: who takes the place of a process that died takes its device', async () => {
    await start({ devices: [2, 6], spare: false })
    for (let round = 0; round < 3; round++) {
      const killed = executor.pid()!
      process.kill(killed, 'SIGKILL')
      // Its end is heard of in a while, and runs go to the other until its successor is there.
      let seen: number[] = []
      for (let left = 200; left > 0 && (executor.pid() === killed || seen.length < 2); left--)
        seen = [...new Set(await devicesOf(12))].sort()
      expect(executor.pid()).not.toBe(killed)
      expect(seen).toEqual([2, 6])
    }
  })

  test('behavior: one device takes one run at a time, though a second process stands by on it', async () => {
    await start({ devices: [7], executors: 4 })
    expect(new Set(await devicesOf(10))).toEqual(new Set([7]))
  })

  test('behavior: without devices a model is loaded where the provider loads it', async () => {
    await start({ executors: 1 })
    expect(new Set(await devicesOf(3))).toEqual(new Set([255]))
  })

  test('behavior: a device of a provider that is absent is told, and nothing takes its place', async () => {
    await start({})
    expect(await tryProvider('cuda', {}, 1)).toMatch(/cuda/i)
  })
})
