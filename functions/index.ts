import { createPublicClient, http } from 'viem'
import { runnerRegistryAbi } from '../contracts/abi.ts'
import { fromBase64, type Hex } from '../protocol/bytes.ts'
import { defaultPolicy, type Roots, vendorRoots } from '../protocol/evidence/index.ts'
import { developmentRoots } from '../protocol/evidence/roots.development.ts'
import { createApp } from './app.ts'
import type { Context, RegistryReader } from './context.ts'
import { type Bindings, readSettings, type Settings } from './env.ts'
import { Directory } from './match/directory.ts'
import type { ExecutionContext } from './platform.ts'
import { openDatabase } from './store/database.ts'
import { databaseDirectory } from './store/directory.ts'

export { Mailbox } from './mailbox.ts'

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

function contextOf(bindings: Bindings): Context {
  const settings = readSettings(bindings)
  const roots: Roots[] = [vendorRoots]
  if (settings.DEVELOPMENT_ROOT) {
    roots.push(developmentRoots({ chainId: settings.CHAIN_ID, intel: fromBase64(settings.DEVELOPMENT_ROOT) }))
  }
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
    roots,
    policy: defaultPolicy,
    fetch: (url) => fetch(url, { signal: AbortSignal.timeout(15_000) }),
    now,
    random: Math.random,
    log: (event, fields) => console.log(JSON.stringify({ event, ...fields })),
  }
}

let app: ReturnType<typeof createApp> | undefined

export default {
  fetch(request: Request, bindings: Bindings, execution: ExecutionContext): Response | Promise<Response> {
    app ??= createApp(contextOf(bindings))
    return app.fetch(request, bindings, execution)
  },
}
