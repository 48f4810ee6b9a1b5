import type { AttestedVerdict } from './attestedVerdict.ts'
import { teeNumbers } from './attestedVerdict.ts'
import { EncodingError, fromHex, type Hex, toHex, utf8 } from './bytes.ts'
import { canonicalJson } from './canonicalJson.ts'
import type { Domain } from './eip712.ts'
import { checkGpuLink, type GpuCollateral } from './evidence/gpu.ts'
import {
  type Claim,
  type Collateral,
  type Evidence,
  type EvidenceCache,
  type EvidenceOf,
  evidenceFromJson,
  evidenceToJson,
  type Policy,
  type Refusal,
  type Roots,
  type Verdict,
  verifyUnderRoots,
} from './evidence/index.ts'
import { checkStatement, gpuNonce, type Statement } from './evidence/statement.ts'
import { tcbRank } from './evidence/verdict.ts'
import { sha256 } from './hash.ts'
import { registrationDigest } from './registration.ts'
import { recoverAddress } from './secp256k1.ts'

/** Holds what a runner says of itself when it registers: its statement, the evidence that vouches for it, its GPUs' evidence, and its key's word on who is paid. */
export type RegistrationClaim = {
  statement: Uint8Array
  evidence: Evidence
  gpus: readonly EvidenceOf<'gpu'>[]
  provider: Hex
  signature: Uint8Array
}

/** Shows a registration as JSON, as it is posted and published. */
export type RegistrationJson = {
  statement: Hex
  evidence: Record<string, unknown>
  gpus?: Record<string, unknown>[]
  registration: { provider: Hex; signature: Hex }
}

/** Turns a registration into JSON. */
export function registrationToJson(claim: RegistrationClaim): RegistrationJson {
  const { statement, evidence, gpus, provider, signature } = claim
  return {
    statement: toHex(statement),
    evidence: evidenceToJson(evidence),
    ...(gpus.length > 0 ? { gpus: gpus.map(evidenceToJson) } : {}),
    registration: { provider, signature: toHex(signature) },
  }
}

/** Most GPUs in one machine. */
const maxGpus = 16

/** Reads the evidence of a machine's GPUs. Throws EncodingError. */
export function gpusFromJson(gpus: readonly unknown[]): EvidenceOf<'gpu'>[] {
  if (gpus.length > maxGpus) throw new EncodingError(`A registration: at most ${maxGpus} GPUs.`)
  return gpus.map((json) => {
    const evidence = evidenceFromJson(json)
    if (evidence.format !== 'gpu') throw new EncodingError(`Evidence: ${evidence.format} stands where a GPU belongs.`)
    return evidence
  })
}

/** Reads a registration from parsed JSON. Throws EncodingError naming what is wrong. */
export function registrationFromJson(json: unknown): RegistrationClaim {
  const { statement, evidence, gpus = [], registration } = (json ?? {}) as Partial<RegistrationJson>
  const text = (value: unknown, field: string, size?: number) => {
    if (typeof value !== 'string') throw new EncodingError(`A registration: ${field} must be hexadecimal text.`)
    return fromHex(value, size)
  }
  if (!Array.isArray(gpus)) throw new EncodingError('A registration: gpus must be a list.')
  return {
    statement: text(statement, 'statement'),
    evidence: evidenceFromJson(evidence),
    gpus: gpusFromJson(gpus),
    provider: toHex(text(registration?.provider, 'registration.provider', 20)),
    signature: text(registration?.signature, 'registration.signature', 65),
  }
}

/** Computes the digest under which a registration is published: SHA-256 of its canonical JSON (RFC 8785). It holds nothing a verifier fetched, so all verifiers come to the same. */
export function publishedDigest(claim: RegistrationClaim): Hex {
  return toHex(sha256(utf8(canonicalJson(registrationToJson(claim)))))
}

/** Holds what judging needs besides the claim: clock (unix seconds), roots, policy, the GPUs' references. */
export type JudgingContext = {
  now: number
  roots: readonly Roots[]
  policy: Policy
  cache?: EvidenceCache
  gpuCollateral: GpuCollateral
}

/** Says what is known of a machine's GPUs, or why they are refused. */
export type GpuJudgement = { ok: true; claims: Claim[] } | { ok: false; refusal: Refusal }

