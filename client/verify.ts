import { equalBytes, fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import {
  type Collateral,
  type Evidence,
  type Policy,
  type Roots,
  type Verdict,
  verifyUnderRoots,
} from '../protocol/evidence/index.ts'
import { checkStatement, type Statement } from '../protocol/evidence/statement.ts'
import type { JobAnswer } from '../protocol/frames.ts'
import { type BatchSigner, rememberBatches } from '../protocol/knownBatches.ts'
import { type Listing, listingDigest } from '../protocol/listing.ts'
import { type Manifest, modelDigest, parseManifest } from '../protocol/manifest.ts'
import { detailDigest, jobStatus, receiptLeaf } from '../protocol/receipt.ts'
import { recoverAddress } from '../protocol/secp256k1.ts'
import { VerificationError, type VerificationReason } from './errors.ts'

function need(condition: boolean, reason: VerificationReason, detail: string): asserts condition {
  if (!condition) throw new VerificationError(reason, detail)
}

/** Checks a listing against its digest and its publisher's signature. Throws VerificationError; `now` in unix seconds. */
export function checkListing(
  { digest, manifest: json, listing, signature }: { digest: Hex; manifest: unknown; listing: Listing; signature: Hex },
  { domain, now }: { domain: Domain; now: number },
): Manifest {
  const manifest = parseManifest(json)
  need(
    modelDigest(manifest) === digest && listing.model === digest,
    'listing_digest',
    'The manifest does not have the digest it is listed under.',
  )
  need(
    recoverAddress(listingDigest(domain, listing), fromHex(signature)) === listing.publisher.toLowerCase(),
    'listing_signature',
    'The listing is not signed by its publisher.',
  )
  need(listing.validUntil > BigInt(now), 'listing_expired', 'The listing has expired.')
  return manifest
}

/** Verifies a runner's evidence and that it vouches for exactly these keys. Throws VerificationError. */
export async function checkRunner(
  {
    signer,
    hpkeKey,
    statement,
    evidence,
    collateral,
  }: { signer: Hex; hpkeKey: Hex; statement: Uint8Array; evidence: Evidence; collateral: Collateral },
  {
    roots,
    policy,
    now,
    chainId,
    registry,
  }: { roots: readonly Roots[]; policy: Policy; now: number; chainId: number; registry: Hex },
): Promise<{ verdict: Verdict; statement: Statement }> {
  const verdict = await verifyUnderRoots(evidence, collateral, { now, roots, policy })
  if (verdict.verdict !== 'verified') {
    const [refusal] = verdict.refusals
    const onlyVendor = roots.every(({ kind }) => kind === 'vendor')
    need(
      !(refusal?.reason === 'untrusted_root' && onlyVendor),
      'development_root',
      'The evidence does not stand on a vendor root. For a local marketplace, allow its development root explicitly.',
    )
    throw new VerificationError(
      'evidence_refuted',
      `${refusal?.reason ?? 'unknown'}: ${refusal?.detail ?? 'The evidence was not verified.'}`,
    )
  }
  const checked = checkStatement(statement, {
    reportData: fromHex(verdict.reportData!),
    workload: verdict.measurement!.workload,
    root: verdict.root,
    chainId,
    registry,
    now,
  })
  if (!checked.ok) throw new VerificationError('statement_mismatch', checked.refusal.detail)
  need(checked.signer === signer, 'signer_mismatch', `The quote vouches for ${checked.signer}, not ${signer}.`)
  need(toHex(checked.statement.hpkeKey) === hpkeKey, 'hpke_key_mismatch', 'The quote vouches for another sealing key.')
  return { verdict, statement: checked.statement }
}

/** Checks an answer's receipt against the request it should answer. Throws VerificationError. The output commitment is checked after opening. */
export function checkReceipt(
  answer: JobAnswer,
  expected: {
    channel: Uint8Array
    job: bigint
    input: Uint8Array
    price: bigint
    runner: Hex
    maxTotal: bigint
    now: number
  },
  domain: Domain,
  signerOf: BatchSigner = rememberBatches(),
): void {
  const { receipt, detail, proof, signature } = answer
  need(
    equalBytes(receipt.channel, expected.channel),
    'receipt_channel',
    'The receipt is for another channel, and so for other terms, another model or another chain.',
  )
  need(receipt.job === expected.job, 'receipt_job', `The receipt is for job ${receipt.job}, asked was ${expected.job}.`)
  need(
    equalBytes(receipt.detail, detailDigest(detail)),
    'receipt_detail',
    'The detail is not the one the receipt commits to.',
  )
  const ok = receipt.status === jobStatus.ok
  // A request that could not be read has no input to commit to; it cost nothing either.
  const emptyInput = receipt.status === jobStatus.badInput && detail.input.every((byte) => byte === 0)
  need(emptyInput || equalBytes(detail.input, expected.input), 'receipt_input', 'The receipt commits to another input.')
  need(detail.price === (ok ? expected.price : 0n), 'receipt_price', `The receipt charges ${detail.price}.`)
  need(
    receipt.cumulative <= expected.maxTotal,
    'receipt_total',
    `The receipt claims ${receipt.cumulative} in all; at most ${expected.maxTotal} can be due.`,
  )
  need(
    receipt.finishedAt <= BigInt(expected.now + 300),
    'receipt_time',
    'The receipt is dated more than five minutes ahead.',
  )
  const signer = signerOf(domain, { leaf: receiptLeaf(receipt), proof, signature }, expected.runner)
  need(signer !== undefined, 'batch_proof', 'The Merkle proof does not fit its batch.')
  need(
    signer === expected.runner,
    'batch_signature',
    `The batch is signed by ${signer ?? 'nobody'}, not by runner ${expected.runner}.`,
  )
}
