import { EncodingError, type Hex } from '../bytes.ts'

/** Says one thing a verdict rests on, who vouches for it, and whether it held. */
export type Claim = {
  claim: string
  status: 'asserted' | 'refuted' | 'unknown'
  source: 'hardware' | 'verifier' | 'provider' | 'operator'
  detail: string
}

/** Lists Intel's TCB statuses, best first. */
export const tcbStatuses = [
  'UpToDate',
  'SWHardeningNeeded',
  'ConfigurationNeeded',
  'ConfigurationAndSWHardeningNeeded',
  'OutOfDate',
  'OutOfDateConfigurationNeeded',
  'Revoked',
] as const

/** Names how current a platform's trusted computing base is; `NotSupported` means no level matches. */
export type TcbStatus = (typeof tcbStatuses)[number] | 'NotSupported'

/** Ranks a status by Intel's order, 0 the best; a status that is not on the list, or none, ranks last. */
export function tcbRank(status: TcbStatus | null): number {
  const at = (tcbStatuses as readonly (TcbStatus | null)[]).indexOf(status)
  return at === -1 ? tcbStatuses.length : at
}

/** Lists why evidence is refused. */
export const refusalReasons = [
  'malformed_quote',
  'unsupported_quote',
  'malformed_collateral',
  'certificate_invalid',
  'certificate_expired',
  'certificate_role',
  'certificate_revoked',
  'untrusted_root',
  'crl_invalid',
  'crl_stale',
  'collateral_signature',
  'collateral_stale',
  'collateral_too_old',
  'collateral_mismatch',
  'qe_report_signature',
  'qe_report_binding',
  'qe_identity_mismatch',
  'quote_signature',
  'module_mismatch',
  'tcb_status',
  'debug',
  'attributes',
  'measurement_not_allowed',
  'platform_denied',
  'report_data',
  'statement',
  'malformed_evidence',
  'unsupported_evidence',
  'evidence_signature',
  'evidence_too_old',
  'platform_mismatch',
  'nonce_mismatch',
  'firmware_mismatch',
  'gpu_mode',
  'gpu_repeated',
  'gpu_link',
  'rim_invalid',
  'rim_mismatch',
  'not_signed_by_runner',
  'nonce_not_recent',
  'expires_early',
  'undecided',
] as const

/** Names why evidence is refused. */
export type EvidenceRefusalReason = (typeof refusalReasons)[number]

/** Refuses evidence: the reason from a closed list, and what was compared. */
export type Refusal = { reason: EvidenceRefusalReason; detail: string }

/** Holds what evidence measures, by the format's own names, as hexadecimal; `workload` is the one digest that stands for all of it. */
export type Measurement = { workload: Hex } & Record<string, Hex>

/** Judges evidence: a value, never an exception. What was not checked is `unknown`. `validUntil` in unix seconds is the earliest expiry of anything it rests on. */
export type Verdict = {
  verdict: 'verified' | 'refuted' | 'unknown'
  tee: 'tdx' | 'snp' | 'nitro' | 'gpu'
  root: 'vendor' | 'development'
  tcbStatus: TcbStatus | null
  moduleStatus: TcbStatus | null
  qeStatus: TcbStatus | null
  advisories: string[]
  measurement: Measurement | null
  reportData: Hex | null
  debug: boolean | null
  validUntil: number
  claims: Claim[]
  refusals: Refusal[]
}

/** Carries a refusal out of the depths of one verification; never leaves `verifyEvidence`. */
export class Refused extends Error {
  override name = 'Refused'
  readonly refusal: Refusal
  constructor(reason: EvidenceRefusalReason, detail: string) {
    super(detail)
    this.refusal = { reason, detail }
  }
}

/** Refuses unless a condition holds. */
export function require(condition: boolean, reason: EvidenceRefusalReason, detail: string): asserts condition {
  if (!condition) throw new Refused(reason, detail)
}

/** Turns a malformed-input exception into a refusal. */
export function reading<T>(reason: EvidenceRefusalReason, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof EncodingError) throw new Refused(reason, error.message)
    throw error
  }
}
