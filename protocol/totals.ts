import { concat, fromHex, type Hex, toHex, uint, utf8 } from './bytes.ts'
import { type Domain, type StructType, typedDataDigest } from './eip712.ts'
import { sha256 } from './hash.ts'

/** Says what a runner's journal adds up to for one channel, in the token's smallest unit: the highest running total of its receipts, and the highest voucher. */
export type ChannelTotal = { channel: Hex; cumulative: bigint; vouched: bigint }

const tag = utf8('ASY1totl')

const totalsType: StructType = {
  name: 'Totals',
  fields: [
    ['runner', 'address'],
    ['at', 'uint64'],
    ['totals', 'bytes32'],
  ],
}

/** Computes the EIP-712 digest a runner's attested key signs over its journal's totals as of `at` (unix seconds), in the order given. */
export function totalsDigest(
  domain: Domain,
  { runner, at, totals }: { runner: Hex; at: bigint; totals: readonly ChannelTotal[] },
): Uint8Array {
  const parts = totals.map(({ channel, cumulative, vouched }) =>
    concat(fromHex(channel, 32), uint(cumulative, 16), uint(vouched, 16)),
  )
  return typedDataDigest(domain, totalsType, { runner, at, totals: toHex(sha256(concat(tag, ...parts))) })
}
