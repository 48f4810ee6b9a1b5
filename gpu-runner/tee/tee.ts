import type { Evidence } from '../../protocol/evidence/index.ts'

/** Gives evidence for 64 bytes of report data; says which kind of root the evidence stands on. */
export type Tee = { root: 'vendor' | 'development'; evidence(reportData: Uint8Array): Promise<Evidence> }
