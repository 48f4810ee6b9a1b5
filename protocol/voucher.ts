import type { Hex } from './bytes.ts'
import { type Domain, type StructType, typedDataDigest } from './eip712.ts'

/** Promises a runner up to `cumulative` over the whole life of a channel; signed by the buyer. */
export type Voucher = { channel: Hex; cumulative: bigint }

const voucherType: StructType = {
  name: 'Voucher',
  fields: [
    ['channel', 'bytes32'],
    ['cumulative', 'uint128'],
  ],
}

/** Computes the EIP-712 digest a buyer signs. */
export function voucherDigest(domain: Domain, voucher: Voucher): Uint8Array {
  return typedDataDigest(domain, voucherType, voucher)
}
