import { batchDigest } from './batch.ts'
import { EncodingError, fromHex, type Hex, toHex } from './bytes.ts'
import type { Domain } from './eip712.ts'
import { type MerkleProof, rootFromProof } from './merkle.ts'
import { type Receipt, type ReceiptJson, receiptFromJson, receiptLeaf } from './receipt.ts'
import { recoverAddress } from './secp256k1.ts'
import { channelOf, type Terms, type TermsJson, termsFromJson } from './terms.ts'

/** Shows what an edge keeps of a channel so that anyone can settle it: terms, the receipt with the highest total and its place in a signed batch, and the vouchers that came with answered jobs, the best first. */
export type KeptClaimJson = {
  channel: Hex
  terms: TermsJson
  receipt: ReceiptJson
  proof: { index: number; count: number; path: Hex[] }
  signature: Hex
  vouchers: { cumulative: string; signature: Hex }[]
}

/** Holds a kept claim whose receipt is proven; what a voucher is worth only the chain can say of wallets and mandates. */
export type KeptClaim = {
  channel: Hex
  terms: Terms
  receipt: Receipt
  proof: MerkleProof
  signature: Uint8Array
  vouchers: { cumulative: bigint; signature: Uint8Array }[]
}

/** Reads a kept claim and checks what can be checked without a chain: the channel is the digest of the terms, they are for this runner, and its key signed the batch the receipt is in. Throws EncodingError otherwise. */
export function readKeptClaim(domain: Domain, runner: Hex, json: KeptClaimJson): KeptClaim {
  try {
    const terms = termsFromJson(json.terms)
    const receipt = receiptFromJson(json.receipt)
    const proof = { ...json.proof, path: json.proof.path.map((node) => fromHex(node, 32)) }
    const signature = fromHex(json.signature, 65)
    const vouchers = json.vouchers.map(({ cumulative, signature }) => ({
      cumulative: BigInt(cumulative),
      signature: fromHex(signature),
    }))
    const channel = toHex(receipt.channel)
    if (channel !== json.channel || channelOf(domain, terms) !== channel)
      throw new EncodingError('The channel is not the digest of the terms.')
    if (terms.runner !== runner) throw new EncodingError(`The terms are for runner ${terms.runner}.`)
    const root = rootFromProof(receiptLeaf(receipt), proof)
    if (!root || recoverAddress(batchDigest(domain, { root, count: proof.count }), signature) !== runner)
      throw new EncodingError('The receipt is not in a batch that the runner signed.')
    return { channel, terms, receipt, proof, signature, vouchers }
  } catch (error) {
    if (error instanceof EncodingError) throw error
    throw new EncodingError(`The claim cannot be read: ${error instanceof Error ? error.message : 'malformed'}`)
  }
}
