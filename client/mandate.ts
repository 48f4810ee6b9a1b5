import type { Address } from 'viem'
import type { Hex } from '../protocol/bytes.ts'
import { type EscrowAccess, escrowOf, sendToEscrow } from './withdraw.ts'

/** Bounds what a key may spend of a deposit: in all and in one channel, in the token's smallest unit; until when; on which models, any where the list is empty. */
export type Mandate = { key: Address; cap: bigint; channelCap: bigint; expiresAt: Date; models: readonly Hex[] }

/** Lets a key spend of the wallet's deposit within bounds; naming it again starts anew. Throws ContractRefusedError when the bounds are none. */
export async function grantMandate(
  access: EscrowAccess,
  { key, cap, channelCap, expiresAt, models }: Mandate,
): Promise<Hex> {
  const until = BigInt(Math.floor(expiresAt.getTime() / 1000))
  const args = [key, cap, channelCap, until, models.length === 0, models] as const
  const call = { ...escrowOf(access), functionName: 'authorize', args } as const
  return sendToEscrow(access, call)
}

/** Takes a key's mandate away at once: vouchers of it that are not settled yet are worth nothing from then on. Throws ContractRefusedError when it has none. */
export async function revokeMandate(access: EscrowAccess, key: Address): Promise<Hex> {
  const call = { ...escrowOf(access), functionName: 'revoke', args: [key] } as const
  return sendToEscrow(access, call)
}
