import { EncodingError, fromBase64, toBase64 } from '../bytes.ts'
import type { EvidenceContext } from './judge.ts'
import { type TdxCollateral, verifyTdx } from './tdx.ts'
import type { Verdict } from './verdict.ts'

export { createEvidenceCache, type EvidenceCache } from './cache.ts'
export type { Check, Trace } from './checks.ts'
export { defaultPolicy, evidencePolicy, type Policy } from './policy.ts'
export { type Roots, vendorRoots } from './roots.ts'
export type { TdxCollateral } from './tdx.ts'
export type { Claim, Refusal, TcbStatus, Verdict } from './verdict.ts'

/** Holds what a TEE says of itself. */
export type Evidence = { format: 'tdx'; quote: Uint8Array }

/** Holds what the vendor says of the platform. */
export type Collateral = { format: 'tdx' } & TdxCollateral

/** Judges evidence against collateral under a policy and a set of roots. Gives a verdict for any bytes and never throws on bad evidence; `now` in unix seconds. */
export async function verifyEvidence(
  evidence: Evidence,
  collateral: Collateral | null,
  context: EvidenceContext,
): Promise<Verdict> {
  return verifyTdx(evidence.quote, collateral, context)
}

/** Shows evidence as JSON, bytes in base64. */
export type EvidenceJson = { format: 'tdx'; quote: string }

/** Shows collateral as JSON, CRLs in base64. */
export type CollateralJson = { format: 'tdx' } & Omit<TdxCollateral, 'pckCrl' | 'rootCaCrl'> & {
    pckCrl: string
    rootCaCrl: string
  }

/** Turns evidence into JSON. */
export function evidenceToJson({ format, quote }: Evidence): EvidenceJson {
  return { format, quote: toBase64(quote) }
}

/** Reads evidence from parsed JSON. Throws EncodingError naming what is wrong. */
export function evidenceFromJson(json: unknown): Evidence {
  const { format, quote } = (json ?? {}) as Record<string, unknown>
  if (format !== 'tdx') throw new EncodingError('Evidence: the format must be "tdx".')
  if (typeof quote !== 'string') throw new EncodingError('Evidence: quote must be base64.')
  return { format, quote: fromBase64(quote) }
}

/** Turns collateral into JSON. */
export function collateralToJson(collateral: Collateral): CollateralJson {
  return { ...collateral, pckCrl: toBase64(collateral.pckCrl), rootCaCrl: toBase64(collateral.rootCaCrl) }
}

const textFields = [
  'tcbInfo',
  'tcbInfoSignature',
  'tcbInfoChain',
  'qeIdentity',
  'qeIdentitySignature',
  'qeIdentityChain',
  'pckCrlChain',
] as const

/** Reads collateral from parsed JSON. Throws EncodingError naming what is wrong. */
export function collateralFromJson(json: unknown): Collateral {
  const record = (json ?? {}) as Record<string, unknown>
  if (record.format !== 'tdx') throw new EncodingError('Collateral: the format must be "tdx".')
  const text = (field: string) => {
    const value = record[field]
    if (typeof value !== 'string') throw new EncodingError(`Collateral: ${field} must be text.`)
    return value
  }
  const texts = Object.fromEntries(textFields.map((field) => [field, text(field)])) as Record<
    (typeof textFields)[number],
    string
  >
  return { format: 'tdx', ...texts, pckCrl: fromBase64(text('pckCrl')), rootCaCrl: fromBase64(text('rootCaCrl')) }
}
