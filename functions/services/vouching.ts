import type { PublicClient } from 'viem'
import { escrowAbi } from '../../contracts/abi.ts'
import type { Hex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import type { Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { walletStandsBy } from '../../protocol/walletSignature.ts'

/** Holds a voucher of a channel, and what the channel's terms say of who may sign it. */
export type Vouched = { channel: Hex; cumulative: bigint; signature: Uint8Array } & Pick<Terms, 'buyer' | 'model'>

/** Recovers who signed a voucher with a key; null for any other signature. */
export function voucherKey(
  domain: Domain,
  { channel, cumulative, signature }: Omit<Vouched, 'buyer' | 'model'>,
): Hex | null {
  return signature.length === 65 ? recoverAddress(voucherDigest(domain, { channel, cumulative }), signature) : null
}

/** Asks the chain whether a voucher that the buyer's own key did not sign is the buyer's all the same: a mandate that leaves something, or a contract wallet that stands by it. Throws when the chain does not answer. `now` in unix seconds. */
export async function vouchedOnChain(
  chain: PublicClient,
  domain: Domain,
  vouched: Vouched,
  now: number,
): Promise<boolean> {
  const { buyer, model, channel, cumulative, signature } = vouched
  const key = voucherKey(domain, vouched)
  if (key) {
    const left = await chain.readContract({
      address: domain.escrow,
      abi: escrowAbi,
      functionName: 'mandateLeft',
      args: [buyer, key, model, channel, BigInt(now)],
    })
    if (left > 0n) return true
  }
  const digest = voucherDigest(domain, { channel, cumulative })
  return (await walletStandsBy(chain, buyer, digest, signature)) === true
}
