import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createAdaptorServer } from '@hono/node-server'
import { type Account, createWalletClient, http, maxUint256, type WalletClient } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { anvil } from 'viem/chains'
import { testTokenAbi } from '../contracts/abi.ts'
import { nodeFlags } from '../gpu-runner/nodeFlags.ts'
import { createDevelopmentTee, developmentPccs } from '../gpu-runner/tee/development.ts'
import { createDevelopmentSnp, type DevelopmentSnp, developmentKds } from '../gpu-runner/tee/developmentSnp.ts'
import { fromHex, type Hex, toBase64 } from '../protocol/bytes.ts'
import { vendorRoots } from '../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../protocol/evidence/roots.development.ts'
import { workloadOf } from '../protocol/evidence/workload.ts'
import { readVerifierConfig } from '../verifier/config.ts'
import { serveVerifier } from '../verifier/serve.ts'
import { type Chain, startChain } from './chain.ts'
import { buildContracts } from './contracts.ts'
import { type Contracts, deployContracts } from './deploy.ts'
import { migrate, startEdge } from './edge.ts'
import { developmentKey, developmentSeed, parties } from './keys.ts'
import { startNeon } from './neon.ts'
import { startPostgres } from './postgres.ts'
import { childrenOf, stopProcess } from './processes.ts'
import type { Progress } from './progress.ts'

/** The escrow's fee in a local marketplace, in basis points. */
const localFeeBps = 100
/** The escrow's withdrawal delay in a local marketplace, in seconds. */
const localWithdrawalDelaySeconds = 60

/** Holds a running runner process. */
export type RunnerProcess = { child: ChildProcess; controlUrl: string; signer: Hex; stop(): Promise<void> }

/** Holds a running marketplace. */
export type Marketplace = {
  edgeUrl: string
  rpcUrl: string
  chain: Chain
  contracts: Contracts
  /** The development roots, base64 DER separated by commas, which buyers have to allow explicitly. */
  developmentRoot: string
  /** Where the local verifiers judge what the chain cannot. */
  verifierUrls: readonly string[]
  startRunner(options?: {
    name?: string
    environment?: Record<string, string>
    onLog?: (line: string) => void
  }): Promise<RunnerProcess>
  /** Has the edge read the chain now, or do its hourly work: the books among it. It reads the chain by itself every second. */
  tick(work?: 'index' | 'hourly'): Promise<void>
  restartEdge(): Promise<void>
  /** Kills one of the services without a word and starts it again at the same address. */
  crash(service: 'edge' | 'database' | 'chain'): Promise<void>
  stopDatabase(): Promise<void>
  stop(): Promise<void>
}

/** How often a local edge reads the chain, in milliseconds. */
const indexMs = 1_000
/** When the Worker's clock calls, as in wrangler.toml. */
const crons = { index: '* * * * *', hourly: '23 * * * *' }

const root = join(import.meta.dirname, '..')

/** The machines a local marketplace plays. */
type Machines = { tee: ReturnType<typeof createDevelopmentTee>; snp: DevelopmentSnp }

/** Who judges what the chain cannot, ascending by address; all of them must agree. */
const localVerifiers = ['verifier one', 'verifier two']
  .map((name) => ({
    key: developmentKey(name),
    address: privateKeyToAccount(developmentKey(name)).address.toLowerCase() as Hex,
  }))
  .sort((a, b) => (a.address < b.address ? -1 : 1))

/** Holds what a local marketplace leaves for the `assay` command to find. */
export type LocalState = {
  edge: string
  rpc: string
  chainId: number
  contracts: Contracts
  developmentRoot: string
  keys: { publisher: Hex; buyer: Hex; provider: Hex }
}

/** Gives the wallet of a party on a local chain. */
export function walletOf(key: Hex, rpcUrl: string): WalletClient & { account: Account } {
  return createWalletClient({
    account: privateKeyToAccount(key),
    chain: anvil,
    transport: http(rpcUrl),
  }) as WalletClient & { account: Account }
}

