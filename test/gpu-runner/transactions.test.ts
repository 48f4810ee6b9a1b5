import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Address, createPublicClient, http, type PublicClient, parseTransaction } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { anvil } from 'viem/chains'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type Chain, startChain } from '../../dev/chain.ts'
import { developmentKey } from '../../dev/keys.ts'
import {
  fileOutbox,
  memoryOutbox,
  type Outbox,
  type Patience,
  TransactionPendingError,
  TransactionReplacedError,
  TransactionSender,
} from '../../gpu-runner/transactions.ts'
import { type FaultyRpc, openFaultyRpc } from '../faults/faultyRpc.ts'

const account = privateKeyToAccount(developmentKey('provider'))
const receiver = privateKeyToAccount(developmentKey('buyer')).address
const folder = mkdtempSync(join(tmpdir(), 'assay-outbox-'))

describe('TransactionSender', () => {
  let chain: Chain
  let rpc: FaultyRpc
  beforeAll(async () => {
    chain = await startChain()
    await chain.testClient.setBalance({ address: account.address, value: 10n ** 20n })
  }, 60_000)
  beforeEach(async () => {
    rpc = await openFaultyRpc(chain.rpcUrl)
  })
  afterEach(async () => {
    await chain.testClient.setAutomine(true)
    await chain.testClient.mine({ blocks: 1 })
    await rpc.dispose()
  })
  afterAll(async () => {
    await chain?.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  const quick: Patience = { waitMs: 3_000, pollMs: 20, raiseMs: 200 }
  const senderOver = (outbox: Outbox, patience: Partial<Patience> = {}) =>
    new TransactionSender({
      client: createPublicClient({
        chain: anvil,
        transport: http(rpc.url, { retryCount: 1, retryDelay: 20 }),
        cacheTime: 0,
      }) as PublicClient,
      account,
      chainId: chain.chainId,
      outbox,
      patience: { ...quick, ...patience },
      now: Date.now,
      sleep: (ms) => sleep(ms).then(() => {}),
    })
  const call = (to: Address = receiver) => ({ to, data: '0x' as const, estimate: async () => 30_000n })
  const count = () => chain.publicClient.getTransactionCount({ address: account.address })

  test.each(['drop_answer', 'drop_call', 'repeat', 'delay'] as const)(
    'behavior: a node that does this to each first broadcast: %s: one transaction, mined once',
    async (fault) => {
      const before = await count()
      const outbox = memoryOutbox()
      let spoiled = 0
      rpc.spoil = (method) => (method === 'eth_sendRawTransaction' && spoiled++ === 0 ? fault : null)
      const { hash, gasUsed } = await senderOver(outbox).send(call())
      expect(gasUsed).toBe(21_000n)
      expect(await count()).toBe(before + 1)
      expect((await chain.publicClient.getTransactionReceipt({ hash })).status).toBe('success')
      expect(outbox.load()).toBeNull()
      expect(spoiled).toBeGreaterThan(0)
    },
  )

  test('behavior: every answer about the outcome is lost for a while: it stays pending, and the next process knows it by its nonce', async () => {
    const before = await count()
    const path = join(folder, 'lost.json')
    let away = true
    rpc.spoil = (method) =>
      away && ['eth_sendRawTransaction', 'eth_getTransactionReceipt'].includes(method) ? 'drop_answer' : null
    await expect(senderOver(fileOutbox(path), { waitMs: 300 }).send(call())).rejects.toThrow(TransactionPendingError)
    expect(existsSync(path)).toBe(true)
    expect(await count()).toBe(before + 1)
    away = false
    const next = senderOver(fileOutbox(path))
    expect(await next.resolve()).toMatchObject({ gasUsed: 21_000n })
    expect(await next.resolve()).toBeNull()
    expect(existsSync(path)).toBe(false)
    expect(await count()).toBe(before + 1)
  })

  test('behavior: a process killed between writing down and sending: the next one sends the same', async () => {
    const before = await count()
    const path = join(folder, 'killed.json')
    rpc.spoil = (method) => (method === 'eth_sendRawTransaction' ? 'drop_call' : null)
    await expect(senderOver(fileOutbox(path), { waitMs: 100 }).send(call())).rejects.toThrow(TransactionPendingError)
    expect(await count()).toBe(before)
    const [written] = fileOutbox(path).load()!.signed
    rpc.spoil = () => null
    expect(await senderOver(fileOutbox(path)).resolve()).toMatchObject({ hash: written!.hash })
    expect(await count()).toBe(before + 1)
  })

  test('behavior: while one is pending no other leaves; then each leaves once', async () => {
    const before = await count()
    const outbox = memoryOutbox()
    await chain.testClient.setAutomine(false)
    const sender = senderOver(outbox, { waitMs: 200, raiseMs: 60_000 })
    await expect(sender.send(call())).rejects.toThrow(TransactionPendingError)
    const [first] = outbox.load()!.signed
    await expect(sender.send(call())).rejects.toThrow(TransactionPendingError)
    expect(outbox.load()!.signed).toEqual([first])
    await chain.testClient.setAutomine(true)
    await chain.testClient.mine({ blocks: 1 })
    await sender.send(call())
    expect(await count()).toBe(before + 2)
  })

  test('behavior: fees too low to be mined are raised under the same nonce', async () => {
    const before = await count()
    const outbox = memoryOutbox()
    await chain.testClient.setAutomine(false)
    const sent = senderOver(outbox, { raiseMs: 100 }).send(call())
    for (let left = 100; (outbox.load()?.signed.length ?? 0) < 3 && left > 0; left--) await sleep(50)
    const pending = outbox.load()!
    expect(pending.nonce).toBe(before)
    expect(pending.signed.length).toBeGreaterThanOrEqual(3)
    await chain.testClient.mine({ blocks: 1 })
    const { hash } = await sent
    const forms = pending.signed.map(({ raw }) => parseTransaction(raw))
    expect(forms.map(({ nonce }) => nonce)).toEqual(forms.map(() => before))
    expect(await count()).toBe(before + 1)
    const { maxFeePerGas, maxPriorityFeePerGas } = await chain.publicClient.getTransaction({ hash })
    expect(maxFeePerGas!).toBeGreaterThan((forms[0]!.maxFeePerGas! * 11n) / 10n)
    expect(maxPriorityFeePerGas!).toBeGreaterThan((forms[0]!.maxPriorityFeePerGas! * 11n) / 10n)
  })

  test('behavior: two processes with one key: one transaction a nonce, and the loser is told to look anew', async () => {
    const before = await count()
    await chain.testClient.setAutomine(false)
    const outboxes = [memoryOutbox(), memoryOutbox()]
    const to = privateKeyToAccount(developmentKey('publisher')).address
    // Both ask for the nonce before either has sent.
    const asked = Promise.withResolvers<void>()
    let estimates = 0
    const together = async () => {
      if (++estimates === 2) asked.resolve()
      await asked.promise
      return 30_000n
    }
    const racing = Promise.allSettled([
      senderOver(outboxes[0]!, { raiseMs: 60_000 }).send({ ...call(), estimate: together }),
      senderOver(outboxes[1]!, { raiseMs: 60_000 }).send({ ...call(to), estimate: together }),
    ])
    for (let left = 100; outboxes.some((outbox) => !outbox.load()) && left > 0; left--) await sleep(20)
    expect(outboxes.map((outbox) => outbox.load()?.nonce)).toEqual([before, before])
    await sleep(100)
    await chain.testClient.mine({ blocks: 1 })
    const ended = await racing
    expect(ended.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(ended.find(({ status }) => status === 'rejected')).toMatchObject({
      reason: expect.any(TransactionReplacedError),
    })
    expect(await count()).toBe(before + 1)
    expect(outboxes.map((outbox) => outbox.load())).toEqual([null, null])
  })

  test('refusal: a node that cannot be asked before anything was signed leaves nothing behind', async () => {
    const outbox = memoryOutbox()
    rpc.spoil = () => 'drop_call'
    await expect(senderOver(outbox).send(call())).rejects.toThrow()
    expect(outbox.load()).toBeNull()
  })

  test('behavior: a key without money stays pending with what the node says, and goes once it has some', async () => {
    const poor = privateKeyToAccount(developmentKey('poor'))
    const outbox = memoryOutbox()
    const sender = new TransactionSender({
      client: chain.publicClient,
      account: poor,
      chainId: chain.chainId,
      outbox,
      patience: { ...quick, waitMs: 100 },
      now: Date.now,
      sleep: (ms) => sleep(ms).then(() => {}),
    })
    await expect(sender.send(call())).rejects.toThrow(/funds/i)
    await chain.testClient.setBalance({ address: poor.address, value: 10n ** 18n })
    expect(await sender.resolve()).toMatchObject({ gasUsed: 21_000n })
  })

  test('refusal: a file that holds no transaction', () => {
    const path = join(folder, 'other.json')
    writeFileSync(path, '{}')
    expect(() => fileOutbox(path).load()).toThrow('does not hold a transaction')
  })
})
