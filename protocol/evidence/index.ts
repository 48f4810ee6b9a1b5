import type { Check } from './checks.ts'
import { type GpuCollateral, type GpuEvidence, verifyGpu } from './gpu.ts'
import type { EvidenceContext } from './judge.ts'
import { verifyNitro } from './nitro.ts'
import type { Roots } from './roots.ts'
import { type SnpCollateral, verifySnp } from './snp.ts'
import { type TdxCollateral, verifyTdx } from './tdx.ts'
import type { Verdict } from './verdict.ts'

export { createEvidenceCache, type EvidenceCache } from './cache.ts'
export type { Check, Trace } from './checks.ts'
export {
  type CollateralJson,
  collateralFromJson,
  collateralToJson,
  type EvidenceJson,
  evidenceFromJson,
  evidenceToJson,
} from './forms.ts'
export type { GpuCollateral, GpuEvidence } from './gpu.ts'
export type { EvidenceContext } from './judge.ts'
export { defaultPolicy, evidencePolicy, type Policy } from './policy.ts'
export { type Roots, vendorRoots } from './roots.ts'
export type { SnpCollateral } from './snp.ts'
export type { TdxCollateral } from './tdx.ts'
export type { Claim, Refusal, TcbStatus, Verdict } from './verdict.ts'

/** Holds what a machine says of itself, in its vendor's form. An SNP report may bring the certificate of the key that signed it where a cloud loaded that key (VLEK); it is checked like any other. */
export type Evidence =
  | { format: 'tdx'; quote: Uint8Array }
  | { format: 'snp'; report: Uint8Array; vlek?: Uint8Array }
  | { format: 'nitro'; document: Uint8Array }
  | ({ format: 'gpu' } & GpuEvidence)

/** Holds what the vendor says of the platform. A Nitro document brings its own chain and takes none. */
export type Collateral =
  | ({ format: 'tdx' } & TdxCollateral)
  | ({ format: 'snp' } & SnpCollateral)
  | ({ format: 'gpu' } & GpuCollateral)

/** Picks one format's evidence. */
export type EvidenceOf<F extends Evidence['format']> = Extract<Evidence, { format: F }>

/** Picks one format's collateral. */
export type CollateralOf<F extends Collateral['format']> = Extract<Collateral, { format: F }>

const collateralOf = <F extends Collateral['format']>(collateral: Collateral | null, format: F) =>
  collateral?.format === format ? (collateral as CollateralOf<F>) : null

/** Judges evidence against collateral under a policy and a set of roots. Gives a verdict for any bytes and never throws on bad evidence; collateral of another format counts as none. */
export async function verifyEvidence(
  evidence: Evidence,
  collateral: Collateral | null,
  context: EvidenceContext & { nonce?: Uint8Array },
): Promise<Verdict> {
  switch (evidence.format) {
    case 'tdx':
      return verifyTdx(evidence.quote, collateralOf(collateral, 'tdx'), context)
    case 'snp':
      return verifySnp(evidence.report, collateralOf(collateral, 'snp'), context)
    case 'nitro':
      return verifyNitro(evidence.document, context)
    case 'gpu':
      return verifyGpu(evidence, collateralOf(collateral, 'gpu'), { ...context, nonce: context.nonce ?? null })
  }
}

/** Judges evidence under each set of roots in turn; only a foreign root is worth asking the next set about, and only the rows of the verdict returned are told. Throws TypeError where no roots are given. */
export async function verifyUnderRoots(
  evidence: Evidence,
  collateral: Collateral | null,
  { roots: sets, trace, ...context }: Omit<EvidenceContext, 'roots'> & { roots: readonly Roots[]; nonce?: Uint8Array },
): Promise<Verdict> {
  for (const [index, roots] of sets.entries()) {
    const rows: Check[] = []
    const verdict = await verifyEvidence(evidence, collateral, { ...context, roots, trace: (row) => rows.push(row) })
    if (verdict.refusals[0]?.reason === 'untrusted_root' && index < sets.length - 1) continue
    if (trace) rows.forEach(trace)
    return verdict
  }
  throw new TypeError('Trusting no root verifies nothing: name at least one set of roots.')
}
