import { batchDigest } from './batch.ts'
import { EncodingError, equalBytes, fromHex, type Hex, toHex } from './bytes.ts'
import type { Domain } from './eip712.ts'
import { type MerkleProof, rootFromProof } from './merkle.ts'
import { type Receipt, type ReceiptJson, receiptFromJson, receiptLeaf, receiptToJson } from './receipt.ts'
import { recoverAddress } from './secp256k1.ts'
import { channelOf, type Terms, type TermsJson, termsFromJson, termsToJson } from './terms.ts'

/** Holds a receipt and the signed batch it is in. */
export type SignedReceipt = { receipt: Receipt; proof: MerkleProof; signature: Uint8Array }

/** Shows a receipt and the signed batch it is in as JSON; a kept bundle has these members too. */
export type SignedReceiptJson = {
  receipt: ReceiptJson
  proof: { index: number; count: number; path: Hex[] }
  signature: Hex
}

/** Holds what shows that a key answered one job twice: the channel's terms and two signed receipts. */
export type Equivocation = { terms: Terms; first: SignedReceipt; second: SignedReceipt }

/** Shows an equivocation as a file that anybody can report. */
export type EquivocationJson = {
  format: 'assay-equivocation-1'
  chainId: number
  escrow: Hex
  terms: TermsJson
  first: SignedReceiptJson
  second: SignedReceiptJson
}

/** Names a member in which two receipts for one job must not differ. Their times may: work done again after a crash ends later. */
export type Difference = 'status' | 'cumulative' | 'detail'

/** Says why two receipts prove nothing against a key. */
export type NoEquivocation = {
  reason: 'other_channel' | 'different_jobs' | 'nothing_differs' | 'not_in_batch' | 'wrong_signer'
  detail: string
}

/** Judges whether two receipts cost their key its stake. */
export type EquivocationVerdict =
  | { proven: true; runner: Hex; channel: Hex; job: bigint; differs: Difference[] }
  | { proven: false; refusal: NoEquivocation }

/** Lists in what two receipts differ that they must not. */
export function differencesOf(first: Receipt, second: Receipt): Difference[] {
  return [
    ...(first.status === second.status ? [] : (['status'] as const)),
    ...(first.cumulative === second.cumulative ? [] : (['cumulative'] as const)),
    ...(equalBytes(first.detail, second.detail) ? [] : (['detail'] as const)),
  ]
}

/** Judges two receipts as the contract of stakes does: of one channel and job, different, each in a batch that the channel's runner signed. Pure. Throws EncodingError on terms that cannot be written. */
export function judgeEquivocation(
  domain: Domain,
  { terms, first, second }: Equivocation,
  recover: typeof recoverAddress = recoverAddress,
): EquivocationVerdict {
  const no = (reason: NoEquivocation['reason'], detail: string) => ({
    proven: false as const,
    refusal: { reason, detail },
  })
  const channel = channelOf(domain, terms)
  for (const { receipt } of [first, second]) {
    const of = toHex(receipt.channel)
    if (of !== channel) return no('other_channel', `A receipt is of channel ${of}; these terms make ${channel}.`)
  }
  const { job } = first.receipt
  if (job !== second.receipt.job)
    return no(
      'different_jobs',
      `The receipts are for two jobs, ${job} and ${second.receipt.job}: that is what runners do.`,
    )
  const differs = differencesOf(first.receipt, second.receipt)
  if (differs.length === 0)
    return no(
      'nothing_differs',
      'The receipts say the same, but perhaps for the time: work signed again is no second answer.',
    )
  for (const { receipt, proof, signature } of [first, second]) {
    const root = rootFromProof(receiptLeaf(receipt), proof)
    if (!root) return no('not_in_batch', 'A receipt is not in the batch its proof names.')
    const signer = recover(batchDigest(domain, { root, count: proof.count }), signature)
    if (signer !== terms.runner)
      return no('wrong_signer', `A batch is signed by ${signer ?? 'nobody'}, not by runner ${terms.runner}.`)
  }
  return { proven: true, runner: terms.runner, channel, job, differs }
}

/** Turns a signed receipt into JSON. */
export const signedReceiptToJson = ({ receipt, proof, signature }: SignedReceipt): SignedReceiptJson => ({
  receipt: receiptToJson(receipt),
  proof: { index: proof.index, count: proof.count, path: proof.path.map(toHex) },
  signature: toHex(signature),
})

/** Reads a signed receipt from JSON, which may have other members. Throws EncodingError on malformed fields. */
export function signedReceiptFromJson(json: SignedReceiptJson): SignedReceipt {
  try {
    const { index, count, path } = json.proof
    return {
      receipt: receiptFromJson(json.receipt),
      proof: { index, count, path: path.map((node) => fromHex(node, 32)) },
      signature: fromHex(json.signature, 65),
    }
  } catch (error) {
    throw new EncodingError(`It holds no signed receipt: ${(error as Error).message}`)
  }
}

/** Turns an equivocation into the file that `assay slash` takes. */
export const equivocationToJson = (
  { chainId, escrow }: Domain,
  { terms, first, second }: Equivocation,
): EquivocationJson => ({
  format: 'assay-equivocation-1',
  chainId: Number(chainId),
  escrow,
  terms: termsToJson(terms),
  first: signedReceiptToJson(first),
  second: signedReceiptToJson(second),
})

/** Reads the terms that receipts stand under, addresses in lower case. Throws EncodingError on malformed fields. */
export function receiptTermsFromJson(json: TermsJson): Terms {
  try {
    const { buyer, runner, publisher, ...terms } = termsFromJson(json)
    const lower = (address: Hex) => toHex(fromHex(address, 20))
    return { ...terms, buyer: lower(buyer), runner: lower(runner), publisher: lower(publisher) }
  } catch (error) {
    throw new EncodingError(`It holds no terms of a channel: ${(error as Error).message}`)
  }
}

/** Reads an equivocation from JSON. Throws EncodingError on malformed fields. */
export const equivocationFromJson = (json: EquivocationJson): Equivocation => ({
  terms: receiptTermsFromJson(json.terms),
  first: signedReceiptFromJson(json.first),
  second: signedReceiptFromJson(json.second),
})
