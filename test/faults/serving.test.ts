import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Assay, Inference } from '../../client/assay.ts'
import { escrowAbi } from '../../contracts/abi.ts'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { digitTensor, sampleModel } from '../../dev/sample/model.ts'
import { localBuyer, settleNow } from '../../dev/story.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import { admit, eventually, fund, list, openMarketplace } from '../e2e/marketplace.ts'
import { type Direction, type FaultyLink, openFaultyLink } from './faultyLink.ts'
import { slowModel } from './slowModel.ts'
import { tableOf } from './table.ts'

/** What a fault did: what the buyers saw; what the escrow paid less than their receipts say; what it paid for jobs whose answer came too late or was refused; and what it paid beyond one price a job. */
type Row = { fault: string; stage: string; saw: string; lost: bigint; late: bigint; twice: bigint }
const table: Row[] = []

const pixels = (seed: number) => digitTensor(seed % 10, seed)
// A runner that starts again attests and tries its models anew.
vi.setConfig({ testTimeout: 120_000 })
const jobs = 6
const price = 1_000n
/** Stages of a job in which it, or its answer, is between edge and runner. */
const ways = [
  ['on its way to the runner', 'down'],
  ['journalled, answer on its way', 'up'],
] as const
let seed = 1

describe('faults while serving', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let link: FaultyLink
  let runner: RunnerProcess
  let quick: Hex
  let slow: Hex
  let stateDir: string
  const logged: string[] = []

  const startRunner = async () => {
    runner = await marketplace.startRunner({
      environment: { ASSAY_EDGE: link.url },
      onLog: (line) => void logged.push((JSON.parse(line) as { event: string }).event),
    })
    return runner
  }
  beforeAll(async () => {
    ;({ marketplace, close, stateDir } = await openMarketplace())
    link = await openFaultyLink(marketplace.edgeUrl)
    await startRunner()
    const publisher = localBuyer(marketplace)
    quick = await list(publisher, runner, sampleModel().graph, 'quick')
    slow = await list(publisher, runner, slowModel(), 'slow')
    await fund(marketplace, 10_000_000n)
    await eventually(() => localBuyer(marketplace).infer(quick, [pixels(0)]))
    await eventually(() => localBuyer(marketplace).infer(slow, [pixels(0)]))
    await settleNow(runner)
  }, 180_000)

  afterAll(async () => {
    await link?.stop()
    await close?.()
    const heading = ['fault', 'stage of the job', 'the buyer saw', 'lost', 'paid, no answer', 'paid twice']
    const rows = table.map(({ fault, stage, saw, lost, late, twice }) => [fault, stage, saw, lost, late, twice])
    console.log(tableOf(heading, rows))
  })

  const settledOf = (channel: Hex) =>
    marketplace.chain.publicClient.readContract({
      address: marketplace.contracts.escrow,
      abi: escrowAbi,
      functionName: 'settled',
      args: [channel],
    })

  /** Buys several inferences at once over one buyer, strikes in the middle, and compares what the escrow then pays with the receipts the buyer holds. */
  async function suffer(
    fault: string,
    stage: string,
    strike: () => Promise<unknown>,
    {
      model = quick,
      count = jobs,
      options = {},
      lateJobs = 0n,
    }: { model?: Hex; count?: number; options?: Parameters<Assay['infer']>[2]; lateJobs?: bigint } = {},
  ): Promise<{ answers: Inference[]; errors: Error[] }> {
    const buyer = localBuyer(marketplace)
    const first = await eventually(() => buyer.infer(model, [pixels(seed++)]))
    const struck = strike()
    const ended = await Promise.allSettled(
      Array.from({ length: count }, () => buyer.infer(model, [pixels(seed++)], options)),
    )
    await struck
    const answers = [first, ...ended.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))]
    const errors = ended.flatMap((each) => (each.status === 'rejected' ? [each.reason as Error] : []))
    await settleNow(runner)
    const totals = new Map<Hex, bigint>()
    for (const { receipt } of answers) {
      const channel = toHex(receipt.channel)
      const before = totals.get(channel) ?? 0n
      if (receipt.cumulative >= before) totals.set(channel, receipt.cumulative)
    }
    let [lost, beyond] = [0n, 0n]
    for (const [channel, due] of totals) {
      const paid = await settledOf(channel)
      if (paid < due) lost += due - paid
      else beyond += paid - due
    }
    const unanswered = BigInt(errors.length) * price
    const late = beyond < unanswered ? beyond : unanswered
    const twice = beyond - late
    const words = [...new Set(errors.map((error) => (error as { code?: string }).code ?? error.name))]
    const saw = `${answers.length - 1} of ${count} answers${words.length > 0 ? `, then ${words.join(', ')}` : ''}`
    table.push({ fault, stage, saw, lost, late, twice })
    expect([lost, twice], `${fault}: lost, paid twice`).toEqual([0n, 0n])
    expect(late, `${fault}: paid without an answer`).toBeLessThanOrEqual(lateJobs * price)
    return { answers, errors }
  }
  /** Strikes while a job, or its answer, is held up beside the runner; then lets it go. */
  const whileHeld = (direction: Direction, strike: () => Promise<unknown>) => async () => {
    await link.next(direction, 'hold')
    await strike()
    link.release()
  }
  const executorPid = async () => {
    const { executor } = (await (await fetch(`${runner.controlUrl}/status`)).json()) as { executor: number | null }
    return executor!
  }
  const killRunner = async () => {
    const ended = new Promise((resolve) => runner.child.once('exit', resolve))
    runner.child.kill('SIGKILL')
    await ended
  }

  test('an executor is killed in each stage of a job', async () => {
    const pid = await executorPid()
    const kill = async () => process.kill(await executorPid(), 'SIGKILL')
    const { answers } = await suffer('kill -9 of an executor', 'running', () => sleep(100).then(kill), { model: slow })
    expect(answers).toHaveLength(jobs + 1)
    expect(await executorPid()).not.toBe(pid)
    for (const [stage, direction] of ways) {
      const { answers } = await suffer('kill -9 of an executor', stage, whileHeld(direction, kill))
      expect(answers).toHaveLength(jobs + 1)
    }
  })

  test.each(['cut', 'duplicate', 'delay', 'reorder'] as const)('the socket suffers a %s', async (fault) => {
    for (const [stage, direction] of ways) {
      const { answers, errors } = await suffer(`socket: ${fault}`, stage, () => link.next(direction, fault))
      expect(errors).toEqual([])
      expect(answers).toHaveLength(jobs + 1)
    }
  })

  test('an answer is changed on its way: the buyer refuses it, and risks the price of that one job', async () => {
    const strike = () => link.next('up', 'flip')
    const { errors } = await suffer('a changed answer', 'answer on its way', strike, { lateJobs: 1n })
    expect(errors.map(({ name }) => name)).toEqual(['VerificationError'])
  })

  test.each(ways)('the runner is killed, job %s', async (stage, direction) => {
    const { answers } = await suffer('kill -9 of the runner', stage, async () => {
      await link.next(direction, 'hold')
      await killRunner()
      link.cut()
      await startRunner()
      await admit(runner, quick)
      await admit(runner, slow)
    })
    expect(answers).toHaveLength(jobs + 1)
  })

  test('the runner is killed while a job runs', async () => {
    await suffer(
      'kill -9 of the runner',
      'running',
      async () => {
        await sleep(100)
        await killRunner()
        await startRunner()
        await admit(runner, quick)
        await admit(runner, slow)
      },
      { model: slow, count: 6 },
    )
  })

  describe.each([
    ['edge', 'kill -9 of the Worker'],
    ['database', 'kill -9 of the database'],
    ['chain', 'kill -9 of the chain'],
  ] as const)('the %s is killed, and comes back', (service, fault) => {
    const crash = () => marketplace.crash(service)

    // What the chain writes down once a second is what survives it.
    beforeEach(() => sleep(service === 'chain' ? 2_500 : 0))

    test('while jobs run', async () => {
      const { answers } = await suffer(fault, 'running', () => sleep(100).then(crash), { model: slow })
      expect(answers).toHaveLength(jobs + 1)
    })

    test.each(ways)('with a job %s', async (stage, direction) => {
      const { answers } = await suffer(fault, stage, whileHeld(direction, crash))
      expect(answers).toHaveLength(jobs + 1)
    })
  })

  test('a runner that stands still for seconds: late answers, or a refusal in words where the deadline is nearer', async () => {
    const still = async () => {
      await sleep(50)
      runner.child.kill('SIGSTOP')
      await sleep(2_500)
      runner.child.kill('SIGCONT')
    }
    const patient = await suffer('slow runner', 'running', still, { model: slow, count: 6 })
    expect(patient.errors).toEqual([])
    await suffer('slow runner, deadline of 1 s', 'running', still, {
      model: slow,
      count: 2,
      options: { deadlineMs: 1_000 },
      lateJobs: 2n,
    })
  })

  const canLimit = spawnSync('prlimit', ['--version']).status === 0
  if (!canLimit) console.warn('skipped: prlimit is not there, so no disk can be made full')
  test.skipIf(!canLimit)(
    'the disk is full under the journal: refused in words, nothing signed, and all is well once there is room',
    async () => {
      const limit = (bytes: string) =>
        spawnSync('prlimit', ['--pid', String(runner.child.pid), `--fsize=${bytes}:unlimited`], { encoding: 'utf8' })
      const journal = join(stateDir, 'runner/journal.sqlite-wal')
      logged.length = 0
      const { errors } = await suffer('disk full under the journal', 'journalling', async () => {
        const { status, stderr } = limit(String(statSync(journal).size + 1))
        expect(status, stderr).toBe(0)
        await sleep(3_000)
        limit('unlimited')
      })
      expect(logged, 'the journal met the full disk').toContain('job_failed')
      for (const error of errors) expect((error as { code?: string }).code).toBeTruthy()
      const after = await localBuyer(marketplace).infer(quick, [pixels(seed++)])
      expect(after.verdict.verdict).toBe('verified')
    },
  )
})
