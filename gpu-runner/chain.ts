import { type Address, createPublicClient, defineChain, http, type PublicClient } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { concat, type Hex, toHex } from '../protocol/bytes.ts'
import { type ChainReads, chainReads } from './chainReads.ts'
import { type Registering, registrations, type Settling, settlements } from './chainWrites.ts'
import { callSender } from './contractCalls.ts'
import { memoryOutbox, type Outbox, type Patience, TransactionSender } from './transactions.ts'

export type { Claimable } from './claimable.ts'

/** Speaks to the chain for a runner: reads balances, registers, settles. */
export type RunnerChain = ChainReads &
  Registering &
  Settling & {
    provider: Address
    /** Finds out what became of a transaction an earlier process left; null where there is none. Throws TransactionPendingError while nobody knows. */
    resolvePending(): Promise<{ hash: Hex; gasUsed: bigint } | null>
    signTypedSuccession(digest: Uint8Array): Promise<Uint8Array>
  }

/** Connects a runner to its chain with the provider's key, which pays gas and is paid. What it sends is kept in `outbox` until its outcome is known. */
export function connectChain({
  rpcUrl,
  chainId,
  escrow,
  registry,
  providerKey,
  outbox = memoryOutbox(),
  patience,
  now = Date.now,
  sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
}: {
  rpcUrl: string
  chainId: number
  escrow: Address
  registry: Address
  providerKey: Hex
  outbox?: Outbox
  patience?: Patience
  now?: () => number
  sleep?: (ms: number) => Promise<void>
}): RunnerChain {
  const client = clientOf(rpcUrl, chainId)
  const account = privateKeyToAccount(providerKey)
  const sender = new TransactionSender({
    client,
    account,
    chainId,
    outbox,
    ...(patience ? { patience } : {}),
    now,
    sleep,
  })
  const contracts = { client, chainId, escrow, registry }
  const send = callSender({ client, account, sender })
  return {
    ...chainReads(contracts),
    ...registrations(contracts, account.address, send),
    ...settlements(contracts, send),
    provider: account.address.toLowerCase() as Address,
    resolvePending: () => sender.resolve(),
    async signTypedSuccession(digest) {
      const signature = await account.sign({ hash: toHex(concat(digest)) })
      return Uint8Array.from(Buffer.from(signature.slice(2), 'hex'))
    },
  }
}

function clientOf(rpcUrl: string, chainId: number): PublicClient {
  const chain = defineChain({
    id: chainId,
    name: 'chain',
    nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpcUrl] } },
  })
  return createPublicClient({ chain, transport: http(rpcUrl), pollingInterval: 100 }) as PublicClient
}
