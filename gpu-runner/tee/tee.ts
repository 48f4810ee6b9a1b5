import type { Collateral, EvidenceOf } from '../../protocol/evidence/index.ts'

/** Gives evidence for 64 bytes of report data; says which kind of root the evidence stands on. A TEE that has collateral of its own gives it; the vendor's is fetched. */
export type Tee = {
  root: 'vendor' | 'development'
  evidence(reportData: Uint8Array): Promise<EvidenceOf<'tdx' | 'snp'>>
  collateral?(): Promise<Collateral>
}
