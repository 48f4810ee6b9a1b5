import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Assay } from '../../client/assay.ts'
import { collectEarnings, depositFromInbox, readBalance } from '../../client/escrow.ts'
import { escrowAbi, testTokenAbi } from '../../contracts/abi.ts'
import { developmentKey } from '../../dev/keys.ts'
import { type Marketplace, type RunnerProcess, walletOf } from '../../dev/marketplace.ts'
import { digitTensor as pixels, sampleModel } from '../../dev/sample/model.ts'
import { earningsOf, localBuyer, settleNow } from '../../dev/story.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import { readDevelopmentRoots } from '../../protocol/evidence/roots.development.ts'
import { decodeFrame } from '../../protocol/frames.ts'
import { createSigner } from '../../protocol/secp256k1.ts'
import { eventually, fund, list, openMarketplace } from './marketplace.ts'

describe('the marketplace, on real parts', () => {
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

  test('behavior: fifty parallel buys over one channel settle in one transaction, split by the terms', async () => {
    const buyer = localBuyer(marketplace)
    const before = await Promise.all([
      earningsOf(marketplace, 'provider'),
      earningsOf(marketplace, 'publisher'),
      earningsOf(marketplace, 'treasury'),
    ])
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) => buyer.infer(digest, [pixels(index % 10, index)])),
    )
    expect(new Set(answers.map(({ receipt }) => toHex(receipt.channel))).size).toBe(1)
    expect(
      answers
        .map(({ receipt }) => receipt.cumulative)
        .sort((a, b) => Number(a - b))
        .at(-1),
    ).toBe(50_000n)
    const settlement = await settleNow(runner)
    expect(settlement).toMatchObject({ channels: 1, receipts: 50 })
    expect(settlement.transactions).toHaveLength(1)
    const after = await Promise.all([
      earningsOf(marketplace, 'provider'),
      earningsOf(marketplace, 'publisher'),
      earningsOf(marketplace, 'treasury'),
    ])
    expect(after.map((amount, index) => amount - before[index]!)).toEqual([44_500n, 5_000n, 500n])
  })

  test("behavior: an agent buys on the buyer's deposit within its mandate, is settled, and is stopped at its bound", async () => {
    const { chain, contracts, edgeUrl, developmentRoot } = marketplace
    const { publicClient } = chain
    const wallet = walletOf(developmentKey('buyer'), chain.rpcUrl)
    const agent = createSigner(fromHex(developmentKey('agent'), 32))
    const until = (await publicClient.getBlock()).timestamp + 86_400n
    const hash = await wallet.writeContract({
      address: contracts.escrow,
      abi: escrowAbi,
      functionName: 'authorize',
      args: [agent.address, 2_000n, 2_000n, until, true, []],
      account: wallet.account,
      chain: wallet.chain ?? null,
    })
    await publicClient.waitForTransactionReceipt({ hash })
    const bot = new Assay({
      edge: edgeUrl,
      signer: agent,
      onBehalfOf: wallet.account.address,
      roots: [readDevelopmentRoots(chain.chainId, developmentRoot)],
    })
    const answers = [await bot.infer(digest, [pixels(1)]), await bot.infer(digest, [pixels(2)])]
    const channel = toHex(answers[0]!.receipt.channel)
    await expect(bot.infer(digest, [pixels(3)])).rejects.toThrow(/mandate/)
    await settleNow(runner)
    const settled = { address: contracts.escrow, abi: escrowAbi, functionName: 'settled', args: [channel] } as const
    expect(await publicClient.readContract(settled)).toBe(2_000n)
  })

  test('behavior: provider and publisher collect what they earned, each once', async () => {
    const { chain, contracts } = marketplace
    const { publicClient } = chain
    for (const party of ['provider', 'publisher'] as const) {
      const wallet = walletOf(developmentKey(party), chain.rpcUrl)
      await chain.testClient.setBalance({ address: wallet.account.address, value: 10n ** 18n })
      const earned = await earningsOf(marketplace, party)
      expect(earned).toBeGreaterThan(0n)
      expect(await collectEarnings({ publicClient, wallet, contracts })).toBe(earned)
      expect(await earningsOf(marketplace, party)).toBe(0n)
      expect(await collectEarnings({ publicClient, wallet, contracts })).toBe(0n)
    }
  })

  test("behavior: what anyone sends to a buyer's inbox becomes that buyer's deposit, once", async () => {
    const { chain, contracts, rpcUrl } = marketplace
    const { publicClient } = chain
    const wallet = walletOf(developmentKey('buyer'), rpcUrl)
    const { inbox } = await readBalance({ publicClient, contracts, address: wallet.account.address })
    const hash = await walletOf(developmentKey('provider'), rpcUrl).writeContract({
      address: contracts.token,
      abi: testTokenAbi,
      functionName: 'mint',
      args: [inbox, 77n],
      account: walletOf(developmentKey('provider'), rpcUrl).account,
      chain: wallet.chain ?? null,
    })
    await publicClient.waitForTransactionReceipt({ hash })
    expect(await depositFromInbox({ wallet, publicClient, contracts })).toBe(77n)
    expect(await depositFromInbox({ wallet, publicClient, contracts })).toBe(0n)
  })

  test('behavior: the same receipt settled twice pays nothing the second time', async () => {
    const before = await earningsOf(marketplace, 'provider')
    expect((await settleNow(runner)).transactions).toHaveLength(0)
    expect(await earningsOf(marketplace, 'provider')).toBe(before)
  })

  test('refusal: a buyer whose deposit does not reach', async () => {
    const stranger = localBuyer(marketplace, developmentKey('a stranger without money'))
    await expect(stranger.infer(digest, [pixels(1)])).rejects.toMatchObject({ code: 'unfunded', status: 402 })
  })

  test('refusal: a price above the cap, before anything is sent', async () => {
    await expect(localBuyer(marketplace).infer(digest, [pixels(1)], { maxPrice: 999n })).rejects.toMatchObject({
      reason: 'price_above_cap',
    })
  })

  test.each([
    ['name', { ...pixels(1), name: 'picture' }, 'not one of the tensors'],
    ['type', { ...pixels(1), datatype: 'FP64' as const }, 'takes FP32'],
    ['shape', { ...pixels(1), shape: [64] }, 'takes shape'],
    ['length', { ...pixels(1), data: new Uint8Array(8) }, 'takes 256 bytes'],
  ])('refusal: a tensor with the wrong %s', async (_, tensor, message) => {
    await expect(localBuyer(marketplace).infer(digest, [tensor])).rejects.toThrow(message)
  })

  test('refusal: an SDK that was not told of the development root buys nothing', async () => {
    const { Assay } = await import('../../client/assay.ts')
    const { createSigner } = await import('../../protocol/secp256k1.ts')
    const { fromHex } = await import('../../protocol/bytes.ts')
    const strict = new Assay({ edge: marketplace.edgeUrl, signer: createSigner(fromHex(developmentKey('buyer'), 32)) })
    await expect(strict.infer(digest, [pixels(1)])).rejects.toMatchObject({ reason: 'development_root' })
  })

  test('refusal: a hostile graph is not listed, and the answer says why', async () => {
    const buyer = localBuyer(marketplace)
    const { graph } = sampleModel()
    await expect(list(buyer, runner, graph.slice(0, 1_000), 'cut')).rejects.toMatchObject({ code: 'truncated' })
    await expect(list(buyer, runner, new Uint8Array(0), 'empty')).rejects.toMatchObject({ code: 'no_graph' })
    const response = await fetch(`${marketplace.edgeUrl}/v1/artifacts/${'0'.repeat(64)}`, {
      method: 'PUT',
      body: graph,
    })
    expect(await response.json()).toMatchObject({ code: 'digest_mismatch', status: 422 })
  })

  test('behavior: the edge is restarted in the middle of jobs; every buyer gets an answer and is charged once', async () => {
    const buyer = localBuyer(marketplace)
    await buyer.infer(digest, [pixels(0)])
    const buying = Array.from({ length: 20 }, (_, index) => buyer.infer(digest, [pixels(index % 10, index)]))
    await marketplace.restartEdge()
    const answers = await Promise.all(buying)
    const jobs = answers.map(({ receipt }) => receipt.job)
    const highest = answers.map(({ receipt }) => receipt.cumulative).reduce((a, b) => (a > b ? a : b))
    expect(new Set(jobs).size).toBe(20)
    // Jobs whose channel was given up on are unpaid; on the channel that answered, the total is one price a job.
    const channel = toHex(answers.at(-1)!.receipt.channel)
    const same = answers.filter(({ receipt }) => toHex(receipt.channel) === channel).length
    expect(highest).toBeLessThanOrEqual(BigInt(same + 1) * 1_000n)
  })

  test('behavior: the runner is killed between inference and answer; its successor gives the journalled answer, charged once', async () => {
    const sent: Uint8Array[] = []
    let dropNext = true
    const lossy: typeof fetch = async (input, init) => {
      const response = await fetch(input, init)
      if (!String(input).endsWith('/jobs') || !(init?.body instanceof Uint8Array)) return response
      sent.push(init.body)
      if (!dropNext || !response.ok) return response
      // The runner has journalled and answered; the answer is lost on the way and the machine dies.
      dropNext = false
      const ended = new Promise((resolve) => runner.child.once('exit', resolve))
      runner.child.kill('SIGKILL')
      await ended
      runner = await marketplace.startRunner()
      throw new TypeError('connection reset')
    }
    const { Assay } = await import('../../client/assay.ts')
    const { createSigner } = await import('../../protocol/secp256k1.ts')
    const { fromHex } = await import('../../protocol/bytes.ts')
    const { readDevelopmentRoots } = await import('../../protocol/evidence/roots.development.ts')
    const buyer = new Assay({
      edge: marketplace.edgeUrl,
      signer: createSigner(fromHex(developmentKey('buyer'), 32)),
      roots: [readDevelopmentRoots(marketplace.chain.chainId, marketplace.developmentRoot)],
      fetch: lossy,
    })
    const predecessor = runner.signer
    const answer = await eventually(() => buyer.infer(digest, [pixels(5)]))
    expect(answer.runner).toBe(predecessor)
    const bodies = sent.map((bytes) => {
      const frame = decodeFrame(bytes)
      return frame.type === 'jobRequest' ? toHex(frame.body) : ''
    })
    expect(new Set(bodies).size).toBe(1)
    expect(bodies.length).toBeGreaterThan(1)
    expect(answer.receipt.cumulative).toBe(1_000n)

    await settleNow(runner)
    const channel = toHex(answer.receipt.channel)
    const settled = await marketplace.chain.publicClient.readContract({
      address: marketplace.contracts.escrow,
      abi: escrowAbi,
      functionName: 'settled',
      args: [channel],
    })
    expect(settled).toBe(1_000n)
  })

  test('behavior: the database is down: known models go on selling, others get a clear 503 and no charge', async () => {
    const before = await earningsOf(marketplace, 'provider')
    const match = async (model: Hex) => {
      const response = await fetch(`${marketplace.edgeUrl}/v1/matches`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model }),
      })
      return { status: response.status, body: await response.json() }
    }
    expect((await match(digest)).status).toBe(200)
    await marketplace.stopDatabase()
    await new Promise((resolve) => setTimeout(resolve, 2_500))
    expect((await match(digest)).status).toBe(200)
    const unknown = await match(`0x${'00'.repeat(32)}`)
    expect(unknown).toMatchObject({
      status: 503,
      body: { code: 'unavailable', hint: expect.stringContaining('nothing was charged') },
    })
    await settleNow(runner)
    expect(await earningsOf(marketplace, 'provider')).toBe(before)
    const health = await fetch(`${marketplace.edgeUrl}/health`)
    expect(await health.json()).toMatchObject({ status: 'degraded', database: 'down', chain: 'up' })
  })
})
