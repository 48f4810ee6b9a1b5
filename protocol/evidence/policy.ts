import type { Hex } from '../bytes.ts'
import type { AmdProduct } from './roots.ts'
import type { SnpTcb } from './snpReport.ts'
import type { TcbStatus } from './verdict.ts'

/** Names the fields of a TD that a policy may pin, beyond the workload digest that stands for all of them. */
export type TdxMeasurements = Partial<
  Record<'mrseam' | 'mrtd' | 'rtmr0' | 'rtmr1' | 'rtmr2' | 'rtmr3' | 'mrconfigid' | 'xfam' | 'tdattributes', Hex>
>

/** Says what an SNP guest must show: AMD signs no table of what is current, so the minimum is ours. */
export type SnpPolicy = {
  refusedProducts: readonly AmdProduct[]
  minimumTcb: Readonly<Record<AmdProduct, Partial<SnpTcb>>>
  /** Leaves the verdict `unknown` for a product that has no minimum; otherwise the claim alone is unknown. */
  requireMinimumTcb: boolean
  /** Requires ALIAS_CHECK_COMPLETE, without which memory modules that lie about their size go unnoticed (AMD-SB-3015). */
  requireAliasCheck: boolean
  /** Accepts firmware that is running but not committed, which could be rolled back. */
  provisionalFirmware: boolean
  maxVmpl: number
}

/** Says what a Nitro enclave must show. */
export type NitroPolicy = {
  /** Sets of PCRs accepted, by number: every register named in one of them must be equal; `any` compares none. Zero registers are always refused. */
  pcrs: readonly Readonly<Record<string, Hex>>[] | 'any'
  maxAgeSeconds: number
}

/** Says what a GPU must show. */
export type GpuPolicy = {
  /** Accepts certificates that OCSP says are on hold. */
  acceptHold: boolean
  /** Accepts reference measurements whose signing certificate has expired since. */
  acceptExpiredRim: boolean
  /** Requires the GPU to report the firmware identity its certificate names; drivers before 550 do not report it. */
  requireFirmwareIdentity: boolean
}

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
  /** Refuses evidence whose chain could not be compared with a revocation list; otherwise the claim is `unknown`. Intel's lists are always required. */
  requireRevocation: boolean
  snp: SnpPolicy
  nitro: NitroPolicy
  gpu: GpuPolicy
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
  requireRevocation: true,
  snp: {
    // Milan's root seed can be read by software alone (arXiv 2605.12990), so a report of any Milan chip may be forged.
    refusedProducts: ['Milan'],
    // The lowest versions at which the reports we hold show the alias check done; raised by hand as AMD's bulletins come out.
    minimumTcb: { Milan: { snp: 24 }, Genoa: { bootloader: 10, snp: 23 }, Turin: {} },
    requireMinimumTcb: true,
    requireAliasCheck: true,
    provisionalFirmware: false,
    maxVmpl: 0,
  },
  nitro: { pcrs: 'any', maxAgeSeconds: 300 },
  gpu: { acceptHold: false, acceptExpiredRim: false, requireFirmwareIdentity: true },
}

/** Judges evidence as its vendor's own verifier does, within the dates the vendor set: for looking at evidence, kept or foreign, where no registration hangs on it. */
export const evidencePolicy: Policy = {
  ...defaultPolicy,
  version: 'vendor-dates-1',
  maxCollateralAgeSeconds: Number.MAX_SAFE_INTEGER,
  minTcbEvaluationDataNumber: 0,
  requireRevocation: false,
  snp: {
    refusedProducts: [],
    minimumTcb: { Milan: {}, Genoa: {}, Turin: {} },
    requireMinimumTcb: false,
    requireAliasCheck: false,
    provisionalFirmware: true,
    maxVmpl: 3,
  },
  nitro: { pcrs: 'any', maxAgeSeconds: 3 * 3_600 },
  gpu: { acceptHold: false, acceptExpiredRim: false, requireFirmwareIdentity: false },
}
