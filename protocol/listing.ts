import type { Hex } from './bytes.ts'
import { type Domain, type StructType, typedDataDigest } from './eip712.ts'

/** Offers a model at a price; signed by its publisher. Price in the token's smallest unit per inference, `validUntil` in unix seconds. */
export type Listing = {
  model: Hex
  publisher: Hex
  payout: Hex
  price: bigint
  royaltyBps: number
  unit: string
  validUntil: bigint
  nonce: bigint
}

const listingType: StructType = {
  name: 'Listing',
  fields: [
    ['model', 'bytes32'],
    ['publisher', 'address'],
    ['payout', 'address'],
    ['price', 'uint128'],
    ['royaltyBps', 'uint16'],
    ['unit', 'string'],
    ['validUntil', 'uint64'],
    ['nonce', 'uint64'],
  ],
}

/** Computes the EIP-712 digest a publisher signs. */
export function listingDigest(domain: Domain, listing: Listing): Uint8Array {
  return typedDataDigest(domain, listingType, listing)
}
