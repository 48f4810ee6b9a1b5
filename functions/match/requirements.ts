import { type TcbStatus, tcbRank, type tcbStatuses } from '../../protocol/evidence/verdict.ts'
import { coverOf, coverUntil, type StakePosition } from '../../protocol/stake.ts'

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
  /** Stake that nobody can withdraw before a channel opened now is beyond dispute. */
  minStake?: string
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
  'stake',
  'slashed',
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
  stake: StakePosition
  /** Whether its key was shown to have signed two answers to one job. */
  slashed: boolean
  /** Whether the model is held in memory and not only on disk. */
  warm: boolean
}

/** How long a buyer's channel lasts at most, in seconds: a stake must outlast it by the dispute window. */
const channelSeconds = 86_400n

/** Tells what of a stake vouches for a channel opened at `now`, in unix seconds. */
export const coverAt = (stake: StakePosition, now: number): bigint =>
  coverOf(stake, coverUntil(BigInt(now) + channelSeconds), BigInt(now))

/** Says one thing a runner misses. */
export type Miss = { reason: MismatchReason; wanted: unknown; has: unknown }

/** Lists what a candidate misses; none when it fits. Pure; `now` in unix seconds. */
export function missesOf(candidate: Candidate, wanted: Requirements, now: number): Miss[] {
  const misses: Miss[] = []
  const miss = (failed: boolean, reason: MismatchReason, asked: unknown, has: unknown) => {
    if (failed) misses.push({ reason, wanted: asked, has })
  }
  const { exclude, tee, tcbStatus, gpuAttested, measurement, region, maxAttestationAgeSeconds: age, minStake } = wanted
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
  if (minStake !== undefined) {
    const cover = coverAt(candidate.stake, now)
    miss(cover < BigInt(minStake), 'stake', minStake, String(cover))
  }
  miss(candidate.slashed, 'slashed', null, true)
  return misses
}
