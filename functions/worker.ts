import { createPublicClient, http, type PublicClient } from 'viem'
import { escrowAbi, runnerRegistryAbi, stakeAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'
import { defaultPolicy, type Roots } from '../protocol/evidence/index.ts'
import { createEdge } from './app.ts'
import type { Context, RegistryReader } from './context.ts'
import { type Bindings, readSettings, type Settings } from './env.ts'
import { Carrier } from './mailbox/carrier.ts'
import { Directory } from './match/directory.ts'
import type { ExecutionContext } from './platform.ts'
import { booksReader, chainReader } from './services/chainReader.ts'
import { type Reevaluation, reevaluateRunners } from './services/collateral.ts'
import { indexChain } from './services/indexer.ts'
import { reconcile } from './services/reconcile.ts'
import { openDatabase } from './store/database.ts'
import { databaseDirectory } from './store/directory.ts'

const clientOf = ({ RPC_URL }: Settings) =>
  createPublicClient({ transport: http(RPC_URL, { timeout: 10_000, retryCount: 1 }) })

function registryOf(settings: Settings): RegistryReader {
  const { REGISTRY, ESCROW, STAKE } = settings
  const chain = clientOf(settings)
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
    async accountOf(buyer) {
      const [balance, requested, withdrawableAt] = await chain.readContract({
        address: ESCROW,
        abi: escrowAbi,
        functionName: 'accounts',
        args: [buyer],
      })
      return { balance, requested, withdrawableAt }
    },
    async payeeOf(payee, pots) {
      const escrow = { address: ESCROW, abi: escrowAbi } as const
      const [earnings, slashes, ...amounts] = await Promise.all([
        chain.readContract({ ...escrow, functionName: 'earnings', args: [payee] }),
        STAKE ? chain.readContract({ address: STAKE, abi: stakeAbi, functionName: 'owed', args: [payee] }) : 0n,
        ...pots.map(async ({ runner, publisher, royaltyBps }) => {
          const args = [runner, publisher, royaltyBps] as const
          const id = await chain.readContract({ ...escrow, functionName: 'potId', args })
          return chain.readContract({ ...escrow, functionName: 'pots', args: [id] })
        }),
      ])
      return { earnings, slashes, pots: amounts }
    },
  }
}

/** Sets a timer and gives what stops it. */
function after(ms: number, run: () => void): () => void {
  const timer = setTimeout(run, ms)
  return () => clearTimeout(timer)
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
    carry: new Carrier({ mailbox: bindings.MAILBOX, now, after }).carry,
    account: settings.CREDIT_LEASES === 'yes' ? bindings.ACCOUNT : null,
    registry: registryOf(settings),
    domain: { chainId: settings.CHAIN_ID, escrow: settings.ESCROW },
    roots: rootsOf(settings).map((roots) =>
      settings.RIM_SIGNERS ? { ...roots, rimSigners: settings.RIM_SIGNERS } : roots,
    ),
    policy: defaultPolicy,
    fetch: (url, init) => fetch(url, { ...init, signal: AbortSignal.timeout(15_000) }),
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

/** Reads the chain's new events into the database. */
function indexContracts({ settings, database, log }: Context) {
  const chain = chainReader(clientOf(settings) as PublicClient, { escrow: settings.ESCROW, stake: settings.STAKE })
  return indexChain({ database, chain, start: settings.ESCROW_BLOCK, confirmations: settings.CONFIRMATIONS, log })
}

/** Compares the books of chain, events and receipts. */
async function compareBooks({ settings, database, log }: Context) {
  const client = clientOf(settings) as PublicClient
  const { ESCROW: escrow, TOKEN: token, STAKE: stake } = settings
  const treasury = await client.readContract({ address: escrow, abi: escrowAbi, functionName: 'treasury' })
  return reconcile({
    database,
    books: booksReader(client, { escrow, token, stake }),
    treasury: treasury.toLowerCase() as Hex,
    now: Math.floor(Date.now() / 1000),
    log,
  })
}

/** When the hourly work is due: collateral, registrations, books. Every other call of the clock reads the chain. */
const hourly = '23 * * * *'

/** Builds the Worker around the roots its entry trusts: entries differ in nothing else. */
export function createWorker(rootsOf: (settings: Settings) => Roots[]) {
  let context: Context | undefined
  let edge: ReturnType<typeof createEdge> | undefined
  const contextFor = (bindings: Bindings) => {
    context ??= contextOf(bindings, rootsOf)
    return context
  }
  return {
    fetch(request: Request, bindings: Bindings, execution: ExecutionContext): Response | Promise<Response> {
      edge ??= createEdge(contextFor(bindings))
      return edge(request, bindings, execution)
    },
    async scheduled({ cron }: { cron: string }, bindings: Bindings): Promise<void> {
      const context = contextFor(bindings)
      await indexContracts(context)
      if (cron !== hourly) return
      await reevaluateRunners(context, (fallen) => evict(context, fallen))
      await compareBooks(context)
    },
  }
}
