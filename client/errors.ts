import type { EquivocationJson } from '../protocol/equivocation.ts'

/** Lists why an answer, a runner or a listing is refused by the buyer's own checks. */
export const verificationReasons = [
  'listing_signature',
  'listing_digest',
  'listing_expired',
  'price_above_cap',
  'price_changed',
  'evidence_refuted',
  'development_root',
  'statement_mismatch',
  'signer_mismatch',
  'hpke_key_mismatch',
  'requirements_unmet',
  'equivocation',
  'receipt_channel',
  'receipt_job',
  'receipt_detail',
  'receipt_input',
  'receipt_output',
  'receipt_price',
  'receipt_total',
  'receipt_time',
  'batch_proof',
  'batch_signature',
  'answer_seal',
  'answer_form',
] as const

/** Names why something was refused. */
export type VerificationReason = (typeof verificationReasons)[number]

/** Refuses what does not verify. Nothing is paid for it beyond what earlier vouchers already promised. */
export class VerificationError extends Error {
  override name = 'VerificationError'
  readonly reason: VerificationReason
  constructor(reason: VerificationReason, detail: string) {
    super(detail)
    this.reason = reason
  }
}

/** Reports a runner that signed two different answers to one job, with the proof that costs it its stake. */
export class EquivocationError extends VerificationError {
  override name = 'EquivocationError'
  readonly proof: EquivocationJson
  constructor(detail: string, proof: EquivocationJson) {
    super('equivocation', detail)
    this.proof = proof
  }
}

/** Reports a problem the edge or the runner named, with its stable code and hint. */
export class EdgeError extends Error {
  override name = 'EdgeError'
  readonly code: string
  readonly status: number
  readonly hint: string | undefined
  readonly details: Record<string, unknown>
  constructor(code: string, status: number, detail: string, hint?: string, details: Record<string, unknown> = {}) {
    super(hint ? `${detail} ${hint}` : detail)
    this.code = code
    this.status = status
    this.hint = hint
    this.details = details
  }
}

/** Reports a job that ran and failed: its receipt proves the failure, and nothing was charged. */
export class JobFailedError extends Error {
  override name = 'JobFailedError'
  readonly status: number
  constructor(status: number, detail: string) {
    super(detail)
    this.status = status
  }
}
