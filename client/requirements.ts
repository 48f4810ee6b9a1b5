import type { Hex } from '../protocol/bytes.ts'
import { tcbRank, type tcbStatuses, type Verdict } from '../protocol/evidence/verdict.ts'
import { VerificationError } from './errors.ts'

/** Says what a machine has to be; ages in seconds. */
export type Requirements = {
  tee?: string
  /** The worst TCB status accepted, in Intel's order. */
  tcbStatus?: (typeof tcbStatuses)[number]
  gpuAttested?: boolean
  measurement?: Hex
  /** Where the provider says the machine stands; the edge's word, which no evidence proves. */
  region?: string
  /** How long ago the edge may have verified the machine; the edge's word, since the buyer verifies it again anyway. */
  maxAttestationAgeSeconds?: number
  /** Stake that stands until the last receipt of the channel is beyond dispute, in the token's smallest unit, as decimal text. Read from the chain: see `coverOf`. */
  minStake?: string
}

/** Holds a verdict against what was required of the machine: the edge chose it, and nobody takes its word. Throws VerificationError `requirements_unmet`. */
export function checkRequirements(verdict: Verdict, required: Requirements): void {
  const { tee, tcbStatus, gpuAttested, measurement } = required
  const refuse = (what: string, wanted: unknown, has: unknown) =>
    new VerificationError('requirements_unmet', `The machine's ${what} is ${has}; ${wanted} was required.`)
  if (tee !== undefined && verdict.tee !== tee) throw refuse('TEE', tee, verdict.tee)
  if (tcbStatus !== undefined && tcbRank(verdict.tcbStatus) > tcbRank(tcbStatus))
    throw refuse('TCB status', tcbStatus, verdict.tcbStatus)
  if (measurement !== undefined && verdict.measurement?.workload !== measurement)
    throw refuse('workload', measurement, verdict.measurement?.workload ?? null)
  const attested = verdict.claims.some(({ claim, status }) => claim === 'gpu_attested' && status === 'asserted')
  if (gpuAttested && !attested) throw refuse('GPU attestation', 'asserted', 'not asserted')
}

/** Holds a runner's stake against what was required of it, as the chain has it and not as the edge says; `until` in unix seconds. Throws VerificationError `requirements_unmet`, also where nobody can say. */
export async function checkStake(
  { runner, until, minStake }: { runner: Hex; until: bigint; minStake: string | undefined },
  coverOf: ((runner: Hex, until: bigint) => Promise<bigint>) | undefined,
): Promise<void> {
  if (minStake === undefined) return
  if (!coverOf)
    throw new VerificationError(
      'requirements_unmet',
      'A stake is required and no chain was given to read it from: pass `coverOf`, as `coverReader` makes it.',
    )
  const cover = await coverOf(runner, until)
  if (cover < BigInt(minStake))
    throw new VerificationError(
      'requirements_unmet',
      `The runner's stake vouches for ${cover} until ${new Date(Number(until) * 1000).toISOString()}; ${minStake} was required.`,
    )
}
