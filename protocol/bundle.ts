import { batchDigest } from './batch.ts'
import { EncodingError, equalBytes, fromHex, type Hex, toHex } from './bytes.ts'
import type { Domain } from './eip712.ts'
import {
  type CollateralJson,
  collateralFromJson,
  type EvidenceJson,
  evidenceFromJson,
  type Policy,
  type Roots,
  type Verdict,
  verifyUnderRoots,
} from './evidence/index.ts'
import { checkStatement } from './evidence/statement.ts'
import { listingDigest } from './listing.ts'
import { modelDigest, parseManifest } from './manifest.ts'
import { rootFromProof } from './merkle.ts'
import {
  type DetailJson,
  detailDigest,
  detailFromJson,
  type ReceiptJson,
  receiptFromJson,
  receiptLeaf,
} from './receipt.ts'
import { recoverAddress } from './secp256k1.ts'
import { isDatatype, tensorCommitment } from './tensors.ts'
import { channelOf, type Terms } from './terms.ts'

/** Holds a tensor someone chose to reveal. */
export type RevealedTensor = { name: string; datatype: string; shape: number[]; data: Hex }

/** Holds all that proves one inference, for keeping: it verifies offline, as of the time the runner was verified. */
export type Bundle = {
  format: 'assay-bundle-1'
  chainId: number
  escrow: Hex
  registry: Hex
  terms: Omit<Terms, 'price' | 'expiresAt'> & { price: string; expiresAt: string }
  receipt: ReceiptJson
  detail: DetailJson
  proof: { index: number; count: number; path: Hex[] }
  signature: Hex
  statement: Hex
  evidence: EvidenceJson
  collateral: CollateralJson
  /** Unix seconds. */
  verifiedAt: number
  model: {
    manifest: unknown
    listing: {
      model: Hex
      publisher: Hex
      payout: Hex
      price: string
      royaltyBps: number
      unit: string
      validUntil: string
      nonce: string
    }
    signature: Hex
  }
  openings?: { inputSalt: Hex; inputs: RevealedTensor[]; outputSalt: Hex; outputs: RevealedTensor[] }
}

/** Shows one check of a bundle: what was compared, and how it ended. */
export type BundleCheck = { check: string; status: 'passed' | 'failed' | 'unknown'; detail: string }

/** Judges a bundle. What it does not let anyone check is `unknown`. */
export type BundleVerdict = {
  verdict: 'verified' | 'refuted' | 'unknown'
  evidence: Verdict | null
  checks: BundleCheck[]
}

/** Verifies a bundle offline: evidence as of `verifiedAt`, statement, terms, receipt, proof, signature, listing, openings. Never throws on a bad bundle. */
export async function verifyBundle(
  bundle: Bundle,
  { roots, policy }: { roots: readonly Roots[]; policy: Policy },
): Promise<BundleVerdict> {
  const checks: BundleCheck[] = []
  const check = (name: string, passed: boolean, detail: string) => {
    checks.push({ check: name, status: passed ? 'passed' : 'failed', detail })
  }
  let evidence: Verdict | null = null
  try {
    if (bundle?.format !== 'assay-bundle-1')
      throw new EncodingError('Not an assay bundle: its format is not "assay-bundle-1".')
    const domain: Domain = { chainId: bundle.chainId, escrow: bundle.escrow }
    evidence = await verifyUnderRoots(evidenceFromJson(bundle.evidence), collateralFromJson(bundle.collateral), {
      now: bundle.verifiedAt,
      roots,
      policy,
    })
    check(
      'evidence',
      evidence.verdict === 'verified',
      evidence.refusals[0]?.detail ??
        `${evidence.tee} quote on a ${evidence.root} root, TCB ${evidence.tcbStatus}, as of ${bundle.verifiedAt}`,
    )
    let signer: Hex | null = null
    if (evidence.verdict === 'verified') {
      const checked = checkStatement(fromHex(bundle.statement), {
        reportData: fromHex(evidence.reportData!),
        workload: evidence.measurement!.workload,
        root: evidence.root,
        chainId: bundle.chainId,
        registry: bundle.registry,
        now: bundle.verifiedAt,
      })
      check(
        'statement',
        checked.ok,
        checked.ok ? `the quote vouches for key ${checked.signer}` : checked.refusal.detail,
      )
      if (checked.ok) signer = checked.signer
    }
    const terms: Terms = {
      ...bundle.terms,
      price: BigInt(bundle.terms.price),
      expiresAt: BigInt(bundle.terms.expiresAt),
    }
    const receipt = receiptFromJson(bundle.receipt)
    const detail = detailFromJson(bundle.detail)
    check(
      'channel',
      toHex(receipt.channel) === channelOf(domain, terms),
      "the receipt's channel against the digest of the terms",
    )
    check(
      'runner',
      signer === terms.runner,
      `the terms name ${terms.runner}, the quote vouches for ${signer ?? 'no key'}`,
    )
    check('detail', equalBytes(receipt.detail, detailDigest(detail)), 'the detail against the digest in the receipt')
    check(
      'price',
      detail.price === (receipt.status === 0 ? terms.price : 0n),
      `charged ${detail.price}, agreed ${terms.price}`,
    )
    const root = rootFromProof(receiptLeaf(receipt), {
      ...bundle.proof,
      path: bundle.proof.path.map((node) => fromHex(node, 32)),
    })
    const batchSigner =
      root && recoverAddress(batchDigest(domain, { root, count: bundle.proof.count }), fromHex(bundle.signature))
    check(
      'signature',
      batchSigner !== null && batchSigner === terms.runner,
      `the batch is signed by ${batchSigner ?? 'nobody'}`,
    )

    const { listing: json, signature } = bundle.model
    const listing = {
      ...json,
      price: BigInt(json.price),
      validUntil: BigInt(json.validUntil),
      nonce: BigInt(json.nonce),
    }
    check(
      'model',
      modelDigest(parseManifest(bundle.model.manifest)) === terms.model && listing.model === terms.model,
      "the manifest's digest against the terms",
    )
    check(
      'listing',
      recoverAddress(listingDigest(domain, listing), fromHex(signature)) === listing.publisher,
      `the listing is signed by ${listing.publisher}`,
    )

    const { openings } = bundle
    if (openings) {
      const commitment = (salt: Hex, tensors: RevealedTensor[]) =>
        tensorCommitment(
          fromHex(salt, 32),
          tensors.map(({ datatype, data, ...tensor }) => {
            if (!isDatatype(datatype)) throw new EncodingError(`"${datatype}" is not a datatype.`)
            return { ...tensor, datatype, data: fromHex(data) }
          }),
        )
      check(
        'input',
        equalBytes(commitment(openings.inputSalt, openings.inputs), detail.input),
        'the revealed input against its commitment',
      )
      check(
        'output',
        equalBytes(commitment(openings.outputSalt, openings.outputs), detail.output),
        'the revealed output against its commitment',
      )
    } else {
      checks.push({ check: 'input and output', status: 'unknown', detail: 'not revealed by the holder of this bundle' })
    }
  } catch (error) {
    check('form', false, error instanceof Error ? error.message : 'The bundle cannot be read.')
  }
  return { verdict: checks.some(({ status }) => status === 'failed') ? 'refuted' : 'verified', evidence, checks }
}
