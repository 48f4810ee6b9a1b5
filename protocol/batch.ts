import { type Hex, toHex } from './bytes.ts'
import { type Domain, type StructType, typedDataDigest } from './eip712.ts'

/** Names the root of a tree of receipts and how many leaves it has; signed once by the runner's attested key. */
export type Batch = { root: Uint8Array; count: number }

const batchType: StructType = {
  name: 'Batch',
  fields: [
    ['root', 'bytes32'],
    ['count', 'uint32'],
  ],
}

/** Computes the EIP-712 digest a runner signs for a batch. */
export function batchDigest(domain: Domain, batch: Batch): Uint8Array {
  const root: Hex = toHex(batch.root)
  return typedDataDigest(domain, batchType, { root, count: batch.count })
}
