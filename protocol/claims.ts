import { concat, EncodingError, equalBytes, fromHex, type Hex, toHex, uint } from './bytes.ts'
import type { MerkleProof } from './merkle.ts'
import type { Receipt } from './receipt.ts'
import type { Terms } from './terms.ts'

/** Names who vouches for a claim: the buyer's own key, a contract wallet (ERC-1271), or a key the buyer has given a mandate. */
export type VoucherKind = 'key' | 'wallet' | 'mandate'

/** Holds what settles one channel: its terms, the receipt with the highest running total, and the highest voucher with its signature (r ‖ s ‖ v, or a wallet's own bytes). */
export type SettlementClaim = {
  terms: Terms
  receipt: Receipt
  voucher: { cumulative: bigint; signature: Uint8Array; kind: VoucherKind }
}

const kinds = { key: 0, wallet: 1, mandate: 2 } as const

/** Most claims and listings in one packing. */
const maxClaims = 0xffff
const maxListings = 0xff

/** Shortens a signature r ‖ s ‖ v to 64 bytes (EIP-2098). Throws EncodingError for another form. */
export function compactSignature(signature: Uint8Array): Uint8Array<ArrayBuffer> {
  const v = signature[64]
  if (signature.length !== 65 || (v !== 27 && v !== 28) || signature[32]! >= 0x80)
    throw new EncodingError('A signature here is r, a low s and v: 65 bytes.')
  const compact = signature.slice(0, 64)
  if (v === 28) compact[32]! |= 0x80
  return compact
}

function listingOf({ model, publisher, price, royaltyBps }: Terms): Uint8Array<ArrayBuffer> {
  return concat(fromHex(model, 32), fromHex(publisher, 20), uint(price, 16), uint(BigInt(royaltyBps), 2))
}

/** Puts claims of one listing next to each other, which is how they are packed: the batch signature must cover their leaves in this order. */
export function orderClaims<C>(claims: readonly C[], termsOf: (claim: C) => Terms): C[] {
  const groups = new Map<string, C[]>()
  for (const claim of claims) {
    const listing = toHex(listingOf(termsOf(claim)))
    const group = groups.get(listing)
    if (group) group.push(claim)
    else groups.set(listing, [claim])
  }
  return [...groups.values()].flat()
}

function packVoucher({ signature, kind }: SettlementClaim['voucher']): Uint8Array {
  if (kind !== 'wallet') return compactSignature(signature)
  return concat(uint(BigInt(signature.length), 2), signature)
}

function packClaim({ terms, receipt, voucher }: SettlementClaim): Uint8Array {
  return concat(
    new Uint8Array([kinds[voucher.kind]]),
    fromHex(terms.buyer, 20),
    uint(terms.expiresAt, 8),
    fromHex(terms.salt, 32),
    uint(receipt.job, 8),
    new Uint8Array([receipt.status]),
    uint(receipt.cumulative, 16),
    uint(receipt.finishedAt, 8),
    receipt.detail,
    uint(voucher.cumulative, 16),
    packVoucher(voucher),
  )
}

/** Packs claims of one runner for the escrow, without padding (layout in `contracts/Claims.sol`): all of a batch in the order its signature covers, or one claim with its proof. Throws EncodingError for claims of several runners or more than fit. */
export function packClaims({
  claims,
  signature,
  proof,
}: {
  claims: readonly SettlementClaim[]
  signature: Uint8Array
  proof?: MerkleProof
}): Uint8Array<ArrayBuffer> {
  const [first] = claims
  if (!first || claims.length > maxClaims || (proof && claims.length > 1))
    throw new EncodingError(`A packing takes 1 to ${maxClaims} claims, and one with a proof.`)
  const runner: Hex = first.terms.runner
  if (claims.some(({ terms }) => terms.runner !== runner || terms.feeBps !== first.terms.feeBps))
    throw new EncodingError('A packing takes claims of one runner under one fee.')
  const groups: { listing: Uint8Array; claims: Uint8Array[] }[] = []
  for (const claim of claims) {
    const listing = listingOf(claim.terms)
    const group = groups.at(-1)
    if (group && equalBytes(group.listing, listing)) group.claims.push(packClaim(claim))
    else groups.push({ listing, claims: [packClaim(claim)] })
  }
  if (groups.length > maxListings)
    throw new EncodingError(`A packing takes at most ${maxListings} listings; order the claims.`)
  return concat(
    fromHex(runner, 20),
    compactSignature(signature),
    uint(BigInt(claims.length), 2),
    new Uint8Array([groups.length, proof ? 1 : 0]),
    ...(proof
      ? [uint(BigInt(proof.index), 4), uint(BigInt(proof.count), 4), new Uint8Array([proof.path.length]), ...proof.path]
      : []),
    ...groups.flatMap((group) => [group.listing, uint(BigInt(group.claims.length), 2), ...group.claims]),
  )
}
