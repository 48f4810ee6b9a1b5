import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Assay } from '../../client/assay.ts'
import { depositTokens } from '../../client/escrow.ts'
import { publishModel } from '../../client/publish.ts'
import { tryModel } from '../../client/tryModel.ts'
import { developmentKey } from '../../dev/keys.ts'
import { type Marketplace, type RunnerProcess, startMarketplace, walletOf } from '../../dev/marketplace.ts'
import { fromHex, type Hex } from '../../protocol/bytes.ts'
import { createSigner } from '../../protocol/secp256k1.ts'

/** Starts a marketplace in a folder of its own, and gives what ends it. */
export async function openMarketplace(): Promise<{
  marketplace: Marketplace
  stateDir: string
  close: () => Promise<void>
}> {
  const stateDir = mkdtempSync(join(tmpdir(), 'assay-e2e-'))
  const marketplace = await startMarketplace({ stateDir, progress: (_, work) => work() })
  return {
    marketplace,
    stateDir,
    async close() {
      await marketplace.stop()
      rmSync(stateDir, { recursive: true, force: true })
    },
  }
}

/** Lists a model and has the runner admit it; throws when either refuses. */
export async function list(
  buyer: Assay,
  runner: RunnerProcess,
  graph: Uint8Array,
  name: string,
  price = 1_000n,
): Promise<Hex> {
  const { digest } = await publishModel(buyer.edge, {
    graph,
    name,
    version: randomBytes(4).toString('hex'),
    licence: 'Apache-2.0',
    price,
    royaltyBps: 1_000,
    signer: createSigner(fromHex(developmentKey('publisher'), 32)),
    network: await buyer.network(),
    now: Date.now,
    check: tryModel,
  })
  await admit(runner, digest)
  return digest
}

/** Has a runner look for new listings now, and waits until the directory shows it. */
export async function admit(runner: RunnerProcess, digest: Hex): Promise<void> {
  const response = await fetch(`${runner.controlUrl}/models`, { method: 'POST' })
  const { models = [] } = (await response.json()) as { models?: Hex[] }
  if (!models.includes(digest)) throw new Error('The runner did not admit the model.')
}

/** Repeats a purchase while the directory does not show the runner yet. */
export async function eventually<T>(attempt: () => Promise<T>): Promise<T> {
  for (let left = 40; ; left--) {
    try {
      return await attempt()
    } catch (error) {
      if ((error as { code?: string }).code !== 'no_match' || left === 0) throw error
      await new Promise((resolve) => setTimeout(resolve, 250))
    }
  }
}

/** Deposits for the buyer. */
export function fund(marketplace: Marketplace, amount: bigint): Promise<Hex> {
  const { chain, contracts, rpcUrl } = marketplace
  return depositTokens({
    wallet: walletOf(developmentKey('buyer'), rpcUrl),
    publicClient: chain.publicClient,
    contracts,
    amount,
  })
}
