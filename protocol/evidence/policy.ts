import type { Hex } from '../bytes.ts'
import type { TcbStatus } from './verdict.ts'

/** Names the fields of a TD that a policy may pin, beyond the workload digest that stands for all of them. */
export type TdxMeasurements = Partial<
  Record<'mrseam' | 'mrtd' | 'rtmr0' | 'rtmr1' | 'rtmr2' | 'rtmr3' | 'mrconfigid' | 'xfam' | 'tdattributes', Hex>
>

/** Says what evidence must show to be verified; explicit and versioned, because two verifiers agree only under the same policy. */
export type Policy = {
  version: string
  /** TCB statuses accepted for platform, module and quoting enclave alike. */
  tcbStatuses: readonly TcbStatus[]
  /** Seconds for which a platform that has fallen behind is still accepted, counted from the date of the TCB level it lacks; 0 for none. Revoked and unsupported platforms have no grace. */
  graceSeconds: number
  /** Oldest collateral accepted, counted from its issue date, in seconds. */
  maxCollateralAgeSeconds: number
  /** Lowest tcbEvaluationDataNumber accepted. */
  minTcbEvaluationDataNumber: number
  /** Workload digests accepted; `any` leaves the choice to whoever reads the verdict, and the claim says so. */
  workloads: readonly Hex[] | 'any'
  /** Sets of TD measurements accepted: every field named in one of them must be equal; `any` compares none. */
  tdxMeasurements: readonly TdxMeasurements[] | 'any'
  /** Platform models refused, by FMSPC (12 hex digits, lower case). */
  deniedFmspcs: readonly string[]
  /** Single machines refused: PPID of a TDX platform, chip id of an SNP one, device id of a GPU (lower-case hex without a prefix). */
  deniedPlatforms: readonly string[]
}

/** Accepts up-to-date platforms with collateral at most 14 days old: Intel re-signs daily, and once left a gap of 7.4 days. */
export const defaultPolicy: Policy = {
  version: 'assay-2',
  tcbStatuses: ['UpToDate', 'SWHardeningNeeded'],
  graceSeconds: 0,
  maxCollateralAgeSeconds: 14 * 86_400,
  minTcbEvaluationDataNumber: 17,
  workloads: 'any',
  tdxMeasurements: 'any',
  deniedFmspcs: [],
  deniedPlatforms: [],
}

/** Judges evidence as its vendor's own verifier does, within the dates the vendor set: for looking at evidence, kept or foreign, where no registration hangs on it. */
export const evidencePolicy: Policy = {
  ...defaultPolicy,
  version: 'vendor-dates-1',
  maxCollateralAgeSeconds: Number.MAX_SAFE_INTEGER,
  minTcbEvaluationDataNumber: 0,
}
