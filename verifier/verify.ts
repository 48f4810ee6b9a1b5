import { attestedVerdictDigest } from '../protocol/attestedVerdict.ts'
import { attestedVerdictOf, judgeRegistration, type RegistrationClaim } from '../protocol/attestRegistration.ts'
import { equalBytes, fromHex, type Hex } from '../protocol/bytes.ts'
import type { GpuCollateral, GpuEvidence } from '../protocol/evidence/gpu.ts'
import type { Collateral, Evidence, EvidenceCache, Policy, Refusal, Roots } from '../protocol/evidence/index.ts'
import { unanswered } from '../protocol/evidence/ocsp.ts'
import { type PublishedVerdict, publishVerdict, type VerdictDomain } from '../protocol/publishedVerdict.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import { reach, SourceUnavailableError } from './unavailable.ts'

/** Reads what a verifier must know of the chain. Every call may throw. */
export type VerifierChain = {
  /** Gives the registry's policy epoch, and the newest block whose hash its kill switch has spent. */
  standing(): Promise<{ policyEpoch: number; killedBlock: bigint }>
  latestBlock(): Promise<bigint>
  /** Gives a block's hash; null where there is no such block. */
  blockHash(number: bigint): Promise<Hex | null>
}

/** Gets what vendors say of platforms. */
export type CollateralKeeper = {
  /** Gives a platform's collateral; null where evidence brings its own. Throws CollateralUnavailableError, or EncodingError and UnsupportedQuoteError on malformed evidence. */
  collateralFor(evidence: Evidence): Promise<Collateral | null>
  /** Lets go of what evidence did not verify with. */
  forget(evidence: Evidence): void
}

/** Refusals that collateral may be to blame for. */
const collateralReasons = /^(certificate|crl|untrusted|collateral|platform_mismatch)/

/** Holds what judging works with; clock in milliseconds. */
export type VerifyDeps = {
  signer: Signer
  domain: VerdictDomain
  roots: readonly Roots[]
  policy: Policy
  chain: VerifierChain
  collateral: CollateralKeeper
  /** Gets what GPUs are measured against and whether their certificates stand. Throws EncodingError on a malformed chain. */
  gpuCollateral(gpus: readonly GpuEvidence[]): Promise<GpuCollateral>
  cache: EvidenceCache
  now(): number
}

/** Holds a signed verdict, or what is wrong with the registration. */
export type Verification = { ok: true; published: PublishedVerdict } | { ok: false; refusals: Refusal[] }

/** How far back the chain itself can look for a nonce, in blocks (EIP-2935). */
const nonceBlocks = 8_191n

async function checkNonce(
  chain: VerifierChain,
  nonce: Uint8Array,
  block: bigint,
  killedBlock: bigint,
): Promise<Refusal | null> {
  const refuse = (detail: string): Refusal => ({ reason: 'nonce_not_recent', detail })
  const latest = await reach('chain', () => chain.latestBlock())
  if (block > latest || latest - block > nonceBlocks)
    return refuse(`Block ${block} is not among the last ${nonceBlocks}; the newest is ${latest}.`)
  if (block <= killedBlock) return refuse(`Nonces up to block ${killedBlock} ended with the kill switch; attest again.`)
  const hash = await reach('chain', () => chain.blockHash(block))
  return hash && equalBytes(fromHex(hash, 32), nonce) ? null : refuse(`The nonce is not the hash of block ${block}.`)
}

/** Judges a registration as strictly as the registry judges a TDX quote, and signs the verdict. What it went by comes with it, to be published. Throws SourceUnavailableError where the chain or the OCSP responder is away, and what its other dependencies throw: then nothing is known. */
export async function verifyRegistration(
  deps: VerifyDeps,
  claim: RegistrationClaim,
  nonceBlock: bigint,
): Promise<Verification> {
  const { signer, domain, roots, policy, chain, cache } = deps
  const collateral = await deps.collateral.collateralFor(claim.evidence)
  const gpuCollateral = claim.gpus.length > 0 ? await deps.gpuCollateral(claim.gpus) : { rims: [], ocsp: null }
  const judgedAt = Math.floor(deps.now() / 1000)
  const { registry } = domain
  const judged = await judgeRegistration(claim, collateral, {
    now: judgedAt,
    roots,
    policy,
    cache,
    gpuCollateral,
    domain,
    registry,
  })
  if (!judged.ok) {
    if (collateralReasons.test(judged.refusal.reason)) deps.collateral.forget(claim.evidence)
    return { ok: false, refusals: [judged.refusal] }
  }
  const { ocsp } = gpuCollateral
  // A machine that verifies but for this would be registered for a day as one whose GPUs nobody knows about.
  if (ocsp && unanswered(claim.gpus, ocsp).length > 0) throw new SourceUnavailableError('OCSP responder')
  const { policyEpoch, killedBlock } = await reach('chain', () => chain.standing())
  const refusal = await checkNonce(chain, judged.statement.nonce, nonceBlock, killedBlock)
  if (refusal) return { ok: false, refusals: [refusal] }
  const attested = attestedVerdictOf(claim, judged, policyEpoch)
  if (!attested) {
    const detail = `The statement lasts until ${judged.statement.notAfter}, the evidence until ${judged.verdict.validUntil}: state an earlier end.`
    return { ok: false, refusals: [{ reason: 'expires_early', detail }] }
  }
  const signature = await signer.sign(attestedVerdictDigest(domain, attested))
  const published = publishVerdict({
    domain,
    claim,
    nonceBlock,
    collateral,
    gpuCollateral,
    judgedAt,
    policy,
    attested,
    signature,
  })
  return { ok: true, published }
}
