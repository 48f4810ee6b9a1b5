import type { Hex } from '../bytes.ts'
import type { TcbStatus } from './verdict.ts'

/** Says what evidence must show to be verified; explicit and versioned, because two verifiers agree only under the same policy. */
export type Policy = {
  version: string
  /** TCB statuses accepted for platform, module and quoting enclave alike. */
  tcbStatuses: readonly TcbStatus[]
  /** Oldest collateral accepted, counted from its issue date, in seconds. */
  maxCollateralAgeSeconds: number
  /** Lowest tcbEvaluationDataNumber accepted. */
  minTcbEvaluationDataNumber: number
  /** Workload digests accepted; `any` leaves the choice to whoever reads the verdict, and the claim says so. */
  workloads: readonly Hex[] | 'any'
  /** Platforms refused, by FMSPC (12 hex digits, lower case). */
  deniedFmspcs: readonly string[]
}

/** Accepts up-to-date platforms with collateral at most 14 days old: Intel re-signs daily, and once left a gap of 7.4 days. */
export const defaultPolicy: Policy = {
  version: 'assay-1',
  tcbStatuses: ['UpToDate', 'SWHardeningNeeded'],
  maxCollateralAgeSeconds: 14 * 86_400,
  minTcbEvaluationDataNumber: 17,
  workloads: 'any',
  deniedFmspcs: [],
}
