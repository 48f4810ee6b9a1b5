import { type TcbStatus, tcbRank, type tcbStatuses } from '../../protocol/evidence/verdict.ts'

/** Holds what a buyer asks of a machine. Prices in the token's smallest unit, ages in seconds. */
export type Requirements = {
  tee?: string
  /** The worst status accepted, in Intel's order. */
  tcbStatus?: (typeof tcbStatuses)[number]
  gpuAttested?: boolean
  measurement?: string
  region?: string
  maxPrice?: string
  maxAttestationAgeSeconds?: number
  exclude?: readonly string[]
}

/** Lists why a runner does not match. */
export const mismatchReasons = [
  'excluded',
  'attestation_expired',
  'attestation_age',
  'tee',
  'tcb_status',
  'gpu',
  'measurement',
  'region',
] as const

/** Names why a runner does not match. */
export type MismatchReason = (typeof mismatchReasons)[number]

/** Holds what matching reads of a runner that serves a model. Times in unix seconds. */
export type Candidate = {
  signer: string
  provider: string
  hpkeKey: string
  evidenceDigest: string
  validUntil: number
  verifiedAt: number
  capacity: number
  tee: string | null
  tcbStatus: TcbStatus | null
  gpuAttested: boolean
  measurement: string | null
  region: string | null
  /** Whether the model is held in memory and not only on disk. */
  warm: boolean
}

/** Says one thing a runner misses. */
export type Miss = { reason: MismatchReason; wanted: unknown; has: unknown }

/** Lists what a candidate misses; none when it fits. Pure; `now` in unix seconds. */
export function missesOf(candidate: Candidate, wanted: Requirements, now: number): Miss[] {
  const misses: Miss[] = []
  const miss = (failed: boolean, reason: MismatchReason, asked: unknown, has: unknown) => {
    if (failed) misses.push({ reason, wanted: asked, has })
  }
  const { exclude, tee, tcbStatus, gpuAttested, measurement, region, maxAttestationAgeSeconds: age } = wanted
  miss(exclude?.includes(candidate.signer) === true, 'excluded', null, candidate.signer)
  miss(candidate.validUntil <= now, 'attestation_expired', now, candidate.validUntil)
  miss(age !== undefined && now - candidate.verifiedAt > age, 'attestation_age', age, now - candidate.verifiedAt)
  miss(tee !== undefined && tee !== candidate.tee, 'tee', tee, candidate.tee)
  miss(
    tcbStatus !== undefined && tcbRank(candidate.tcbStatus) > tcbRank(tcbStatus),
    'tcb_status',
    tcbStatus,
    candidate.tcbStatus,
  )
  miss(gpuAttested === true && !candidate.gpuAttested, 'gpu', true, candidate.gpuAttested)
  miss(
    measurement !== undefined && measurement !== candidate.measurement,
    'measurement',
    measurement,
    candidate.measurement,
  )
  miss(region !== undefined && region !== candidate.region, 'region', region, candidate.region)
  return misses
}