async function deployOrFind(
  chain: Chain,
  stateDir: string,
  progress: Progress,
  { tee, snp }: Machines,
): Promise<{ contracts: Contracts; fresh: boolean }> {
  const file = join(stateDir, 'contracts.json')
  if (existsSync(file)) {
    const { version, ...contracts } = JSON.parse(readFileSync(file, 'utf8')) as Contracts & { version?: string }
    if (version !== contractsVersion()) {
      throw new Error(
        `The marketplace kept in ${stateDir} has contracts of another version, with which this one cannot speak. Delete that folder to begin anew.`,
      )
    }
    const code = await chain.publicClient.getCode({ address: contracts.escrow })
    if (code) {
      // A restored chain has forgotten its block hashes, and a quote's nonce is a recent one.
      await chain.testClient.mine({ blocks: 2 })
      return { contracts, fresh: false }
    }
  }
  const artifacts = await progress('compiling contracts', async () => buildContracts())
  const contracts = await progress('deploying contracts', async () => {
    for (const party of parties) {
      const { address } = privateKeyToAccount(developmentKey(party))
      await chain.testClient.setBalance({ address, value: 10n ** 21n })
    }
    const deployed = await deployContracts({
      artifacts,
      wallet: walletOf(developmentKey('deployer'), chain.rpcUrl),
      publicClient: chain.publicClient,
      treasury: privateKeyToAccount(developmentKey('treasury')).address,
      feeBps: localFeeBps,
      withdrawalDelaySeconds: localWithdrawalDelaySeconds,
      rootDer: tee.rootDer,
      workloads: [
        workloadOf({ format: 'tdx', quote: tee.quote(new Uint8Array(64)) }),
        workloadOf({ format: 'snp', report: snp.report(new Uint8Array(64)) }),
      ],
      verifiers: { addresses: localVerifiers.map(({ address }) => address), threshold: localVerifiers.length },
    })
    const buyer = walletOf(developmentKey('buyer'), chain.rpcUrl)
    const write = { account: buyer.account, chain: anvil, address: deployed.token, abi: testTokenAbi } as const
    for (const hash of [
      await buyer.writeContract({ ...write, functionName: 'mint', args: [buyer.account.address, 1_000_000_000n] }),
      await buyer.writeContract({ ...write, functionName: 'approve', args: [deployed.escrow, maxUint256] }),
    ]) {
      await chain.publicClient.waitForTransactionReceipt({ hash })
    }
    return deployed
  })
  writeFileSync(file, JSON.stringify({ ...contracts, version: contractsVersion() }))
  return { contracts, fresh: true }
}

/** Names the contracts' interface: what was deployed under another one cannot be spoken with. */
function contractsVersion(): string {
  const source = readFileSync(new URL('../contracts/abi.ts', import.meta.url))
  return createHash('sha256').update(source).digest('hex').slice(0, 16)
}

async function startCollateral({ tee, snp }: Machines) {
  const [pccs, kds] = [developmentPccs(tee), developmentKds(snp)]
  const serve = (request: Request) =>
    /^\/(vcek|vlek)\//.test(new URL(request.url).pathname) ? kds(request) : pccs(request)
  const server = createAdaptorServer({ fetch: serve }) as Server
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}

async function spawnRunner(environment: Record<string, string>, onLog: (line: string) => void): Promise<RunnerProcess> {
  const child = spawn(process.execPath, [...nodeFlags, join(root, 'gpu-runner/main.ts')], {
    env: { PATH: process.env.PATH ?? '', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let errors = ''
  child.stderr!.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-4_000)
  })
  const ready = await new Promise<{ signer: Hex; controlPort: number }>((resolve, reject) => {
    let rest = ''
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      reject(new Error(`The runner was not ready after 60 s. ${errors}`))
    }, 60_000)
    child.stdout!.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split('\n')
      rest = lines.pop()!
      for (const line of lines) {
        onLog(line)
        const event = JSON.parse(line) as { event: string; signer: Hex; controlPort: number; message?: string }
        if (event.event === 'setup_failed') errors = event.message ?? ''
        if (event.event !== 'ready') continue
        clearTimeout(timer)
        resolve(event)
      }
    })
    child.once('exit', (code) => {
      clearTimeout(timer)
      reject(new Error(`The runner ended with ${code} before it was ready. ${errors}`))
    })
  })
  return {
    child,
    signer: ready.signer,
    controlUrl: `http://127.0.0.1:${ready.controlPort}`,
    stop: () => stopProcess(child, 20_000),
  }
}

