import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { createExecutor, type Executor, type ExecutorOptions } from '../../../gpu-runner/engine/executor.ts'
import { startExecutorProcess } from '../../../gpu-runner/engine/executorProcess.ts'
import { findSandbox } from '../../../gpu-runner/engine/sandbox.ts'
import { kinds } from '../../../gpu-runner/engine/wire.ts'
import type { Tensor } from '../../../protocol/tensors.ts'
import * as graphs from './graphs.ts'
import { externalise } from './rewriteModel.ts'

const sandbox = await findSandbox()
if (sandbox.length === 0) console.warn('Skipped: this system gives nobody a network of their own.')
const tiny = { digest: '0x01', graph: graphs.mlp(4, 8, 3), external: [] }
/** Takes seconds for a thousand rows, so that it can be caught at work. */
const slow = { digest: '0x02', graph: graphs.mlp(64, 4_096, 4_096, 4_096, 4), external: [] }
const rowsOf = (width: number, count = 1): Tensor[] => [
  {
    name: 'x',
    datatype: 'FP32',
    shape: [count, width],
    data: new Uint8Array(Float32Array.from({ length: count * width }, (_, at) => at % 7).buffer),
  },
]
const long = 60_000

describe('createExecutor', () => {
  const open: Executor[] = []
  const start = (options: Partial<ExecutorOptions> = {}) => {
    const executor = createExecutor({ threads: 1, ...options })
    open.push(executor)
    return executor
  }
  afterEach(async () => {
    await Promise.all(open.splice(0).map((executor) => executor.stop()))
  })

  test('behavior: several runs at a time, and more runs than processes', async () => {
    const executor = start({ executors: 2 })
    await executor.load(tiny)
    const answers = await Promise.all(Array.from({ length: 20 }, () => executor.run('0x01', rowsOf(4), long)))
    expect(new Set(answers.map(([tensor]) => Buffer.from(tensor!.data).toString('hex'))).size).toBe(1)
  })

  test.each([1, 3, 64, 5_000, 100_000])('behavior: %d rows come through unchanged', async (count) => {
    const executor = start({ spare: false })
    await executor.load({ digest: '0x03', graph: graphs.elementwise('Neg', 5), external: [] })
    const [input] = rowsOf(5, count)
    const [output] = await executor.run('0x03', [input!], long)
    const expected = new Float32Array(input!.data.buffer).map((value) => -value)
    expect(output!.shape).toEqual([count, 5])
    expect(Buffer.from(expected.buffer).equals(output!.data)).toBe(true)
  })

  test('behavior: a model is loaded while others are served', async () => {
    const executor = start()
    await executor.load(tiny)
    await executor.prepared()
    let loaded = false
    const loading = executor.load(slow).then(() => {
      loaded = true
    })
    let served = 0
    while (!loaded) {
      await executor.run('0x01', rowsOf(4), long)
      if (!loaded) served++
    }
    await loading
    expect(served).toBeGreaterThan(10)
    expect(await executor.run('0x02', rowsOf(64), long)).toHaveLength(1)
  })

  test('attack: a process killed under a run costs another run, and its neighbour nothing', async () => {
    const executor = start({ executors: 2 })
    await Promise.all([executor.load(tiny), executor.load(slow)])
    const late = executor.run('0x02', rowsOf(64, 200), long)
    const killed = executor.pid()!
    const neighbour = executor.run('0x01', rowsOf(4), long)
    process.kill(killed, 'SIGKILL')
    expect(await neighbour).toHaveLength(1)
    expect((await late)[0]!.shape).toEqual([200, 4])
    expect(existsSync(`/proc/${killed}`)).toBe(false)
  })

  test('behavior: a run is sent ahead while another of its model is under way', async () => {
    const executor = start({ spare: false, main: join(import.meta.dirname, 'liar.ts'), environment: { LIE: 'pairs' } })
    await executor.load(tiny)
    // Neither is answered before both are there.
    const answers = Array.from({ length: 20 }, () => executor.run('0x01', rowsOf(4), long))
    expect(await Promise.all(answers)).toHaveLength(20)
  })

  test('behavior: answers come in the order of the questions', async () => {
    const executor = start({ spare: false })
    await executor.load(slow)
    const order: number[] = []
    const answers = await Promise.all(
      [100, 1, 2, 3].map(async (count, at) => {
        const [output] = await executor.run('0x02', rowsOf(64, count), long)
        order.push(at)
        return output!.shape[0]
      }),
    )
    expect(answers).toEqual([100, 1, 2, 3])
    expect(order).toEqual([0, 1, 2, 3])
  })

  test('attack: requests that lie one behind the other, of every length, are answered each with its own', async () => {
    const executor = start({ spare: false })
    await executor.load({ digest: '0x03', graph: graphs.elementwise('Neg', 5), external: [] })
    // Some end where the memory does that they are read into, some are longer than it.
    const counts = [1, 2, 50_000, 3, 52_418, 1, 60_000, 4, 4, 30_000, 30_000, 1, 200_000, 7, 104_851, 1]
    const answers = counts.map(async (count, at) => {
      const [input] = rowsOf(5, count)
      new Float32Array(input!.data.buffer)[0] = at
      const [output] = await executor.run('0x03', [input!], long)
      const expected = new Float32Array(input!.data.buffer).map((value) => -value)
      return Buffer.from(expected.buffer).equals(output!.data)
    })
    expect(await Promise.all(answers)).toEqual(counts.map(() => true))
  })

  test('attack: a process killed with a run under way and one ahead: both are made in another', async () => {
    const executor = start({ longestBackoffMs: 1 })
    await executor.load(slow)
    await executor.prepared()
    const under = executor.run('0x02', rowsOf(64, 200), long)
    const ahead = executor.run('0x02', rowsOf(64, 2), long)
    await sleep(20)
    process.kill(executor.pid()!, 'SIGKILL')
    const [first, second] = await Promise.all([under, ahead])
    expect([first[0]!.shape, second[0]!.shape]).toEqual([
      [200, 4],
      [2, 4],
    ])
    const alone = await executor.run('0x02', rowsOf(64, 2), long)
    expect(second[0]!.data).toEqual(alone[0]!.data)
  })

  test('attack: a run past its deadline costs the one sent ahead nothing but another process', async () => {
    const executor = start()
    await executor.load(slow)
    await executor.prepared()
    const under = executor.run('0x02', rowsOf(64, 4_000), 50)
    const ahead = executor.run('0x02', rowsOf(64, 2), long)
    await expect(under).rejects.toMatchObject({ name: 'RunDeadlineError' })
    expect((await ahead)[0]!.shape).toEqual([2, 4])
  })

  test('attack: a run of a shorter deadline is not sent ahead, and past it kills nothing', async () => {
    const executor = start({ spare: false })
    await executor.load(slow)
    const under = executor.run('0x02', rowsOf(64, 400), long)
    const pid = executor.pid()
    await expect(executor.run('0x02', rowsOf(64, 1), 20)).rejects.toMatchObject({ name: 'RunDeadlineError' })
    expect((await under)[0]!.shape).toEqual([400, 4])
    expect(executor.pid()).toBe(pid)
  })

  test('attack: a process killed while idle is missed by nobody', async () => {
    const executor = start()
    await executor.load(tiny)
    for (let i = 0; i < 3; i++) {
      await executor.run('0x01', rowsOf(4), long)
      process.kill(executor.pid()!, 'SIGKILL')
    }
    expect(await executor.run('0x01', rowsOf(4), long)).toHaveLength(1)
  })

  test('attack: a run past its deadline is killed, and the next has a process with its model at once', async () => {
    const executor = start()
    await executor.load(tiny)
    await executor.load(slow)
    await executor.prepared()
    await expect(executor.run('0x02', rowsOf(64, 4_000), 50)).rejects.toMatchObject({ name: 'RunDeadlineError' })
    // Far less than a process takes to start and load: another stood by.
    expect(await executor.run('0x01', rowsOf(4), 250)).toHaveLength(1)
  })

  test('behavior: a run that waits for a process past its deadline is told so, and kills nothing', async () => {
    const executor = start()
    await executor.load(tiny)
    await executor.load(slow)
    const busy = executor.run('0x02', rowsOf(64, 400), long)
    const pid = executor.pid()
    await expect(executor.run('0x01', rowsOf(4), 20)).rejects.toMatchObject({ name: 'RunDeadlineError' })
    expect(await busy).toHaveLength(1)
    expect(executor.pid()).toBe(pid)
    expect(await executor.run('0x01', rowsOf(4), long)).toHaveLength(1)
  })

  test('attack: a model that takes too long to load is refused, and the executor lives on', async () => {
    const executor = start({ loadLimitMs: 5, spare: false })
    await expect(executor.load(slow)).rejects.toMatchObject({ name: 'ModelError', message: /longer than 5 ms/ })
    await expect(executor.run('0x02', rowsOf(64), long)).rejects.toMatchObject({ name: 'ModelError' })
  })

  test('attack: bytes that are no model are refused, inputs that do not fit as well, and the process is the same', async () => {
    const executor = start({ spare: false })
    await executor.load(tiny)
    const pid = executor.pid()
    const garbage = { digest: '0x04', graph: new Uint8Array(100).fill(7), external: [] }
    await expect(executor.load(garbage)).rejects.toMatchObject({ name: 'ModelError' })
    await expect(executor.run('0x01', rowsOf(5), long)).rejects.toMatchObject({ name: 'ModelError' })
    await expect(executor.run('0x01', [], long)).rejects.toMatchObject({ name: 'ModelError' })
    expect(await executor.run('0x01', rowsOf(4), long)).toHaveLength(1)
    expect(executor.pid()).toBe(pid)
  })

  test('behavior: the least recently used model leaves memory for another, and comes back when asked for', async () => {
    const size = tiny.graph.length
    const executor = start({ spare: false, memoryBudget: size * 2.5 })
    let read = 0
    const models = ['0xa', '0xb', '0xc'].map((digest) => ({ ...tiny, digest }))
    for (const model of models) {
      await executor.load(model, async () => {
        read++
        return model
      })
    }
    expect(executor.warm().sort()).toEqual(['0xb', '0xc'])
    await executor.run('0xb', rowsOf(4), long)
    expect([await executor.run('0xa', rowsOf(4), long), read]).toEqual([[expect.objectContaining({ name: 'y' })], 1])
    expect(executor.warm().sort()).toEqual(['0xa', '0xb'])
  })

  test('behavior: a model larger than the budget is held alone', async () => {
    const executor = start({ spare: false, memoryBudget: 10 })
    await executor.load(tiny)
    await executor.load({ ...tiny, digest: '0x05' })
    expect(executor.warm()).toEqual(['0x05'])
    expect(await executor.run('0x01', rowsOf(4), long)).toHaveLength(1)
  })

  test('behavior: weights in a file of their own come from memory, and are still there when that memory is used again', async () => {
    const executor = start({ spare: false })
    const { graph, data } = externalise(tiny.graph, 'weights.bin')
    await executor.load(tiny)
    await executor.load({ digest: '0x06', graph, external: [{ path: 'weights.bin', data }] })
    for (const count of [1, 4_000, 1]) {
      const [inside] = await executor.run('0x01', rowsOf(4, count), long)
      const [outside] = await executor.run('0x06', rowsOf(4, count), long)
      expect(outside).toEqual(inside)
    }
  })

  test('attack: a file that was not given is not found anywhere else', async () => {
    const executor = start({ spare: false })
    const { graph } = externalise(tiny.graph, 'weights.bin')
    await expect(executor.load({ digest: '0x06', graph, external: [] })).rejects.toMatchObject({ name: 'ModelError' })
    const absolute = externalise(tiny.graph, join(import.meta.dirname, 'graphs.ts'))
    await expect(executor.load({ digest: '0x07', graph: absolute.graph, external: [] })).rejects.toMatchObject({
      name: 'ModelError',
    })
  })

  test.skipIf(sandbox.length === 0)(
    'behavior: in a sandbox a process has no network, and works and dies as any',
    async () => {
      const executor = start({ sandbox })
      await executor.load(tiny)
      expect(await executor.run('0x01', rowsOf(4), long)).toHaveLength(1)
      const pid = executor.pid()!
      expect(readlinkSync(`/proc/${pid}/ns/net`)).not.toBe(readlinkSync('/proc/self/ns/net'))
      const interfaces = readFileSync(`/proc/${pid}/net/dev`, 'utf8')
      // What there may be beside the loopback has carried nothing and has no address.
      expect(interfaces).toMatch(/lo: +0 /)
      expect(readFileSync(`/proc/${pid}/net/route`, 'utf8').trim().split('\n')).toHaveLength(1)
      const uid = /^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]
      expect(uid).toBe(sandbox.includes('--reuid=65534') ? '65534' : String(process.getuid!()))
      process.kill(pid, 'SIGKILL')
      expect(await executor.run('0x01', rowsOf(4), long)).toHaveLength(1)
    },
  )

  test('behavior: where there is no tool for it there is no sandbox', async () => {
    expect(await findSandbox([['/nonexistent/unshare', '--net', '--'], ['/bin/false']])).toEqual([])
  })

  test('behavior: a process finds nothing in its environment and an empty folder around it', async () => {
    const executor = start({ spare: false })
    await executor.load(tiny)
    const pid = executor.pid()!
    const folder = readlinkSync(`/proc/${pid}/cwd`)
    expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).toBe('')
    expect(readdirSync(`/proc/${pid}/cwd`)).toEqual([])
    // Whoever is killed with its executors leaves nothing behind, for there is nothing.
    expect(folder).toMatch(/assay-executor-\w+ \(deleted\)$/)
    expect(() => writeFileSync(`/proc/${pid}/cwd/weights.bin`, 'x')).toThrow(/ENOENT/)
    expect(existsSync(folder.replace(' (deleted)', ''))).toBe(false)
  })

  test('attack: when the control process is killed, its executors end, at rest and at work', async () => {
    const control = spawn(process.execPath, ['--no-warnings', join(import.meta.dirname, 'control.ts')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [line] = (await once(control.stdout, 'data')) as [Buffer]
    const pids = JSON.parse(line.toString()) as number[]
    expect(pids).toHaveLength(2)
    expect(pids.map((pid) => existsSync(`/proc/${pid}`))).toEqual([true, true])
    control.kill('SIGKILL')
    for (let waited = 0; waited < 600 && pids.some((pid) => existsSync(`/proc/${pid}`)); waited++) await sleep(100)
    expect(pids.map((pid) => existsSync(`/proc/${pid}`))).toEqual([false, false])
  }, 180_000)

  test('refusal: where no process starts, nobody waits for ever', async () => {
    const executor = start({ main: '/nonexistent/executor.ts', longestBackoffMs: 1 })
    await expect(executor.load(tiny)).rejects.toMatchObject({ name: 'NoExecutorError', message: /npm ci/ })
  })

  test('refusal: an execution provider the runtime does not have', async () => {
    const executor = start({ spare: false, provider: 'coreml' as 'cpu' })
    await expect(executor.load(tiny)).rejects.toThrow(/no execution provider "coreml"; it has cpu/)
  })

  test('attack: a model that ends every process it runs in is soon not tried, and no other suffers', async () => {
    let clock = 0
    const executor = start({
      main: join(import.meta.dirname, 'liar.ts'),
      environment: { LIE: 'crash' },
      longestBackoffMs: 1,
      now: () => performance.now() + clock,
    })
    await executor.load(tiny)
    await executor.load({ ...tiny, digest: '0xdead' })
    const names: string[] = []
    for (let i = 0; i < 8; i++) {
      names.push(
        await executor.run('0xdead', rowsOf(4), long).then(
          () => 'answered',
          ({ name }: Error) => name,
        ),
      )
      expect(await executor.run('0x01', rowsOf(4), long)).toEqual([])
    }
    expect(names).toEqual([...Array(6).fill('ExecutorDiedError'), 'ModelError', 'ModelError'])
    clock = 61_000
    await expect(executor.run('0xdead', rowsOf(4), long)).rejects.toMatchObject({ name: 'ExecutorDiedError' })
  })
})

