import { asc } from 'drizzle-orm'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { escrowAbi } from '../../contracts/abi.ts'
import { chainReader } from '../../functions/services/chainReader.ts'
import { type ChainReader, type IndexRun, indexChain } from '../../functions/services/indexer.ts'
import type { Database } from '../../functions/store/database.ts'
import { chainCheckpoints, chainCursor, chainEvents } from '../../functions/store/schema.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { openContracts } from '../contracts/setup.ts'
import { openTestDatabase } from '../fixtures/database.ts'

let it: Awaited<ReturnType<typeof openContracts>>
let database: Database
let reader: ChainReader
let logged: string[] = []
const disposers: (() => Promise<unknown>)[] = []

const index = (chain: ChainReader = reader, confirmations = 0n): Promise<IndexRun> =>
  indexChain({ database, chain, start: 1n, confirmations, log: (event) => logged.push(event) })
const rows = () => database.select().from(chainEvents).orderBy(asc(chainEvents.block), asc(chainEvents.logIndex))
const forgetAll = async () => {
  await database.delete(chainEvents)
  await database.delete(chainCursor)
  await database.delete(chainCheckpoints)
}
const request = (method: string, params: unknown[]) => it.testClient.request({ method, params } as never)
const withdrawal = (amount: bigint) =>
  it.send('buyer', {
    address: it.contracts.escrow,
    abi: escrowAbi,
    functionName: 'requestWithdrawal',
    args: [amount],
  })
const amounts = async () =>
  (await rows()).filter(({ name }) => name === 'WithdrawalRequested').map(({ args }) => args.amount)

beforeAll(async () => {
  const opened = await openTestDatabase()
  disposers.push(opened.dispose)
  database = opened.database
  it = await openContracts()
  disposers.push(() => it.chain.stop())
  reader = chainReader(it.publicClient, it.contracts.escrow)
  await it.fund('buyer', 1_000_000n)
}, 120_000)

afterAll(async () => {
  for (const dispose of disposers.reverse()) await dispose()
})

beforeEach(async () => {
  logged = []
  await forgetAll()
})

