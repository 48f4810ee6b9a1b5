import type { Hex } from '../bytes.ts'
import type { EvidenceOf } from './index.ts'
import { nitroWorkload, parseNitroDocument } from './nitro.ts'
import { parseTdxQuote, tdxWorkload } from './quote.ts'
import { parseSnpReport, snpWorkload } from './snpReport.ts'

/** Computes the digest that names the workload a machine's evidence measures. Throws EncodingError or UnsupportedQuoteError on malformed evidence. */
export function workloadOf(evidence: EvidenceOf<'tdx' | 'snp' | 'nitro'>): Hex {
  if (evidence.format === 'tdx') return tdxWorkload(parseTdxQuote(evidence.quote).body)
  if (evidence.format === 'snp') return snpWorkload(parseSnpReport(evidence.report))
  return nitroWorkload(parseNitroDocument(evidence.document))
}
