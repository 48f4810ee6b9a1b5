import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Account, createWalletClient, http, maxUint256, type WalletClient } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { anvil } from 'viem/chains'
import { testTokenAbi } from '../contracts/abi.ts'
import { createDevelopmentTee, developmentPccs } from '../gpu-runner/tee/development.ts'
import { fromHex, type Hex, toBase64 } from '../protocol/bytes.ts'
import { parseTdxQuote, tdxWorkload } from '../protocol/evidence/quote.ts'
import { type Chain, startChain } from './chain.ts'
import { buildContracts } from './contracts.ts'
import { type Contracts, deployContracts } from './deploy.ts'
import { migrate, startEdge } from './edge.ts'
import { developmentKey, developmentSeed, parties } from './keys.ts'
import { startNeon } from './neon.ts'
import { startPostgres } from './postgres.ts'
import { stopProcess } from './processes.ts'
import type { Progress } from './progress.ts'

/** The escrow's fee in a local marketplace, in basis points. */
export const localFeeBps = 100
/** The escrow's withdrawal delay in a local marketplace, in seconds. */
export const localWithdrawalDelaySeconds = 60

/** Holds a running runner process. */
export type RunnerProcess = { child: ChildProcess; controlUrl: string; signer: Hex; stop(): Promise<void> }

/** Holds a running marketplace. */
export type Marketplace = {
  edgeUrl: string
  rpcUrl: string
  chain: Chain
  contracts: Contracts
  /** Base64 DER of the development root, which buyers have to allow explicitly. */
  developmentRoot: string
  startRunner(options?: {
    name?: string
    environment?: Record<string, string>
    onLog?: (line: string) => void
  }): Promise<RunnerProcess>
  restartEdge(): Promise<void>
  stopDatabase(): Promise<void>
  stop(): Promise<void>
}

const root = join(import.meta.dirname, '..')

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
  tee: ReturnType<typeof createDevelopmentTee>,
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
      workloads: [tdxWorkload(parseTdxQuote(tee.quote(new Uint8Array(64))).body)],
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

async function startCollateral(tee: ReturnType<typeof createDevelopmentTee>) {
  const serve = developmentPccs(tee)
  const server = createServer(async (request, response) => {
    const answer = serve(new Request(`http://127.0.0.1${request.url ?? '/'}`))
    response.writeHead(answer.status, Object.fromEntries(answer.headers))
    response.end(Buffer.from(await answer.arrayBuffer()))
  })
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
  const child = spawn(process.execPath, ['--no-warnings', join(root, 'gpu-runner/main.ts')], {
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
    const tee = createDevelopmentTee({ seed: fromHex(developmentSeed, 32), now: () => Math.floor(Date.now() / 1000) })
    const chain = await progress('starting chain', () => startChain({ stateDir: join(stateDir, 'chain') }))
    stops.push(chain.stop)
    const { contracts, fresh } = await deployOrFind(chain, stateDir, progress, tee)
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
    const collateral = await startCollateral(tee)
    stops.push(collateral.stop)

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
      FEE_BPS: String(localFeeBps),
      COLLATERAL_URL: collateral.url,
      DEVELOPMENT_ROOT: toBase64(tee.rootDer),
      LOCAL_WEBHOOKS: 'yes',
    }
    let edge = await progress('starting edge', () => startEdge({ stateDir, vars }))
    stops.push(() => edge.dispose())
    const port = Number(new URL(edge.url).port)

    return {
      edgeUrl: edge.url,
      rpcUrl: chain.rpcUrl,
      chain,
      contracts,
      developmentRoot: toBase64(tee.rootDer),
      async startRunner({ name = 'runner', environment = {}, onLog = () => {} } = {}) {
        const runner = await spawnRunner(
          {
            ASSAY_EDGE: edge.url,
            ASSAY_RPC: chain.rpcUrl,
            ASSAY_PROVIDER_KEY: developmentKey('provider'),
            ASSAY_STATE: join(stateDir, name),
            ASSAY_TEE: 'development',
            ASSAY_DEVELOPMENT_SEED: developmentSeed,
            ...environment,
          },
          onLog,
        )
        stops.push(runner.stop)
        return runner
      },
      async restartEdge() {
        await edge.dispose()
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
