import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createPublicClient, createTestClient, http, type PublicClient, type TestClient } from 'viem'
import { anvil } from 'viem/chains'
import { freePort, killProcess, stopProcess, untilReady } from './processes.ts'

/** Finds anvil itself: npm's launcher stands in front of it and would take the signals meant for it. */
function anvilBinary(): string {
  const require = createRequire(import.meta.url)
  const arch = process.arch === 'x64' ? 'amd64' : process.arch
  try {
    return require.resolve(`@foundry-rs/anvil-${process.platform}-${arch}/bin/anvil`)
  } catch {
    return join(import.meta.dirname, '../node_modules/.bin/anvil')
  }
}

/** Holds a running local EVM chain and clients for it. */
export type Chain = {
  rpcUrl: string
  chainId: number
  publicClient: PublicClient
  testClient: TestClient
  /** Kills the chain as a power cut would, and starts it again from what it had written. Needs a `stateDir`. */
  crash(): Promise<void>
  stop(): Promise<void>
}

/** Starts anvil with the Osaka rules (P-256 precompile) on a free port; with `stateDir`, state is kept there between runs. Throws when it does not answer within 20 s. */
export async function startChain({
  stateDir,
  port,
  chainId = anvil.id,
  genesisTime,
}: {
  stateDir?: string
  port?: number
  chainId?: number
  /** Time of the first block, in unix seconds; the chain's clock runs on from there. */
  genesisTime?: number
} = {}): Promise<Chain> {
  const chosen = port ?? (await freePort())
  const args = [
    '--port',
    String(chosen),
    '--host',
    '127.0.0.1',
    '--hardfork',
    'osaka',
    '--accounts',
    '1',
    '--silent',
    '--chain-id',
    String(chainId),
  ]
  if (genesisTime !== undefined) args.push('--timestamp', String(genesisTime))
  if (stateDir) {
    await mkdir(stateDir, { recursive: true })
    // Written every second as well as on exit, so that a killed chain loses at most a second.
    args.push('--state', join(stateDir, 'anvil.json'), '--state-interval', '1')
  }
  const launch = (): ChildProcess => spawn(anvilBinary(), args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let child = launch()
  const rpcUrl = `http://127.0.0.1:${chosen}`
  const transport = http(rpcUrl, { retryCount: 0 })
  const publicClient = createPublicClient({
    chain: anvil,
    transport,
    pollingInterval: 50,
    cacheTime: 0,
  }) as PublicClient
  const testClient = createTestClient({ chain: anvil, mode: 'anvil', transport }) as TestClient
  const ready = () => untilReady('chain', child, 20_000, async () => (await publicClient.getChainId()) === chainId)
  await ready()
  return {
    rpcUrl,
    chainId,
    publicClient,
    testClient,
    async crash() {
      await killProcess(child)
      child = launch()
      await ready()
      // A restored chain has forgotten its block hashes, and a quote's nonce is a recent one.
      await testClient.mine({ blocks: 2 })
    },
    stop: () => stopProcess(child),
  }
}
