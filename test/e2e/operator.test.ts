import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { digitTensor as pixels, sampleModel } from '../../dev/sample/model.ts'
import { localBuyer, settleNow } from '../../dev/story.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { eventually, fund, list, openMarketplace } from './marketplace.ts'

describe('a runner in the hands of its operator', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let runner: RunnerProcess
  let digest: Hex
  beforeAll(async () => {
    ;({ marketplace, close } = await openMarketplace())
    runner = await marketplace.startRunner()
    digest = await list(localBuyer(marketplace), runner, sampleModel().graph, 'digits')
    await fund(marketplace, 1_000_000n)
    await eventually(() => localBuyer(marketplace).infer(digest, [pixels(3)]))
    await settleNow(runner)
  })
  afterAll(async () => {
    await close?.()
  })

  /** Reads one series from the page that Prometheus reads. */
  async function metric(series: string): Promise<number> {
    const text = await (await fetch(`${runner.controlUrl}/metrics`)).text()
    const line = text.split('\n').find((each) => each.startsWith(`${series} `))
    if (!line) throw new Error(`No series ${series} is shown.`)
    return Number(line.slice(series.length + 1))
  }

  test('behavior: what buyers got, what it took and what is owed can be watched', async () => {
    const [answered, recorded] = [
      await metric('assay_jobs_total{status="ok"}'),
      await metric('assay_journal_duration_seconds_count'),
    ]
    const buyer = localBuyer(marketplace)
    await Promise.all([1, 2, 3, 4, 5].map((digit) => buyer.infer(digest, [pixels(digit)])))
    expect(await metric('assay_jobs_total{status="ok"}')).toBe(answered + 5)
    expect(await metric('assay_journal_duration_seconds_count')).toBeGreaterThan(recorded)
    expect(await metric('assay_jobs_in_flight')).toBe(0)
    expect(await metric('assay_link_up')).toBe(1)
    expect(await metric('assay_attestation_valid_until_seconds')).toBeGreaterThan(Date.now() / 1_000)
    await settleNow(runner)
    expect(await metric('assay_claimable_amount')).toBe(0)
    expect(await metric('assay_settled_amount')).toBe(6_000)
  })

  test('behavior: a drain finishes what was accepted, takes nothing new, and the process goes on to claim', async () => {
    expect((await fetch(`${runner.controlUrl}/ready`)).status).toBe(200)
    const buyer = localBuyer(marketplace)
    // A buyer refused by the only runner goes on asking until its deadline.
    const options = { deadlineMs: 3_000 }
    const begun = Promise.allSettled([1, 2, 3].map((digit) => buyer.infer(digest, [pixels(digit)], options)))
    const drained = await fetch(`${runner.controlUrl}/drain`, { method: 'POST' })
    expect(drained.status).toBe(202)
    await begun
    const ready = await fetch(`${runner.controlUrl}/ready`)
    expect([ready.status, await ready.json()]).toEqual([
      503,
      { ready: false, reasons: expect.arrayContaining(['draining']) },
    ])
    const answered = await metric('assay_jobs_total{status="ok"}')
    await expect(localBuyer(marketplace).infer(digest, [pixels(4)])).rejects.toThrow()
    expect(await metric('assay_jobs_total{status="ok"}')).toBe(answered)
    expect(await metric('assay_jobs_in_flight')).toBe(0)
    await settleNow(runner)
    expect(await metric('assay_claimable_amount')).toBe(0)
  })

  test('behavior: SIGTERM ends it well', async () => {
    const ended = once(runner.child, 'exit')
    runner.child.kill('SIGTERM')
    expect(await ended).toEqual([0, null])
  })
})
