import { batchDigest } from '../protocol/batch.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import { orderClaims } from '../protocol/claims.ts'
import type { Domain } from '../protocol/eip712.ts'
import { merkleRoot } from '../protocol/merkle.ts'
import { receiptLeaf } from '../protocol/receipt.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import type { Claimable, RunnerChain } from './chain.ts'
import type { Journal } from './journal.ts'
import { TransactionPendingError, TransactionReplacedError } from './transactions.ts'

/** Tells what a settlement did: its transactions, the gas they took, and how many channels and receipts they covered. */
export type Settlement = { transactions: { hash: Hex; gasUsed: string }[]; channels: number; receipts: number }

/** Most channels claimed in one transaction: 250 stay under the gas cap of a transaction (EIP-7825). */
const channelsPerTransaction = 250

/** How often what is owed is looked at anew when another transaction of the key came between. */
const maxRounds = 3

/** Holds what claiming works with; `noteSettled` hears what the chain has paid of each channel claimed. */
export type SettleDeps = {
  journal: Journal
  chain: RunnerChain
  signer: Signer
  domain: Domain
  noteSettled: (channel: Hex, buyer: Hex, settled: bigint) => void
}

/**
 * Claims what journalled channels are owed beyond what the chain has paid. Channels of the living key go together under one signature;
 * a predecessor's key is gone, so its channels go one by one with the proofs their receipts already have. Paying twice is impossible:
 * the escrow subtracts what it has settled. Throws TransactionPendingError while nobody knows what became of a claim: nothing more leaves then.
 */
export async function settleJournal(deps: SettleDeps): Promise<Settlement> {
  const settlement: Settlement = { transactions: [], channels: 0, receipts: 0 }
  for (let left = maxRounds; ; left--) {
    try {
      await claimAll(deps, settlement)
      return settlement
    } catch (error) {
      if (!(error instanceof TransactionReplacedError) || left === 0) throw error
    }
  }
}

async function claimAll({ journal, chain, signer, domain, noteSettled }: SettleDeps, into: Settlement): Promise<void> {
  // What an earlier claim may still be paid is no longer owed once it is: its outcome comes first.
  await chain.resolvePending().catch((error: unknown) => {
    if (error instanceof TransactionPendingError) throw error
  })
  const done = async (claims: Claimable[], sent: { hash: Hex; gasUsed: bigint }) => {
    into.transactions.push({ hash: sent.hash, gasUsed: sent.gasUsed.toString() })
    for (const { channel, entry } of claims) {
      const id = toHex(entry.channel)
      noteSettled(id, channel.terms.buyer, await chain.settledOf(id))
      into.channels++
      into.receipts += journal.count(entry.channel)
    }
  }
  for (const runner of journal.runners()) {
    const owed = await owedTo(runner, { journal, chain, noteSettled })
    if (runner !== signer.address) {
      for (const claim of owed) await done([claim], await chain.settleOne(claim))
      continue
    }
    const ordered = orderClaims(owed, ({ channel }) => channel.terms)
    for (let from = 0; from < ordered.length; from += channelsPerTransaction) {
      const claims = ordered.slice(from, from + channelsPerTransaction)
      const root = merkleRoot(claims.map(({ entry }) => receiptLeaf(entry.receipt)))
      const signature = await signer.sign(batchDigest(domain, { root, count: claims.length }))
      await done(claims, await chain.settle(claims, signature))
    }
  }
}

/** Lists the claims of a runner that the escrow would pay now. */
async function owedTo(
  runner: Hex,
  { journal, chain, noteSettled }: Pick<SettleDeps, 'journal' | 'chain' | 'noteSettled'>,
): Promise<Claimable[]> {
  const owed: Claimable[] = []
  for (const id of journal.channelsOf(runner)) {
    const channel = journal.channel(id)
    const entry = journal.latest(id)
    if (!channel?.voucher || !entry) continue
    const claim =
      entry.receipt.cumulative < channel.voucher.cumulative ? entry.receipt.cumulative : channel.voucher.cumulative
    const settled = await chain.settledOf(toHex(id))
    noteSettled(toHex(id), channel.terms.buyer, settled)
    if (claim <= settled) continue
    // A claim the escrow would refuse only burns gas, so it waits until it would be paid.
    if ((await chain.preview({ channel, entry })) > 0n) owed.push({ channel, entry })
  }
  return owed
}