describe('indexChain', () => {
  test('behavior: every event of the escrow, once, and nothing new the second time', async () => {
    await withdrawal(11n)
    const first = await index()
    expect(first.events).toBeGreaterThan(1)
    const deposited = (await rows()).find(({ name }) => name === 'Deposited')
    expect(deposited?.args).toMatchObject({ amount: '1000000' })
    expect((await amounts()).at(-1)).toBe('11')
    expect(await index()).toMatchObject({ events: 0, rolledBackTo: null })
  })

  test('behavior: rebuilding from block zero gives the same rows', async () => {
    for (const amount of [21n, 22n, 23n]) {
      await withdrawal(amount)
      await index()
    }
    const grown = await rows()
    await forgetAll()
    await index()
    expect(await rows()).toEqual(grown)
  })

  test('behavior: blocks without enough confirmations wait', async () => {
    await withdrawal(31n)
    await index(reader, 2n)
    expect(await amounts()).not.toContain('31')
    await request('anvil_mine', ['0x2'])
    await index(reader, 2n)
    expect(await amounts()).toContain('31')
  })

  test('behavior: a reorganisation five blocks deep leaves the rows of the chain that stands', async () => {
    await withdrawal(41n)
    await index()
    const snapshot = await request('evm_snapshot', [])
    for (const amount of [51n, 52n, 53n, 54n, 55n]) {
      await withdrawal(amount)
      await index()
    }
    expect(await amounts()).toContain('55')
    await request('evm_revert', [snapshot])
    // The other branch: other events in the same blocks, and longer.
    for (const amount of [61n, 62n, 63n, 64n, 65n, 66n]) await withdrawal(amount)
    const run = await index()
    expect(run.rolledBackTo).not.toBeNull()
    expect(logged).toContain('indexer_rolled_back')
    const seen = await amounts()
    for (const gone of ['51', '52', '53', '54', '55']) expect(seen).not.toContain(gone)
    for (const stands of ['41', '61', '66']) expect(seen.filter((amount) => amount === stands)).toHaveLength(1)
    const grown = await rows()
    await forgetAll()
    await index()
    expect(await rows()).toEqual(grown)
  })

  test('behavior: a reorganisation past every checkpoint starts over', async () => {
    await withdrawal(71n)
    await index()
    await database.update(chainCursor).set({ hash: `0x${'ab'.repeat(32)}` })
    await database.update(chainCheckpoints).set({ hash: `0x${'ab'.repeat(32)}` })
    const run = await index()
    expect(run.rolledBackTo).toBe(0n)
    expect(await amounts()).toContain('71')
  })

  test('behavior: two runs at once add every event once', async () => {
    await withdrawal(81n)
    const runs = await Promise.all([index(), index(), index()])
    expect(runs.filter(({ events }) => events > 0)).toHaveLength(1)
    const seen = await rows()
    await forgetAll()
    await index()
    expect(await rows()).toEqual(seen)
  })

  test('refusal: an RPC that drops calls: no row is half written, and the next run goes on', async () => {
    await withdrawal(91n)
    await index()
    const whole = await rows()
    await forgetAll()
    // Whichever call fails, the rows afterwards are a prefix of the truth, and in the end all of it.
    for (let failing = 0; failing < 8; failing++) {
      let calls = 0
      const flaky = <A extends unknown[], R>(run: (...args: A) => Promise<R>) => {
        return (...args: A): Promise<R> => (calls++ === failing ? Promise.reject(new Error('dropped')) : run(...args))
      }
      await index({ block: flaky(reader.block), logs: flaky(reader.logs) }).catch((error) => {
        expect(error.code).toBe('unavailable')
      })
      expect(whole.slice(0, (await rows()).length)).toEqual(await rows())
    }
    await index()
    expect(await rows()).toEqual(whole)
  })

  test('refusal: answers twice, late or for other blocks change nothing', async () => {
    await withdrawal(101n)
    await index()
    const whole = await rows()
    await forgetAll()
    const twice: ChainReader = {
      block: reader.block,
      logs: async (range) => {
        const logs = await reader.logs(range)
        await new Promise((resolve) => setTimeout(resolve, 50))
        return [...logs, ...logs]
      },
    }
    await index(twice)
    expect(await rows()).toEqual(whole)
    await forgetAll()
    const foreign: ChainReader = {
      block: reader.block,
      logs: async (range) =>
        (await reader.logs(range)).map((log) => ({ ...log, blockNumber: log.blockNumber + 10_000n })),
    }
    await expect(index(foreign)).rejects.toMatchObject({ code: 'unavailable' })
    expect(await rows()).toEqual([])
  })

  test('refusal: a node that gives the logs of one branch and the hash of another', async () => {
    await withdrawal(111n)
    const split: ChainReader = {
      block: reader.block,
      logs: async (range) =>
        (await reader.logs(range)).map((log) => ({ ...log, blockHash: `0x${'cd'.repeat(32)}` as Hex })),
    }
    await expect(index(split)).rejects.toMatchObject({ code: 'unavailable' })
    expect(await rows()).toEqual([])
  })

  test('behavior: a node that refuses long ranges is asked for shorter ones', async () => {
    await withdrawal(121n)
    await index()
    const whole = await rows()
    await forgetAll()
    const short: ChainReader = {
      block: reader.block,
      logs: async ({ from, to }) => {
        if (to - from > 3n) throw new Error('query returned more than the allowed range')
        return reader.logs({ from, to })
      },
    }
    await index(short)
    expect(await rows()).toEqual(whole)
  })

  test('behavior: a node that is behind the cursor is waited for', async () => {
    await withdrawal(131n)
    await index()
    const whole = await rows()
    const behind: ChainReader = {
      ...reader,
      block: async (number) =>
        number === 'latest' ? { number: 3n, hash: '0x01' } : number > 3n ? null : reader.block(number),
    }
    expect(await index(behind)).toMatchObject({ events: 0, rolledBackTo: null })
    expect(await rows()).toEqual(whole)
  })
})
