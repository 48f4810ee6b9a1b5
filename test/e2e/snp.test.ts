import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runnerRegistryAbi } from '../../contracts/abi.ts'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { digitTensor, sampleModel } from '../../dev/sample/model.ts'
import { localBuyer } from '../../dev/story.ts'
import { defaultPolicy, vendorRoots } from '../../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../../protocol/evidence/roots.development.ts'
import { type PublishedVerdict, replayVerdict } from '../../protocol/publishedVerdict.ts'
import { eventually, fund, list, openMarketplace } from './marketplace.ts'

const pixels = (seed: number) => digitTensor(seed % 10, seed)

describe('a machine whose evidence the chain cannot verify', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let runner: RunnerProcess
  const asSnp = { ASSAY_DEVELOPMENT_TEE: 'snp' }

  beforeAll(async () => {
    ;({ marketplace, close } = await openMarketplace())
    await fund(marketplace, 1_000_000n)
    runner = await marketplace.startRunner({ environment: asSnp })
  })
  afterAll(async () => {
    await close?.()
  })

  const registered = () =>
    marketplace.chain.publicClient.getContractEvents({
      address: marketplace.contracts.registry,
      abi: runnerRegistryAbi,
      eventName: 'RunnerRegistered',
      args: { runner: runner.signer },
      fromBlock: 0n,
      strict: true,
    })

  test('behavior: an SNP machine registers on the word of the verifiers, sells, and is paid', async () => {
    const buyer = localBuyer(marketplace)
    const { graph } = sampleModel()
    const digest = await list(buyer, runner, graph, 'digits')
    const answer = await eventually(() => buyer.infer(digest, [pixels(1)], { requirements: { tee: 'snp' } }))
    expect(answer.verdict).toMatchObject({ verdict: 'verified', tee: 'snp', root: 'development' })
    expect(answer.runner).toBe(runner.signer)
    const settled = await (await fetch(`${runner.controlUrl}/settle`, { method: 'POST' })).json()
    expect(settled).toMatchObject({ channels: 1 })
    const stored = await marketplace.chain.publicClient.readContract({
      address: marketplace.contracts.registry,
      abi: runnerRegistryAbi,
      functionName: 'runners',
      args: [runner.signer],
    })
    expect(stored[4]).toBe(2)
  })

  test('behavior: what the chain was told can be replayed by anyone from what each verifier publishes', async () => {
    const [event] = await registered()
    const roots = [vendorRoots, readDevelopmentRoots(marketplace.chain.chainId, marketplace.developmentRoot)]
    const signers = new Set<string | null>()
    for (const url of marketplace.verifierUrls) {
      const response = await fetch(`${url}/v1/verdicts/${event!.args.evidence}`)
      const published = (await response.json()) as PublishedVerdict
      const replay = await replayVerdict(published, { roots, policy: defaultPolicy })
      expect(replay.checks.filter(({ status }) => status === 'failed')).toEqual([])
      expect(replay.verdict).toBe('verified')
      signers.add(replay.verifier)
    }
    expect(signers.size).toBe(marketplace.verifierUrls.length)
    const words = ['verdict', 'replay', `${marketplace.verifierUrls[0]}/v1/verdicts/${event!.args.evidence}`]
    const { stdout } = await promisify(execFile)(
      'node',
      ['client/cli.mjs', ...words, '--development-root', marketplace.developmentRoot, '--json'],
      { cwd: join(import.meta.dirname, '../..'), env: { PATH: process.env.PATH } },
    )
    expect(JSON.parse(stdout)).toMatchObject({ verdict: 'verified', attested: { signer: runner.signer, tee: 2 } })
  })

  test('refusal: an SNP machine that knows too few verifiers is told how many must agree', async () => {
    const environment = { ...asSnp, ASSAY_VERIFIERS: marketplace.verifierUrls[0]! }
    await expect(marketplace.startRunner({ name: 'lonely', environment })).rejects.toThrow('2 verifiers must agree')
    const none = { ...asSnp, ASSAY_VERIFIERS: '' }
    await expect(marketplace.startRunner({ name: 'alone', environment: none })).rejects.toThrow('ASSAY_VERIFIERS')
  })
})
