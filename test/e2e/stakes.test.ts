import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { testTokenAbi } from '../../contracts/abi.ts'
import { developmentKey } from '../../dev/keys.ts'
import { type Marketplace, type RunnerProcess, walletOf } from '../../dev/marketplace.ts'
import { createRandom, drawDigit } from '../../dev/sample/glyphs.ts'
import { sampleModel } from '../../dev/sample/model.ts'
import { localBuyer } from '../../dev/story.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { admit, eventually, fund, list, openMarketplace } from './marketplace.ts'

/** A provider stakes, and a buyer gets what vouches for its answers, or is told why not. */
describe('stakes in a marketplace', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let staked: RunnerProcess
  let bare: RunnerProcess
  let digest: Hex
  const folder = mkdtempSync(join(tmpdir(), 'assay-stakes-'))

  beforeAll(async () => {
    ;({ marketplace, close } = await openMarketplace())
    await fund(marketplace, 1_000_000n)
    ;[staked, bare] = await Promise.all([
      marketplace.startRunner({ name: 'staked' }),
      marketplace.startRunner({ name: 'bare' }),
    ])
    digest = await list(localBuyer(marketplace), staked, sampleModel().graph, 'digits')
    await admit(bare, digest)
    const { chain, contracts, rpcUrl } = marketplace
    const { account, ...provider } = walletOf(developmentKey('provider'), rpcUrl)
    const hash = await provider.writeContract({
      account,
      chain: null,
      address: contracts.token,
      abi: testTokenAbi,
      functionName: 'mint',
      args: [account.address, 10_000n],
    })
    await chain.publicClient.waitForTransactionReceipt({ hash })
    const data = Array.from(drawDigit(5, createRandom(1)))
    const inputs = [{ name: 'pixels', datatype: 'FP32', shape: [1, 64], data }]
    writeFileSync(join(folder, 'tensors.json'), JSON.stringify({ inputs }))
  }, 180_000)
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true })
    await close?.()
  })

  const assay = async (party: string, ...args: string[]) => {
    const cli = join(import.meta.dirname, '../../client/cli.ts')
    const { edgeUrl, rpcUrl, developmentRoot } = marketplace
    const env = {
      PATH: process.env.PATH ?? '',
      ASSAY_EDGE: edgeUrl,
      ASSAY_RPC: rpcUrl,
      ASSAY_DEVELOPMENT_ROOT: developmentRoot,
      ASSAY_KEY: developmentKey(party),
    }
    return new Promise<{ exit: number; errors: string; result: Record<string, never> }>((resolve) =>
      execFile(
        process.execPath,
        ['--no-warnings', cli, ...args, '--json'],
        { env, cwd: folder },
        (error, out, errors) => resolve({ exit: error ? Number(error.code) : 0, errors, result: JSON.parse(out) }),
      ),
    )
  }
  const buy = (...args: string[]) => assay('buyer', 'buy', digest, '--input', 'tensors.json', ...args)

  test('behavior: nobody has staked: a buyer who asks for it is told who lacks what, and pays nothing', async () => {
    await eventually(() =>
      localBuyer(marketplace).edge.json('/v1/matches', { method: 'POST', body: { model: digest } }),
    )
    const { exit, errors, result } = await buy('--min-stake', '1')
    expect([exit, result.error]).toEqual([
      1,
      expect.objectContaining({ code: 'no_match', reasons: [{ reason: 'stake', count: 2 }] }),
    ])
    expect(errors).toContain('2 refused for stake')
    expect(errors).toContain('has stake 0; 1 was required')
  }, 60_000)

  test('behavior: a provider stakes, and whoever asks for as much gets that runner and no other', async () => {
    const added = await assay('provider', 'stake', 'add', staked.signer, '5000')
    expect(added).toMatchObject({ exit: 0, result: { amount: '5000' } })
    await marketplace.tick()
    const { result } = await assay('buyer', 'runners')
    const stakes = (result as unknown as { signer: Hex; stake: object }[]).map(({ signer, stake }) => [signer, stake])
    expect(Object.fromEntries(stakes)).toMatchObject({
      [staked.signer]: { amount: '5000', cover: '5000', slashed: false },
      [bare.signer]: { amount: '0', cover: '0' },
    })
    for (let round = 0; round < 3; round++) {
      const bought = await buy('--min-stake', '5000')
      expect(bought).toMatchObject({ exit: 0, result: { runner: staked.signer, receiptVerified: true } })
    }
    const more = await buy('--min-stake', '5001')
    expect(more.errors).toContain(`${staked.signer}, has stake 5000; 5001 was required`)
    const odd = await buy('--min-stake', 'much')
    expect([odd.exit, odd.errors]).toEqual([2, expect.stringContaining('--min-stake takes a whole number')])
  }, 120_000)

  test('behavior: the buyer sees what is reserved, and the payees what they earn, divided or not', async () => {
    const sold = { price: 1_000, count: 3 }
    const whole = sold.price * sold.count
    const before = await assay('buyer', 'balance')
    expect(before.result).toMatchObject({ deposit: '1000000', requested: '0' })
    const { available, reserved } = before.result as unknown as Record<string, string>
    expect(BigInt(available!) + BigInt(reserved!)).toBe(1_000_000n)
    expect(BigInt(reserved!)).toBeGreaterThanOrEqual(BigInt(whole))

    const settled = await fetch(`${staked.controlUrl}/settle`, { method: 'POST' })
    expect(settled.status).toBe(200)
    await marketplace.tick()
    expect((await assay('buyer', 'balance')).result).toMatchObject({ deposit: String(1_000_000 - whole) })
    // One hundredth is the escrow's, one tenth the publisher's.
    const publisher = await assay('publisher', 'balance')
    expect(publisher.result).toMatchObject({ earnings: '0', undivided: String(whole / 10) })
    const provider = await assay('provider', 'balance')
    expect(provider.result).toMatchObject({
      earnings: '0',
      undivided: String(whole - whole / 10 - whole / 100),
      staked: '5000',
      stakeRequested: '0',
      owedBySlashes: '0',
    })
    expect((await assay('publisher', 'collect', '--of', 'publisher')).result).toEqual({ amount: String(whole / 10) })
    await marketplace.tick()
    expect((await assay('provider', 'balance')).result).toMatchObject({
      earnings: String(whole - whole / 10 - whole / 100),
      undivided: '0',
    })
  }, 120_000)
})
