import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { asc } from 'drizzle-orm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { escrowAbi } from '../../contracts/abi.ts'
import { developmentKey } from '../../dev/keys.ts'
import { booksReader } from '../../functions/services/chainReader.ts'
import { readPayments } from '../../functions/services/ledger.ts'
import { reconcile } from '../../functions/services/reconcile.ts'
import type { Database } from '../../functions/store/database.ts'
import { chainCheckpoints, chainCursor, chainEvents } from '../../functions/store/schema.ts'
import { connectChain } from '../../gpu-runner/chain.ts'
import { type Journal, openJournal } from '../../gpu-runner/journal.ts'
import { type Settlement, settleJournal } from '../../gpu-runner/settle.ts'
import { Settler } from '../../gpu-runner/settler.ts'
import { fileOutbox, memoryOutbox, type Outbox } from '../../gpu-runner/transactions.ts'
import type { Hex } from '../../protocol/bytes.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import type { Terms } from '../../protocol/terms.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'
import { openTestDatabase } from '../fixtures/database.ts'
import { indexAll } from '../fixtures/indexed.ts'
import { earn, settlements, type World } from './earnings.ts'
import { type FaultyRpc, openFaultyRpc, type RpcFault } from './faultyRpc.ts'
import { tableOf } from './table.ts'

/** What a fault did to the money: what receipts and vouchers entitle to, what the escrow paid, and the difference either way. */
type Row = { fault: string; channels: number; earned: bigint; paid: bigint; lost: bigint; twice: bigint }

const table: Row[] = []
const folder = mkdtempSync(join(tmpdir(), 'assay-faults-'))
const runner = signerOf('runner')
const patience = { waitMs: 8_000, pollMs: 20, raiseMs: 1_500 }

let it: World
let database: Database
const disposers: (() => Promise<unknown>)[] = []
let journals = 0
const newJournal = (): Journal & { path: string } => {
  const path = join(folder, `${journals++}.sqlite`)
  return { ...openJournal(path), path }
}

beforeAll(async () => {
  const opened = await openTestDatabase()
  disposers.push(opened.dispose)
  database = opened.database
  it = await openContracts()
  disposers.push(() => it.chain.stop())
  await it.registerPck()
  await it.register(runner)
  await it.fund('buyer', 10_000_000n)
}, 120_000)

afterAll(async () => {
  for (const dispose of disposers.reverse()) await dispose()
  rmSync(folder, { recursive: true, force: true })
  const rows = table.map(({ fault, channels, earned, paid, lost, twice }) => [
    fault,
    channels,
    earned,
    paid,
    lost,
    twice,
  ])
  console.log(tableOf(['fault', 'channels', 'earned', 'paid', 'lost', 'paid twice'], rows))
})

const chainOver = ({
  rpcUrl = it.chain.rpcUrl,
  party = 'provider',
  outbox = memoryOutbox(),
}: {
  rpcUrl?: string
  party?: string
  outbox?: Outbox
} = {}) =>
  connectChain({
    rpcUrl,
    chainId: it.chain.chainId,
    escrow: it.contracts.escrow,
    registry: it.contracts.registry,
    providerKey: developmentKey(party),
    outbox,
    patience,
  })
const settle = (
  journal: Journal,
  over: Parameters<typeof chainOver>[0] = {},
  signer: Signer = runner,
): Promise<Settlement> =>
  settleJournal({ journal, chain: chainOver(over), signer, domain: it.domain, noteSettled: () => {} })
/** Tries until it goes through, as a runner's loop does. */
async function insist(work: () => Promise<unknown>): Promise<void> {
  for (let left = 30; ; left--) {
    try {
      await work()
      return
    } catch (error) {
      if (left === 0) throw error
      await sleep(20)
    }
  }
}
const index = () => indexAll(database, it)
const events = () =>
  database
    .select({ block: chainEvents.block, at: chainEvents.logIndex, name: chainEvents.name, args: chainEvents.args })
    .from(chainEvents)
    .orderBy(asc(chainEvents.block), asc(chainEvents.logIndex))