/** Brings up database, chain, contracts, collateral service and edge, with all state under `stateDir`. Runners are started by the caller. Whatever fails, what was started is stopped. */
export async function startMarketplace({
  stateDir,
  progress,
}: {
  stateDir: string
  progress: Progress
}): Promise<Marketplace> {
  mkdirSync(stateDir, { recursive: true })
  const stops: (() => Promise<unknown>)[] = []
  const stop = async () => {
    for (const each of stops.splice(0).reverse()) await each().catch(() => {})
  }
  try {
    const seeded = { seed: fromHex(developmentSeed, 32), now: () => Math.floor(Date.now() / 1000) }
    const machines = { tee: createDevelopmentTee(seeded), snp: await createDevelopmentSnp(seeded) }
    const developmentRoot = [machines.tee.rootDer, (await machines.snp.collateral()).root].map(toBase64).join(',')
    const chain = await progress('starting chain', () => startChain({ stateDir: join(stateDir, 'chain') }))
    stops.push(chain.stop)
    const { contracts, fresh } = await deployOrFind(chain, stateDir, progress, machines)
    // A new chain knows nothing of what an old database remembers, so the two begin together.
    if (fresh)
      for (const folder of ['postgres', 'edge', 'runner'])
        rmSync(join(stateDir, folder), { recursive: true, force: true })

    const postgres = await progress('starting database', async () => {
      const started = await startPostgres({ stateDir })
      await migrate(started.url)
      return started
    })
    let databaseStopped = false
    const stopDatabase = async () => {
      if (databaseStopped) return
      databaseStopped = true
      await postgres.dispose()
    }
    stops.push(stopDatabase)
    const neon = await startNeon({ databaseUrl: postgres.url })
    stops.push(neon.dispose)
    const collateral = await startCollateral(machines)
    stops.push(collateral.stop)

    const verifiers = await Promise.all(
      localVerifiers.map(({ key, address }) =>
        serveVerifier(
          readVerifierConfig({
            VERIFIER_KEY: key,
            VERIFIER_RPC: chain.rpcUrl,
            VERIFIER_CHAIN_ID: String(chain.chainId),
            VERIFIER_ESCROW: contracts.escrow,
            VERIFIER_REGISTRY: contracts.registry,
            VERIFIER_STATE: join(stateDir, 'verifiers', address),
            VERIFIER_PORT: '0',
            VERIFIER_COLLATERAL_URL: collateral.url,
            VERIFIER_AMD_COLLATERAL_URL: collateral.url,
          }),
          [vendorRoots, readDevelopmentRoots(chain.chainId, developmentRoot)],
          () => {},
        ),
      ),
    )
    for (const verifier of verifiers) stops.push(verifier.stop)

    const vars = {
      DATABASE_URL: postgres.url,
      DATABASE_ENDPOINT: neon.url,
      RPC_URL: chain.rpcUrl,
      CHAIN_ID: String(chain.chainId),
      ESCROW: contracts.escrow,
      REGISTRY: contracts.registry,
      POLICY: contracts.policy,
      ATTESTED_INFERENCE: contracts.attestedInference,
      TOKEN: contracts.token,
      STAKE: contracts.stake,
      // Local blocks come with transactions only: nothing would ever stand on the newest one.
      CONFIRMATIONS: '0',
      FEE_BPS: String(localFeeBps),
      COLLATERAL_URL: collateral.url,
      AMD_COLLATERAL_URL: collateral.url,
      DEVELOPMENT_ROOT: developmentRoot,
      LOCAL_WEBHOOKS: 'yes',
      CLAIMS_AFTER_SECONDS: '1',
    }
    let edge = await progress('starting edge', () => startEdge({ stateDir, vars }))
    stops.push(() => edge.dispose())
    // A call waits for the one before: a chain that is away keeps it for seconds.
    let busy = false
    const clock = setInterval(async () => {
      if (busy) return
      busy = true
      await edge.tick(crons.index).catch(() => {})
      busy = false
    }, indexMs)
    clock.unref()
    stops.push(async () => clearInterval(clock))
    const port = Number(new URL(edge.url).port)

    return {
      edgeUrl: edge.url,
      rpcUrl: chain.rpcUrl,
      chain,
      contracts,
      developmentRoot,
      verifierUrls: verifiers.map(({ url }) => url),
      async startRunner({ name = 'runner', environment = {}, onLog = () => {} } = {}) {
        const runner = await spawnRunner(
          {
            ASSAY_EDGE: edge.url,
            ASSAY_RPC: chain.rpcUrl,
            ASSAY_PROVIDER_KEY: developmentKey('provider'),
            ASSAY_STATE: join(stateDir, name),
            ASSAY_TEE: 'development',
            ASSAY_DEVELOPMENT_SEED: developmentSeed,
            ASSAY_VERIFIERS: verifiers.map(({ url }) => url).join(','),
            // Several runners may share this machine, and everything else runs on it too.
            ASSAY_EXECUTORS: '1',
            ...environment,
          },
          onLog,
        )
        stops.push(runner.stop)
        return runner
      },
      tick: (work = 'index') => edge.tick(crons[work]),
      async restartEdge() {
        await edge.dispose()
        edge = await startEdge({ stateDir, vars, port })
      },
      async crash(service) {
        if (service === 'chain') return chain.crash()
        if (service === 'database') return postgres.crash()
        for (const id of await childrenOf(process.pid, 'workerd')) process.kill(id, 'SIGKILL')
        await edge.dispose().catch(() => {})
        edge = await startEdge({ stateDir, vars, port })
      },
      stopDatabase,
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}
