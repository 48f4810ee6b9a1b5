import type { Address, PublicClient } from 'viem'
import { escrowAbi } from '../contracts/abi.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import type { SettlementClaim } from '../protocol/claims.ts'
import type { Domain } from '../protocol/eip712.ts'
import { recoverAddress } from '../protocol/secp256k1.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import type { JournalChannel, JournalEntry } from './journal.ts'

/** Holds what settling needs of one channel. */
export type Claimable = { channel: JournalChannel; entry: JournalEntry }

/** Writes a channel's claim as the escrow takes it. Asks the chain whether a key that is not the buyer's own has a mandate, to tell it from a wallet contract's signature. */
export async function claimOf(
  { client, chainId, escrow }: { client: PublicClient; chainId: number; escrow: Address },
  { channel: { terms, voucher }, entry }: Claimable,
): Promise<SettlementClaim> {
  const domain: Domain = { chainId, escrow: escrow.toLowerCase() as Hex }
  const { cumulative, signature } = voucher ?? { cumulative: 0n, signature: new Uint8Array() }
  const digest = voucherDigest(domain, { channel: toHex(entry.channel), cumulative })
  const key = signature.length === 65 ? recoverAddress(digest, signature) : null
  const hasMandate = async (key: Hex) => {
    const args = [terms.buyer, key] as const
    const [cap] = await client.readContract({ address: escrow, abi: escrowAbi, functionName: 'mandates', args })
    return cap > 0n
  }
  const kind = key === terms.buyer ? 'key' : key && (await hasMandate(key)) ? 'mandate' : 'wallet'
  return { terms, receipt: entry.receipt, voucher: { cumulative, signature, kind } }
}
