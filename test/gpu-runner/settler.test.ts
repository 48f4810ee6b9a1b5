import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { connectChain } from '../../gpu-runner/chain.ts'
import { type Journal, openJournal } from '../../gpu-runner/journal.ts'
import type { SettlementPolicy } from '../../gpu-runner/settlementPolicy.ts'
import { Settler } from '../../gpu-runner/settler.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'
import { earn, settlements, type World } from '../faults/earnings.ts'

const folder = mkdtempSync(join(tmpdir(), 'assay-settler-'))
const runner = signerOf('runner')

describe('Settler', () => {
  let it: World
  let journal: Journal
  let journals = 0
  beforeAll(async () => {
    it = await openContracts()
    await it.registerPck()
    await it.register(runner)
    await it.fund('buyer', 1_000_000n)
  }, 120_000)
  beforeEach(() => {
    journal = openJournal(join(folder, `${journals++}.sqlite`))
  })
  afterAll(async () => {
    await it?.chain.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  const start = 1_800_000_000
  const settlerWith = (change: Partial<SettlementPolicy> = {}) => {
    let time = start
    const noted = new Map<Hex, bigint>()
    const events: string[] = []
    const settler = new Settler({
      journal,
      chain: connectChain({
        rpcUrl: it.chain.rpcUrl,
        chainId: it.chain.chainId,
        escrow: it.contracts.escrow,
        registry: it.contracts.registry,
        providerKey: developmentKey('provider'),
        patience: { waitMs: 5_000, pollMs: 10, raiseMs: 5_000 },
      }),
      signer: runner,
      domain: it.domain,
      noteSettled: (channel, _, settled) => noted.set(channel, settled),
      policy: { threshold: 1_000n, intervalSeconds: 600, leadSeconds: 3_600, dearPercent: 200n, ...change },
      registrationEnd: () => start + 10 * 86_400,
      now: () => time * 1000,
      log: (event) => events.push(event),
    })
    const wait = (seconds: number) => {
      time += seconds
      return settler.look()
    }
    return { settler, wait, noted, events }
  }
  const later = { expiresAt: BigInt(start + 86_400) }

  test('behavior: waits for the threshold, claims once, and is told what the chain has paid', async () => {
    const { wait, noted, events } = settlerWith()
    const terms = await it.terms(runner, later)
    expect(await wait(20)).toEqual({ due: false, because: 'nothing_unsettled' })
    const channel = await earn(it, journal, runner, { terms, cumulative: 900n })
    expect(await wait(60)).toEqual({ due: false, because: 'not_yet' })
    await earn(it, journal, runner, { terms, job: 2n, cumulative: 1_500n, voucher: 1_200n })
    const before = await settlements(it)
    expect(await wait(60)).toEqual({ due: true, because: 'threshold' })
    expect(await settlements(it)).toBe(before + 1)
    expect(noted.get(channel)).toBe(1_200n)
    expect(await wait(700)).toEqual({ due: false, because: 'nothing_unsettled' })
    expect(events).toEqual(['settled'])
  })

  test('behavior: looks at the journal every ten seconds at most', async () => {
    const { wait } = settlerWith()
    expect(await wait(5)).not.toBeNull()
    expect(await wait(5)).toBeNull()
    expect(await wait(5)).not.toBeNull()
  })

  test('behavior: before its terms end a little is claimed too', async () => {
    const { wait } = settlerWith({ intervalSeconds: 100_000, threshold: null })
    const terms = await it.terms(runner, { expiresAt: BigInt(start + 10_000) })
    const channel = await earn(it, journal, runner, { terms, cumulative: 5n })
    expect(await wait(6_000)).toEqual({ due: false, because: 'not_yet' })
    expect(await wait(400)).toEqual({ due: true, because: 'terms_end' })
    expect(await it.read('settled', [channel])).toBe(5n)
  })

  test('behavior: while gas is dear it waits, and a runner that stops does not', async () => {
    const { wait, settler } = settlerWith()
    const terms = await it.terms(runner, later)
    const channel = await earn(it, journal, runner, { terms, cumulative: 2_000n })
    const { baseFeePerGas } = await it.publicClient.getBlock()
    await it.testClient.setNextBlockBaseFeePerGas({ baseFeePerGas: baseFeePerGas! * 20n })
    await it.testClient.mine({ blocks: 1 })
    expect(await wait(100)).toEqual({ due: false, because: 'gas_dear' })
    expect(await it.read('settled', [channel])).toBe(0n)
    expect(await settler.stop()).toEqual({ due: true, because: 'shutdown' })
    expect(await it.read('settled', [channel])).toBe(2_000n)
    expect(await settler.stop()).toEqual({ due: false, because: 'nothing_unsettled' })
    await it.testClient.setNextBlockBaseFeePerGas({ baseFeePerGas: baseFeePerGas! })
    await it.testClient.mine({ blocks: 1 })
  })

  test('behavior: what the escrow would not pay costs no transaction, and what can no longer be claimed is not counted', async () => {
    const { wait } = settlerWith()
    const poor = { buyer: signerOf('publisher').address }
    await earn(it, journal, runner, { terms: await it.terms(runner, { ...later, ...poor }), cumulative: 5_000n })
    const nonce = await it.publicClient.getTransactionCount({ address: it.wallet('provider').account.address })
    expect(await wait(700)).toEqual({ due: true, because: 'threshold' })
    expect(await it.publicClient.getTransactionCount({ address: it.wallet('provider').account.address })).toBe(nonce)
    expect(await wait(2 * 86_400 + 1)).toEqual({ due: false, because: 'nothing_unsettled' })
  })

  test('behavior: three calls at once claim one after the other, and once', async () => {
    const { settler } = settlerWith()
    await earn(it, journal, runner, { terms: await it.terms(runner, later), cumulative: 300n })
    await earn(it, journal, runner, { terms: await it.terms(runner, later), cumulative: 400n })
    const before = await settlements(it)
    const done = await Promise.all([settler.settle(), settler.settle(), settler.settle()])
    expect(done.map(({ channels }) => channels)).toEqual([2, 0, 0])
    expect(await settlements(it)).toBe(before + 1)
  })
})
