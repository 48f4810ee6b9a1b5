import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { StartedJob } from '../../client/assay.ts'
import type { AccountJson, JobJson } from '../../client/edge.ts'
import { escrowAbi } from '../../contracts/abi.ts'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { childrenOf } from '../../dev/processes.ts'
import { digitTensor as pixels, sampleModel } from '../../dev/sample/model.ts'
import { localBuyer, settleNow } from '../../dev/story.ts'
import { openJournal } from '../../gpu-runner/journal.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import { eventually, fund, list, openMarketplace } from './marketplace.ts'

const price = 1_000n
const deposit = 1_000_000n

describe('a buyer who no longer wants it', () => {
  let marketplace: Marketplace
  let stateDir: string
  let close: () => Promise<void>
  let runner: RunnerProcess
  let digest: Hex
  beforeAll(async () => {
    ;({ marketplace, stateDir, close } = await openMarketplace())
    // Two jobs in hand: one at its run, one behind it; a third stays with the mailbox.
    runner = await marketplace.startRunner({ environment: { ASSAY_CAPACITY: '2' } })
    digest = await list(localBuyer(marketplace), runner, sampleModel().graph, 'digits', price)
    await fund(marketplace, deposit)
  })
  afterAll(() => close?.())

  /** Holds the runner's executors in the middle of whatever they do, while the runner itself goes on. */
  async function freeze(): Promise<() => void> {
    // Node names its main thread, or its program, depending on its version.
    const names = ['node', 'MainThread', 'node-MainThread']
    const executors = (await Promise.all(names.map((name) => childrenOf(runner.child.pid!, name)))).flat()
    expect(executors.length).toBeGreaterThan(0)
    for (const pid of executors) process.kill(pid, 'SIGSTOP')
    return () => {
      for (const pid of executors) process.kill(pid, 'SIGCONT')
    }
  }

  /** Waits until something is so. */
  async function until<T>(read: () => Promise<T>, isSo: (value: T) => boolean): Promise<T> {
    for (let left = 200; ; left--) {
      const value = await read()
      if (isSo(value) || left === 0) return value
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  const becomes = async (job: StartedJob, state: JobJson['state']) =>
    (await until(job.status, (view) => view.state === state)).state

  test('behavior: a job at its run, one behind it and one not handed over are cancelled; nobody is charged, and no receipt is made', async () => {
    const buyer = localBuyer(marketplace)
    const first = await eventually(() => buyer.infer(digest, [pixels(1)]))
    const channel = toHex(first.receipt.channel)
    expect(first.receipt.cumulative).toBe(price)

    const thaw = await freeze()
    const started: StartedJob[] = []
    try {
      for (const state of ['running', 'running', 'queued'] as const) {
        const job = await buyer.start(digest, [pixels(started.length)])
        expect(await becomes(job, state)).toBe(state)
        started.push(job)
      }
      for (const job of started.toReversed()) {
        const view = await job.cancel()
        expect(view).toMatchObject({ state: 'cancelled', channel })
        expect(view.finishedAt).not.toBeNull()
      }
    } finally {
      thaw()
    }
    const views = await Promise.all(started.map((job) => job.status()))
    expect(views.map(({ state }) => state)).toEqual(['cancelled', 'cancelled', 'cancelled'])
    for (const job of started) {
      await expect(job.cancel()).rejects.toMatchObject({ code: 'conflict' })
      await expect(job.result()).rejects.toMatchObject({ name: 'EdgeError' })
    }

    // The same channel goes on where the last receipt left it: what was cancelled is no part of the sum.
    const after = await buyer.infer(digest, [pixels(2)])
    expect(toHex(after.receipt.channel)).toBe(channel)
    expect(after.receipt.cumulative).toBe(2n * price)

    const journal = openJournal(join(stateDir, 'runner', 'journal.sqlite'))
    try {
      const id = fromHex(channel, 32)
      for (const { job } of views) expect(journal.find(id, BigInt(job))).toBeNull()
      expect(journal.count(id)).toBe(2)
      expect(journal.latest(id)!.receipt.cumulative).toBe(2n * price)
    } finally {
      journal.close()
    }

    await settleNow(runner)
    const settled = await marketplace.chain.publicClient.readContract({
      address: marketplace.contracts.escrow,
      abi: escrowAbi,
      functionName: 'settled',
      args: [channel],
    })
    expect(settled).toBe(2n * price)
    await marketplace.tick()
    const account = () => buyer.edge.json<AccountJson>(`/v1/accounts/${buyer.buyer}`)
    const { deposit: left, reservedFor } = await until(account, (read) => read.deposit === String(deposit - 2n * price))
    expect(left).toBe(String(deposit - 2n * price))
    expect(reservedFor?.unsettled).toBe('0')
  })

  test('behavior: what was answered first is not taken back, and is charged once', async () => {
    const buyer = localBuyer(marketplace)
    const job = await buyer.start(digest, [pixels(3)])
    expect(await becomes(job, 'done')).toBe('done')
    await expect(job.cancel()).rejects.toMatchObject({ code: 'conflict' })
    const { receipt } = await job.result()
    expect(receipt.cumulative).toBe(price)
  })

  test('attack: cancelling over and over takes nothing from a runner, and its room is free again', async () => {
    const buyer = localBuyer(marketplace)
    await buyer.infer(digest, [pixels(4)])
    const thaw = await freeze()
    try {
      for (let round = 0; round < 5; round++) {
        const jobs = [await buyer.start(digest, [pixels(5)]), await buyer.start(digest, [pixels(6)])]
        for (const job of jobs) expect(await becomes(job, 'running')).toBe('running')
        for (const job of jobs) expect((await job.cancel()).state).toBe('cancelled')
      }
    } finally {
      thaw()
    }
    const { receipt } = await buyer.infer(digest, [pixels(7)])
    expect(receipt.cumulative).toBe(2n * price)
  })
})
