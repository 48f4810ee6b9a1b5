import { createPublicClient, http } from 'viem'
import { runnerRegistryAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'
import { defaultPolicy, type Roots } from '../protocol/evidence/index.ts'
import { createApp } from './app.ts'
import type { Context, RegistryReader } from './context.ts'
import { type Bindings, readSettings, type Settings } from './env.ts'
import { Directory } from './match/directory.ts'
import type { ExecutionContext } from './platform.ts'
import { type Reevaluation, reevaluateRunners } from './services/collateral.ts'
import { openDatabase } from './store/database.ts'
import { databaseDirectory } from './store/directory.ts'

function registryOf({ RPC_URL, REGISTRY }: Settings): RegistryReader {
  const chain = createPublicClient({ transport: http(RPC_URL, { timeout: 10_000, retryCount: 1 }) })
  return {
    async providerOf(signer) {
      const [provider, active] = await chain.readContract({
        address: REGISTRY,
        abi: runnerRegistryAbi,
        functionName: 'providerAt',
        args: [signer, BigInt(Math.floor(Date.now() / 1000))],
      })
      return { provider: provider.toLowerCase() as Hex, active }
    },
    alive: async () => (await chain.getBlockNumber()) >= 0n,
  }
}

function contextOf(bindings: Bindings, rootsOf: (settings: Settings) => Roots[]): Context {
  const settings = readSettings(bindings)
  const database = openDatabase(settings.DATABASE_URL, settings.DATABASE_ENDPOINT)
  const now = () => Date.now()
  const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
  return {
    settings,
    database,
    directory: new Directory(databaseDirectory(database, now, Math.random), { now, sleep }),
    artifacts: bindings.ARTIFACTS,
    mailbox: bindings.MAILBOX,
    registry: registryOf(settings),
    domain: { chainId: settings.CHAIN_ID, escrow: settings.ESCROW },
    roots: rootsOf(settings).map((roots) =>
      settings.RIM_SIGNERS ? { ...roots, rimSigners: settings.RIM_SIGNERS } : roots,
    ),
    policy: defaultPolicy,
    fetch: (url) => fetch(url, { signal: AbortSignal.timeout(15_000) }),
    now,
    random: Math.random,
    log: (event, fields) => console.log(JSON.stringify({ event, ...fields })),
  }
}

/** Tells a fallen runner's mailbox to let go of its socket, with the reason as the closing word. */
async function evict({ mailbox }: Context, { signer, verdict }: Reevaluation): Promise<void> {
  const reason = `${verdict.refusals[0]?.reason}: ${verdict.refusals[0]?.detail}`
  const stub = mailbox.get(mailbox.idFromName(signer))
  await stub.fetch('https://mailbox/evict', { method: 'POST', body: reason })
}

/** Builds the Worker around the roots its entry trusts: entries differ in nothing else. */
export function createWorker(rootsOf: (settings: Settings) => Roots[]) {
  let context: Context | undefined
  let app: ReturnType<typeof createApp> | undefined
  const contextFor = (bindings: Bindings) => {
    context ??= contextOf(bindings, rootsOf)
    return context
  }
  return {
    fetch(request: Request, bindings: Bindings, execution: ExecutionContext): Response | Promise<Response> {
      app ??= createApp(contextFor(bindings))
      return app.fetch(request, bindings, execution)
    },
    async scheduled(_event: unknown, bindings: Bindings): Promise<void> {
      const context = contextFor(bindings)
      await reevaluateRunners(context, (fallen) => evict(context, fallen))
    },
  }
}
