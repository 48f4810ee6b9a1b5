import type { PublicClient } from 'viem'
import { escrowAbi } from '../../contracts/abi.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import type { Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'

/** Holds a voucher of a channel, and what the channel's terms say of who may sign it. */
export type Vouched = { channel: Hex; cumulative: bigint; signature: Uint8Array } & Pick<Terms, 'buyer' | 'model'>

/** What a contract wallet says to a signature it stands by (ERC-1271). */
const magic = '0x1626ba7e'
const walletAbi = [
  {
    type: 'function',
    name: 'isValidSignature',
    stateMutability: 'view',
    inputs: [{ type: 'bytes32' }, { type: 'bytes' }],
    outputs: [{ type: 'bytes4' }],
  },
] as const

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
  if (!(await chain.getCode({ address: buyer }))) return false
  const digest = toHex(voucherDigest(domain, { channel, cumulative }))
  const args = [digest, toHex(signature)] as const
  return chain.readContract({ address: buyer, abi: walletAbi, functionName: 'isValidSignature', args }).then(
    (answer) => answer === magic,
    // A wallet that reverts does not stand by it; a chain that is away has answered for the code above.
    () => false,
  )
}
