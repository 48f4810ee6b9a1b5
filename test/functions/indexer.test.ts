import { asc } from 'drizzle-orm'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { escrowAbi, stakeAbi, testTokenAbi } from '../../contracts/abi.ts'
import { chainReader } from '../../functions/services/chainReader.ts'
import { type ChainReader, type IndexRun, indexChain } from '../../functions/services/indexer.ts'
import type { Database } from '../../functions/store/database.ts'
import { chainCheckpoints, chainCursor, chainEvents, stakes } from '../../functions/store/schema.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { coverOf, disputeWindowSeconds } from '../../protocol/stake.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'
import { openTestDatabase } from '../fixtures/database.ts'
import { slash } from '../fixtures/slash.ts'

let it: Awaited<ReturnType<typeof openContracts>>
let database: Database
let reader: ChainReader
let logged: string[] = []
const disposers: (() => Promise<unknown>)[] = []

const index = (chain: ChainReader = reader, confirmations = 0n): Promise<IndexRun> =>
  indexChain({ database, chain, start: 1n, confirmations, log: (event) => logged.push(event) })
const rows = () => database.select().from(chainEvents).orderBy(asc(chainEvents.block), asc(chainEvents.logIndex))
const forgetAll = async () => {
  await database.delete(stakes)
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
  reader = chainReader(it.publicClient, it.contracts)
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
      await index({ ...reader, block: flaky(reader.block), logs: flaky(reader.logs) }).catch((error) => {
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
      ...reader,
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
      ...reader,
      logs: async (range) =>
        (await reader.logs(range)).map((log) => ({ ...log, blockNumber: log.blockNumber + 10_000n })),
    }
    await expect(index(foreign)).rejects.toMatchObject({ code: 'unavailable' })
    expect(await rows()).toEqual([])
  })

  test('refusal: a node that gives the logs of one branch and the hash of another', async () => {
    await withdrawal(111n)
    const split: ChainReader = {
      ...reader,
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
      ...reader,
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

describe('stakes', () => {
  const runner = signerOf('runner')
  const second = signerOf('second runner')
  const third = signerOf('third runner')
  const call = (party: string, functionName: string, args: readonly unknown[]) =>
    it.send(party, { address: it.contracts.stake, abi: stakeAbi, functionName, args })
  const onChain = (of: Hex) =>
    it.publicClient.readContract({ address: it.contracts.stake, abi: stakeAbi, functionName: 'stakes', args: [of] })
  const put = (amount: bigint, of = runner) => call('provider', 'stake', [of.address, amount])
  const kept = () => database.select().from(stakes).orderBy(asc(stakes.runner))
  const agree = async () => {
    for (const { runner: of, amount, exiting, withdrawableAt, slashed } of await kept())
      expect([BigInt(amount), BigInt(exiting), BigInt(withdrawableAt), slashed]).toEqual(await onChain(of as Hex))
  }

  beforeAll(async () => {
    await it.registerPck()
    // Before the clock is moved: evidence is good for a month.
    for (const each of [runner, second, third]) await it.register(each)
    const token = { address: it.contracts.token, abi: testTokenAbi } as const
    const { address } = it.wallet('provider').account
    await it.send('provider', { ...token, functionName: 'mint', args: [address, 1_000_000n] })
    await it.send('provider', { ...token, functionName: 'approve', args: [it.contracts.stake, 1_000_000n] })
  }, 60_000)

  test('behavior: what the directory has of a stake is what the contract has, step by step and read anew', async () => {
    await put(500n)
    await put(70n, second)
    await index()
    expect(await kept()).toHaveLength(2)
    const steps = [
      () => put(300n),
      () => call('provider', 'requestExit', [runner.address, 200n]),
      () => call('provider', 'requestExit', [runner.address, 0n]),
      () => call('provider', 'requestExit', [runner.address, 250n]),
      () => put(1n),
      async () => {
        await it.testClient.increaseTime({ seconds: 14 * 86_400 })
        await it.testClient.mine({ blocks: 1 })
        await call('provider', 'exit', [runner.address, it.wallet('provider').account.address])
      },
      () => call('provider', 'requestExit', [second.address, 70n]),
      () => slash(it, second),
      () => call('publisher', 'withdraw', [it.wallet('publisher').account.address]),
    ]
    for (const step of steps) {
      await step()
      await index()
      await agree()
    }
    expect(await kept()).toMatchObject(
      [
        { runner: runner.address, amount: '551', exiting: '0', withdrawableAt: 0, slashed: false },
        { runner: second.address, amount: '0', exiting: '0', withdrawableAt: 0, slashed: true },
      ].sort((a, b) => (a.runner < b.runner ? -1 : 1)),
    )
    const [grown, events] = [await kept(), await rows()]
    await forgetAll()
    await index()
    expect([await kept(), await rows()]).toEqual([grown, events])
  })

  test('behavior: a stake that a reorganisation takes back is gone, and a slash with it', async () => {
    await put(400n, third)
    await index()
    const snapshot = await request('evm_snapshot', [])
    await put(600n, third)
    await index()
    await slash(it, third)
    await index()
    expect((await kept()).find(({ runner: of }) => of === third.address)).toMatchObject({ amount: '0', slashed: true })
    await request('evm_revert', [snapshot])
    for (const amount of [1n, 2n, 3n, 4n]) await withdrawal(amount)
    const run = await index()
    expect(run.rolledBackTo).not.toBeNull()
    expect((await kept()).find(({ runner: of }) => of === third.address)).toMatchObject({
      amount: '400',
      slashed: false,
    })
    await agree()
  })

  test('behavior: an index of the escrow alone is read anew once there are stakes', async () => {
    await index()
    const [whole, all] = [await rows(), await kept()]
    await forgetAll()
    await index(chainReader(it.publicClient, { escrow: it.contracts.escrow }))
    expect((await rows()).every(({ contract }) => contract === 'escrow')).toBe(true)
    expect(await kept()).toEqual([])
    await index()
    expect(logged).toContain('indexer_contracts_changed')
    expect([await rows(), await kept()]).toEqual([whole, all])
  })

  test('behavior: cover here is what the contract says, at every edge of the exit', async () => {
    await call('provider', 'requestExit', [runner.address, 51n])
    const [amount, exiting, withdrawableAt] = await onChain(runner.address)
    const { timestamp: now } = await it.publicClient.getBlock()
    for (const until of [now, now + BigInt(disputeWindowSeconds), ...[-1n, 0n, 1n].map((by) => withdrawableAt + by)]) {
      const args = [runner.address, until] as const
      const said = await it.publicClient.readContract({
        address: it.contracts.stake,
        abi: stakeAbi,
        functionName: 'cover',
        args,
      })
      expect([until - now, coverOf({ amount, exiting, withdrawableAt }, until, now)]).toEqual([until - now, said])
    }
  })
})