const request = (method: string, params: unknown[]) => it.testClient.request({ method, params } as never)
const depositOf = async () =>
  (await it.read<readonly [bigint, bigint, bigint]>('accounts', [signerOf('buyer').address]))[0]

const withdrawal = (amount: bigint) =>
  it.send('other buyer', {
    address: it.contracts.escrow,
    abi: escrowAbi,
    functionName: 'requestWithdrawal',
    args: [amount],
  })

/** Sums by channel what the chain's own events say was paid. */
async function payments(): Promise<Map<Hex, bigint>> {
  const logs = await it.publicClient.getContractEvents({
    address: it.contracts.escrow,
    abi: escrowAbi,
    eventName: 'Settled',
    fromBlock: 0n,
  })
  const paid = new Map<Hex, bigint>()
  for (const { args } of logs)
    for (const { channel, amount } of readPayments(args.payments!))
      paid.set(channel, (paid.get(channel) ?? 0n) + amount)
  return paid
}

/** Holds what channels entitle to while a fault is at work. */
class Earnings {
  readonly entitled = new Map<Hex, bigint>()
  readonly #jobs = new Map<Hex, bigint>()

  /** Has the runner earn on one channel, up to a running total. */
  async on(
    journal: Journal,
    terms: Terms,
    cumulative: bigint,
    { signer = runner, finishedAt }: { signer?: Signer; finishedAt?: bigint } = {},
  ) {
    const salt = terms.salt
    const job = (this.#jobs.get(salt) ?? 0n) + 1n
    this.#jobs.set(salt, job)
    const channel = await earn(it, journal, signer, {
      terms,
      job,
      cumulative,
      ...(finishedAt === undefined ? {} : { finishedAt }),
    })
    this.entitled.set(channel, cumulative)
  }

  /** Has the runner earn on several new channels. */
  async many(journal: Journal, count: number): Promise<Terms[]> {
    const made: Terms[] = []
    for (let at = 1; at <= count; at++) {
      const terms = await it.terms(runner)
      made.push(terms)
      await this.on(journal, terms, 100n * BigInt(at))
    }
    return made
  }
}

/** Lets a fault work, then compares what was earned with what was paid, channel by channel and against the buyer's deposit. */
async function under(fault: string, work: (earnings: Earnings) => Promise<void>): Promise<void> {
  const earnings = new Earnings()
  const before = await depositOf()
  await work(earnings)
  const paidBy = await payments()
  const row: Row = {
    fault,
    channels: earnings.entitled.size,
    earned: 0n,
    paid: before - (await depositOf()),
    lost: 0n,
    twice: 0n,
  }
  for (const [channel, entitled] of earnings.entitled) {
    const paid = paidBy.get(channel) ?? 0n
    row.earned += entitled
    if (paid < entitled) row.lost += entitled - paid
    if (paid > entitled) row.twice += paid - entitled
    expect(await it.read('settled', [channel])).toBe(paid)
  }
  table.push(row)
  expect(row.channels).toBeGreaterThan(0)
  expect(row).toMatchObject({ paid: row.earned, lost: 0n, twice: 0n })
}

describe('faults in the way of money', () => {
  test('fault: a reorganisation five blocks deep takes a settlement with it', async () => {
    await under('reorganisation, depth 5', async (earnings) => {
      const journal = newJournal()
      await it.fund('other buyer', 100n)
      await index()
      const snapshot = await request('evm_snapshot', [])
      const ground = await it.publicClient.getBlockNumber()
      await earnings.many(journal, 3)
      await settle(journal)
      for (let block = 0; block < 4; block++) {
        await withdrawal(BigInt(block + 1))
        await index()
      }
      const before = await settlements(it)
      expect((await it.publicClient.getBlockNumber()) - ground).toBe(5n)
      await request('evm_revert', [snapshot])
      // The other branch is longer and has other events in the same blocks.
      for (let block = 0; block < 6; block++) await withdrawal(BigInt(block + 11))
      expect(await settlements(it)).toBe(before - 1)
      await settle(journal)
      expect((await index()).rolledBackTo).not.toBeNull()
      const rows = await events()
      for (const each of [chainEvents, chainCursor, chainCheckpoints]) await database.delete(each)
      await index()
      expect(await events()).toEqual(rows)
    })
  }, 30_000)

  test('fault: after a reorganisation the old transaction is mined again beside a new claim', async () => {
    await under('reorganisation, old transaction back', async (earnings) => {
      const journal = newJournal()
      const terms = await earnings.many(journal, 2)
      const snapshot = await request('evm_snapshot', [])
      const sent: Hex[] = []
      const kept = memoryOutbox()
      const outbox: Outbox = {
        load: kept.load,
        save(pending) {
          if (pending) sent.push(pending.signed.at(-1)!.raw)
          kept.save(pending)
        },
      }
      await settle(journal, { outbox })
      await request('evm_revert', [snapshot])
      await earnings.on(journal, terms[0]!, 5_000n)
      await settle(journal, { party: 'other provider' }, signerOf('stranger'))
      expect(sent).toHaveLength(1)
      await request('eth_sendRawTransaction', sent)
      await settle(journal)
    })
  }, 30_000)

  test.each<[string, RpcFault]>([
    ['node drops answers', 'drop_answer'],
    ['node drops calls', 'drop_call'],
    ['node takes calls twice', 'repeat'],
    ['node answers late', 'delay'],
  ])(
    'fault: %s, one call in four',
    async (name, fault) => {
      const rpc: FaultyRpc = await openFaultyRpc(it.chain.rpcUrl, { delayMs: 60 })
      let seed = 17
      let spoiled = 0
      rpc.spoil = () => {
        seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
        if (seed / 2_147_483_648 >= 0.25) return null
        spoiled++
        return fault
      }
      try {
        await under(`${name} (1 in 4)`, async (earnings) => {
          const journal = newJournal()
          const outbox = memoryOutbox()
          const before = await settlements(it)
          const terms = await earnings.many(journal, 3)
          await insist(() => settle(journal, { rpcUrl: rpc.url, outbox }))
          await earnings.on(journal, terms[0]!, 1_000n)
          await insist(() => settle(journal, { rpcUrl: rpc.url, outbox }))
          expect(await settlements(it)).toBe(before + 2)
          expect(spoiled).toBeGreaterThan(2)
        })
      } finally {
        await rpc.dispose()
      }
    },
    60_000,
  )

  test('fault: the process is killed after sending and before it knows; its successor asks by nonce', async () => {
    const rpc = await openFaultyRpc(it.chain.rpcUrl)
    const path = join(folder, 'killed.json')
    try {
      await under('killed between sending and knowing', async (earnings) => {
        const journal = newJournal()
        await earnings.many(journal, 2)
        const before = await settlements(it)
        let lost = false
        rpc.spoil = (method) => {
          lost ||= method === 'eth_sendRawTransaction'
          return lost ? 'drop_answer' : null
        }
        const killed = connectChain({
          rpcUrl: rpc.url,
          chainId: it.chain.chainId,
          escrow: it.contracts.escrow,
          registry: it.contracts.registry,
          providerKey: developmentKey('provider'),
          outbox: fileOutbox(path),
          patience: { ...patience, waitMs: 100 },
        })
        await expect(
          settleJournal({ journal, chain: killed, signer: runner, domain: it.domain, noteSettled: () => {} }),
        ).rejects.toMatchObject({ name: 'TransactionPendingError' })
        expect(existsSync(path)).toBe(true)
        expect((await settle(journal, { outbox: fileOutbox(path) })).transactions).toEqual([])
        expect(await settlements(it)).toBe(before + 1)
        expect(existsSync(path)).toBe(false)
      })
    } finally {
      await rpc.dispose()
    }
  }, 60_000)

  test('fault: two processes of one runner and a stranger settle at the same time', async () => {
    await under('three settlers racing', async (earnings) => {
      const journal = newJournal()
      await earnings.many(journal, 4)
      await it.testClient.setAutomine(false)
      let racing = true
      const miner = (async () => {
        while (racing) {
          await sleep(60)
          await it.testClient.mine({ blocks: 1 })
        }
      })()
      try {
        await Promise.all([
          insist(() => settle(journal)),
          insist(() => settle(journal)),
          insist(() => settle(journal, { party: 'other provider' }, signerOf('stranger'))),
        ])
      } finally {
        racing = false
        await miner
        await it.testClient.setAutomine(true)
      }
    })
  }, 60_000)

  test('fault: a runner is restored from a copy of its journal', async () => {
    await under('runner restored from a journal copy', async (earnings) => {
      const journal = newJournal()
      const [first, second] = await earnings.many(journal, 2)
      const copy = `${journal.path}.copy`
      for (const part of ['', '-wal', '-shm'])
        if (existsSync(journal.path + part)) copyFileSync(journal.path + part, copy + part)
      await earnings.on(journal, first!, 900n)
      const restored = openJournal(copy)
      // The copy claims what it knows of, with another key; the original what has come since; the copy then finds nothing.
      const successor = signerOf('successor')
      expect((await settle(restored, {}, successor)).channels).toBe(2)
      await earnings.on(journal, second!, 1_200n)
      expect((await settle(journal)).channels).toBe(2)
      expect(await settle(restored, {}, successor)).toMatchObject({ transactions: [], channels: 0 })
      restored.close()
    })
  }, 30_000)

  test.each([
    ['slow', -300],
    ['fast', 300],
  ])(
    "fault: the runner's clock is five minutes %s",
    async (name, skew) => {
      await under(`clock five minutes ${name}`, async (earnings) => {
        // Registered this moment: a slow clock dates its first receipts before that.
        const signer = signerOf(`runner, ${name} clock`)
        await it.register(signer)
        const journal = newJournal()
        const clock = async () => (await it.now()) + BigInt(skew)
        const ending = (await it.now()) + 3_000n
        for (const cumulative of [100n, 250n]) {
          const terms = await it.terms(signer, { expiresAt: ending })
          await earnings.on(journal, terms, cumulative, { signer, finishedAt: await clock() })
        }
        let now = Number(await clock())
        const settler = new Settler({
          journal,
          chain: chainOver(),
          signer,
          domain: it.domain,
          noteSettled: () => {},
          policy: { threshold: null, intervalSeconds: 43_200, leadSeconds: 3_600, dearPercent: 1_000n },
          registrationEnd: () => now + 86_400,
          now: () => now * 1_000,
          log: () => {},
        })
        now += 900
        expect(await settler.look()).toEqual({ due: true, because: 'terms_end' })
      })
    },
    30_000,
  )

  test('fault: nothing has happened on the chain for ten minutes, so its newest block is older than the work', async () => {
    await under('quiet chain, 10 minutes', async (earnings) => {
      const journal = newJournal()
      const terms = await it.terms(runner)
      const finishedAt = (await it.now()) + 600n
      await request('evm_increaseTime', [600])
      await earnings.on(journal, terms, 700n, { finishedAt })
      expect((await settle(journal)).channels).toBe(1)
    })
  })

  test('behavior: after all of it the books of chain and edge agree', async () => {
    await index()
    const books = booksReader(it.publicClient, it.contracts)
    const { drifts, block } = await reconcile({
      database,
      books,
      treasury: signerOf('treasury').address,
      now: Math.floor(Date.now() / 1000),
      log: () => {},
    })
    expect(block).toBeGreaterThan(0n)
    // No job passed this edge, so it has no receipts; everything else must agree to the last unit.
    expect(drifts.filter(({ kind }) => kind !== 'receipts')).toEqual([])
    expect(table.map(({ lost, twice }) => [lost, twice])).toEqual(table.map(() => [0n, 0n]))
    expect(table).toHaveLength(12)
  })
})