/** Judges the GPUs a runner shows beside its quote: each by itself, answering the nonce that names the runner's keys, and all of them the ones the statement names. A GPU that is genuine but not measured against references leaves the claim `unknown`; a false one refuses the registration. */
export async function judgeGpus(
  { statement, signer, gpus }: { statement: Statement; signer: Hex; gpus: readonly EvidenceOf<'gpu'>[] },
  { gpuCollateral, ...context }: JudgingContext,
): Promise<GpuJudgement> {
  const nonce = gpuNonce(statement.nonce, signer, statement.hpkeKey)
  const verdicts = await Promise.all(
    gpus.map((evidence) => verifyUnderRoots(evidence, { format: 'gpu', ...gpuCollateral }, { ...context, nonce })),
  )
  const refusal = verdicts.flatMap(({ refusals }) => refusals)[0] ?? checkGpuLink(statement.gpuEvidence, gpus, verdicts)
  if (refusal) return { ok: false, refusal }
  if (gpus.length === 0) return { ok: true, claims: [] }
  const open = verdicts.filter(({ verdict }) => verdict !== 'verified')
  const detail =
    open.length === 0
      ? `${gpus.length} genuine GPUs, measured against NVIDIA's references, answering this runner's nonce.`
      : `${open.length} of ${gpus.length} genuine GPUs could not be measured: ${open[0]!.claims.find(({ status, claim }) => status === 'unknown' && claim !== 'physically_untampered' && claim !== 'gpu_bound')?.detail}`
  return {
    ok: true,
    claims: [
      { claim: 'gpu_attested', status: open.length === 0 ? 'asserted' : 'unknown', source: 'hardware', detail },
      ...verdicts[0]!.claims.filter(({ claim }) => claim === 'gpu_bound'),
    ],
  }
}

/** Says what a registration proves, or the first thing wrong with it. `validUntil` in unix seconds. */
export type RegistrationVerdict =
  | { ok: true; verdict: Verdict; statement: Statement; signer: Hex; validUntil: number }
  | { ok: false; verdict: Verdict; refusal: Refusal }

/** Judges a whole registration: evidence, statement, GPUs, and that the key the evidence vouches for names the provider. Whether its nonce is recent only the chain can say. Pure; never throws on a bad registration. */
export async function judgeRegistration(
  claim: RegistrationClaim,
  collateral: Collateral | null,
  context: JudgingContext & { domain: Domain; registry: Hex },
): Promise<RegistrationVerdict> {
  const { domain, registry, now } = context
  const verdict = await verifyUnderRoots(claim.evidence, collateral, context)
  const refuse = (refusal: Refusal): RegistrationVerdict => ({ ok: false, verdict, refusal })
  if (verdict.verdict !== 'verified') {
    const [refusal] = verdict.refusals
    const open = verdict.claims.find(({ status, claim }) => status === 'unknown' && claim === 'tcb_current')
    return refuse(refusal ?? { reason: 'undecided', detail: open?.detail ?? 'The evidence does not verify.' })
  }
  if (verdict.reportData === null) return refuse({ reason: 'report_data', detail: 'The evidence names no keys.' })
  const checked = checkStatement(claim.statement, {
    reportData: fromHex(verdict.reportData),
    workload: verdict.measurement!.workload,
    root: verdict.root,
    chainId: Number(domain.chainId),
    registry,
    now,
  })
  if (!checked.ok) return refuse(checked.refusal)
  const { signer, statement } = checked
  const judged = await judgeGpus({ statement, signer, gpus: claim.gpus }, context)
  if (!judged.ok) return refuse(judged.refusal)
  const digest = registrationDigest(domain, {
    runner: signer,
    provider: claim.provider,
    statement: toHex(sha256(claim.statement)),
  })
  if (recoverAddress(digest, claim.signature) !== signer)
    return refuse({
      reason: 'not_signed_by_runner',
      detail: 'The registration is not signed by the key the evidence vouches for.',
    })
  return {
    ok: true,
    verdict: { ...verdict, claims: [...verdict.claims, ...judged.claims] },
    statement,
    signer,
    validUntil: Math.min(verdict.validUntil, Number(statement.notAfter)),
  }
}

/** Words a judgement as the verdict that verifiers sign. It lasts until the statement's end, which every verifier reads alike; null where the evidence runs out before that, or a TCB level is not known. */
export function attestedVerdictOf(
  claim: RegistrationClaim,
  judged: Extract<RegistrationVerdict, { ok: true }>,
  policyEpoch: number,
): AttestedVerdict | null {
  const { verdict, signer, statement } = judged
  const lasts = verdict.validUntil >= Number(statement.notAfter)
  // AWS publishes no levels, so an enclave's is the only one there is.
  const tier = verdict.tee === 'nitro' ? 0 : verdict.tcbStatus && tcbRank(verdict.tcbStatus)
  if (!lasts || tier === null || verdict.tee === 'gpu') return null
  const gpu = verdict.claims.some(({ claim, status }) => claim === 'gpu_attested' && status === 'asserted')
  return {
    evidenceDigest: publishedDigest(claim),
    signer,
    provider: claim.provider,
    workload: verdict.measurement!.workload,
    tee: teeNumbers[verdict.tee] + (gpu ? teeNumbers.gpu : 0),
    tcbTier: tier,
    validUntil: statement.notAfter,
    policyEpoch,
  }
}
