import { DurableObject } from 'cloudflare:workers'
import { createPublicClient, http, type PublicClient } from 'viem'
import { escrowAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'
import { type Bindings, readSettings } from './env.ts'
import type { DurableObjectState } from './platform.ts'
import { Credit, type FundsReader, type LeaseAnswer, type LeaseRequest } from './services/credit.ts'
import { type Vouched, vouchedOnChain } from './services/vouching.ts'

/** How long a mailbox is waited for when it is asked for credit, and the chain for an answer, in milliseconds. */
const recallMs = 2_000
const chainMs = 5_000

const chainOf = (rpcUrl: string) =>
  createPublicClient({
    transport: http(rpcUrl, { timeout: chainMs, retryCount: 1, batch: { batchSize: 100 } }),
  }) as PublicClient

/** Reads a buyer's deposit and what its channels were paid, all as of one block: between two, a settlement would be counted twice or not at all. */
function fundsOf(rpcUrl: string, escrow: Hex, buyer: Hex): FundsReader {
  const chain = chainOf(rpcUrl)
  return async (channels) => {
    const blockNumber = await chain.getBlockNumber({ cacheTime: 0 })
    const at = { address: escrow, abi: escrowAbi, blockNumber } as const
    const [[balance, requested], ...settled] = await Promise.all([
      chain.readContract({ ...at, functionName: 'accounts', args: [buyer] }),
      ...channels.map((channel) => chain.readContract({ ...at, functionName: 'settled', args: [channel] })),
    ])
    return { deposit: requested < balance ? balance - requested : 0n, settled }
  }
}

/** One buyer's account: leases its deposit to the mailboxes of runners, so that together they hand out no more than it covers. */
export class Account extends DurableObject {
  readonly #state: DurableObjectState
  readonly #bindings: Bindings
  #credit: Credit | null = null

  constructor(state: DurableObjectState, bindings: Bindings) {
    super(state, bindings)
    this.#state = state
    this.#bindings = bindings
  }

  #of(buyer: Hex): Credit {
    const { RPC_URL, ESCROW } = readSettings(this.#bindings)
    const { MAILBOX } = this.#bindings
    this.#credit ??= new Credit({
      sql: this.#state.storage.sql,
      now: Date.now,
      funds: fundsOf(RPC_URL, ESCROW, buyer),
      recall: (runner) =>
        Promise.race([
          MAILBOX.get(MAILBOX.idFromName(runner)).recall(buyer),
          new Promise<never>((_, reject) => setTimeout(() => reject(new Error('no answer')), recallMs)),
        ]),
    })
    return this.#credit
  }

  /** Leases credit to a mailbox; called by it. Throws when the chain cannot be read. */
  lease(buyer: Hex, request: LeaseRequest): Promise<LeaseAnswer> {
    return this.#of(buyer).lease(request)
  }

  /** Tells whether a voucher that the buyer's own key did not sign is the buyer's; called by mailboxes. Throws when the chain cannot be read. */
  vouched(voucher: Vouched): Promise<boolean> {
    const { RPC_URL, CHAIN_ID, ESCROW } = readSettings(this.#bindings)
    const domain = { chainId: CHAIN_ID, escrow: ESCROW }
    return vouchedOnChain(chainOf(RPC_URL), domain, voucher, Math.floor(Date.now() / 1000))
  }

  /** Shows the buyer's credit; called by the Worker. Throws when the chain cannot be read. */
  view(buyer: Hex): Promise<{ deposit: bigint; owed: bigint; leased: bigint; available: bigint }> {
    return this.#of(buyer).view()
  }
}
