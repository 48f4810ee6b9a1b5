import {
  type AttestedVerdict,
  type AttestedVerdictJson,
  attestedVerdictDigest,
  attestedVerdictFromJson,
  attestedVerdictToJson,
} from './attestedVerdict.ts'
import {
  attestedVerdictOf,
  judgeRegistration,
  publishedDigest,
  type RegistrationClaim,
  type RegistrationJson,
  registrationFromJson,
  registrationToJson,
} from './attestRegistration.ts'
import { EncodingError, fromHex, type Hex, toHex } from './bytes.ts'
import type { GpuCollateral } from './evidence/gpu.ts'
import {
  type Collateral,
  type CollateralJson,
  type CollateralOf,
  collateralFromJson,
  collateralToJson,
  type Policy,
  type Roots,
} from './evidence/index.ts'
import { recoverAddress } from './secp256k1.ts'

/** Says where a verdict counts. */
export type VerdictDomain = { chainId: number; escrow: Hex; registry: Hex }

/** Holds everything a verifier went by, and what it signed: enough for anyone to come to the same verdict, or to show that it is false. */
export type PublishedVerdict = {
  format: 'assay-verdict-1'
  domain: VerdictDomain
  registration: RegistrationJson
  nonceBlock: string
  collateral: CollateralJson | null
  gpuCollateral: CollateralJson
  /** When it was judged, in unix seconds, and under which policy. */
  judgedAt: number
  policy: string
  attested: AttestedVerdictJson
  signature: Hex
}

/** Words a verdict for publication. */
export function publishVerdict(given: {
  domain: VerdictDomain
  claim: RegistrationClaim
  nonceBlock: bigint
  collateral: Collateral | null
  gpuCollateral: GpuCollateral
  judgedAt: number
  policy: Policy
  attested: AttestedVerdict
  signature: Uint8Array
}): PublishedVerdict {
  return {
    format: 'assay-verdict-1',
    domain: given.domain,
    registration: registrationToJson(given.claim),
    nonceBlock: given.nonceBlock.toString(),
    collateral: given.collateral && collateralToJson(given.collateral),
    gpuCollateral: collateralToJson({ format: 'gpu', ...given.gpuCollateral }),
    judgedAt: given.judgedAt,
    policy: given.policy.version,
    attested: attestedVerdictToJson(given.attested),
    signature: toHex(given.signature),
  }
}

/** Tells one comparison of a replay. */
export type ReplayCheck = { check: string; status: 'passed' | 'failed' | 'unknown'; detail: string }

/** Says whether a published verdict is what its evidence shows. `verifier` is whoever signed it. */
export type Replay = { verdict: 'verified' | 'refuted'; verifier: Hex | null; checks: ReplayCheck[] }

/** Judges published evidence again, as of when it was judged, and compares what comes out with what was signed. Whether the nonce was recent then is left open: an archive node knows. Never throws on a bad record. */
export async function replayVerdict(
  published: PublishedVerdict,
  { roots, policy }: { roots: readonly Roots[]; policy: Policy },
): Promise<Replay> {
  const checks: ReplayCheck[] = []
  const check = (name: string, passed: boolean, detail: string) =>
    void checks.push({ check: name, status: passed ? 'passed' : 'failed', detail })
  let verifier: Hex | null = null
  try {
    if (published?.format !== 'assay-verdict-1')
      throw new EncodingError('Not a published verdict: its format is not "assay-verdict-1".')
    const { domain } = published
    const attested = attestedVerdictFromJson(published.attested)
    verifier = recoverAddress(attestedVerdictDigest(domain, attested), fromHex(published.signature))
    check('signature', verifier !== null, `signed by ${verifier ?? 'nobody'}`)
    check(
      'policy',
      published.policy === policy.version,
      `judged under ${published.policy}, replayed under ${policy.version}`,
    )
    const claim = registrationFromJson(published.registration)
    const digest = publishedDigest(claim)
    check('evidence digest', digest === attested.evidenceDigest, `the evidence has digest ${digest}`)
    const judged = await judgeRegistration(claim, published.collateral && collateralFromJson(published.collateral), {
      now: published.judgedAt,
      roots,
      policy,
      gpuCollateral: collateralFromJson(published.gpuCollateral) as CollateralOf<'gpu'>,
      domain,
      registry: domain.registry,
    })
    const why = judged.ok ? `${judged.verdict.tee} on a ${judged.verdict.root} root` : judged.refusal.detail
    check('registration', judged.ok, why)
    const again = judged.ok ? attestedVerdictOf(claim, judged, attested.policyEpoch) : null
    const differing = Object.entries(attested).filter(
      ([field, value]) => again?.[field as keyof AttestedVerdict] !== value,
    )
    check(
      'verdict',
      differing.length === 0,
      differing.length === 0
        ? 'every field as it was signed'
        : `differs in ${differing.map(([name]) => name).join(', ')}`,
    )
    checks.push({
      check: 'nonce',
      status: 'unknown',
      detail: `whether block ${published.nonceBlock} had this hash and was recent then, an archive node knows`,
    })
  } catch (error) {
    check('form', false, error instanceof Error ? error.message : 'The record cannot be read.')
  }
  return { verdict: checks.some(({ status }) => status === 'failed') ? 'refuted' : 'verified', verifier, checks }
}