describe('startExecutorProcess', () => {
  const lie = (LIE: string) =>
    startExecutorProcess({
      environment: { LIE },
      answerLimit: 2 ** 20,
      main: join(import.meta.dirname, 'liar.ts'),
    })
  const ask = { kind: kinds.run, text: '0x01', tensors: rowsOf(4) }

  test.each([
    ['bytes that are no message', 'garbage'],
    ['a message without end', 'huge'],
    ['an answer to another question', 'stranger'],
    ['a kind that does not exist', 'unknown'],
  ])('attack: a process that answers %s is killed and not listened to', async (_, name) => {
    const liar = lie(name)
    await expect(liar.request(ask, long)).rejects.toMatchObject({ name: 'ExecutorDiedError' })
    await liar.ended
    await expect(liar.request(ask, long)).rejects.toMatchObject({ name: 'ExecutorDiedError' })
    expect(liar.gone()).toBe(true)
  })

  test('attack: a process that answers twice is killed at the second', async () => {
    const liar = lie('twice')
    expect(await liar.request(ask, long)).toEqual([])
    await liar.ended
    expect(liar.gone()).toBe(true)
  })

  test('attack: a process that never answers is killed at the deadline', async () => {
    const liar = lie('silent')
    await expect(liar.request(ask, 300)).rejects.toMatchObject({ name: 'RunDeadlineError' })
    await liar.ended
    expect(liar.diedByItself()).toBe(false)
  })

  test('attack: of two requests a process dies of one, and the other is told that it was not begun', async () => {
    const died = lie('dead')
    const [begun, ahead] = await Promise.allSettled([died.request(ask, long), died.request(ask, long)])
    expect(begun).toMatchObject({ reason: { name: 'ExecutorDiedError' } })
    expect(ahead).toMatchObject({ reason: { name: 'NotBegunError' } })
    expect(died.diedByItself()).toBe(true)
  })

  test('attack: what a process answered before it died is heard, and the next request is what it died of', async () => {
    const died = lie('last')
    const [answered, begun] = await Promise.allSettled([died.request(ask, long), died.request(ask, long)])
    expect(answered).toEqual({ status: 'fulfilled', value: [] })
    expect(begun).toMatchObject({ reason: { name: 'ExecutorDiedError' } })
  })

  test('attack: answers in another order than was asked end the process', async () => {
    const liar = lie('swapped')
    const [begun, ahead] = await Promise.allSettled([liar.request(ask, long), liar.request(ask, long)])
    expect(begun).toMatchObject({ reason: { name: 'ExecutorDiedError' } })
    expect(ahead).toMatchObject({ reason: { name: 'NotBegunError' } })
  })

  test('attack: the limit of the one ahead counts once the process has come to it, and that of the first ends both', async () => {
    const liar = lie('silent')
    const [begun, ahead] = await Promise.allSettled([liar.request(ask, 300), liar.request(ask, 1)])
    expect(begun).toMatchObject({ reason: { name: 'RunDeadlineError', message: 'The run took longer than 300 ms.' } })
    expect(ahead).toMatchObject({ reason: { name: 'NotBegunError' } })
    const slowly = lie('once')
    const [first, second] = await Promise.allSettled([slowly.request(ask, long), slowly.request(ask, 300)])
    expect(first).toMatchObject({ status: 'fulfilled' })
    expect(second).toMatchObject({ reason: { name: 'RunDeadlineError' } })
  })

  test('refusal: a third request at a time', async () => {
    const liar = lie('silent')
    await liar.ready
    const two = [liar.request(ask, long), liar.request(ask, long)]
    expect(liar.pending()).toBe(2)
    await expect(liar.request(ask, long)).rejects.toThrow(/one request ahead and no more/)
    liar.kill()
    await Promise.allSettled(two)
    await liar.ended
  })
})
