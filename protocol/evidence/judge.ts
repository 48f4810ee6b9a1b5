import type { Hex } from '../bytes.ts'
import type { EvidenceCache } from './cache.ts'
import type { Trace } from './checks.ts'
import type { Policy } from './policy.ts'
import type { Roots } from './roots.ts'
import { type Claim, type EvidenceRefusalReason, type Refusal, Refused, require, type Verdict } from './verdict.ts'

/** Holds what a verification rests on besides the evidence: the clock (unix seconds), the roots, the policy; and, optionally, a cache and somewhere to tell each row. */
export type EvidenceContext = { now: number; roots: Roots; policy: Policy; cache?: EvidenceCache; trace?: Trace }

/** Holds what a verification has found so far; filled in as facts become known, so that a refusal still says what was seen. */
export type Found = Omit<Verdict, 'verdict' | 'tee' | 'root' | 'refusals'>

/** Starts with nothing found but what no evidence of any kind can show. */
function foundNothing(): Found {
  return {
    tcbStatus: null,
    moduleStatus: null,
    qeStatus: null,
    advisories: [],
    measurement: null,
    reportData: null,
    debug: null,
    validUntil: 0,
    claims: [
      {
        claim: 'physically_untampered',
        status: 'unknown',
        source: 'operator',
        detail: 'No evidence can show that nobody has tapped the memory bus.',
      },
    ],
  }
}

/** Adds a claim that held. */
export function assert(found: Found, claim: string, detail: string, source: Claim['source'] = 'verifier'): void {
  found.claims.push({ claim, status: 'asserted', source, detail })
}

/** Compares a workload digest with the policy's list, where it has one; `pinned` says that measurements were compared some other way already. */
export function checkWorkload(found: Found, workload: Hex, { policy, trace }: EvidenceContext, pinned = false): void {
  const listed = policy.workloads !== 'any'
  require(!listed ||
    policy.workloads.includes(workload), 'measurement_not_allowed', `Workload ${workload} is not on the policy's list.`)
  const known = listed || pinned
  const detail = known
    ? `Workload ${workload} is on the policy's list.`
    : 'The policy lists no workloads; compare the measurement yourself.'
  found.claims.push({ claim: 'workload_allowed', status: known ? 'asserted' : 'unknown', source: 'verifier', detail })
  trace?.({
    check: 'workload',
    status: known ? 'passed' : 'unknown',
    compared: workload,
    with: 'allow-list',
    from: `policy ${policy.version}`,
    detail,
  })
}

/** Runs a verification and words its end as a verdict; one that ends `unknown` has left something open that it may not pass. Only a refusal refutes with its own reason; anything else thrown is a defect of the verifier, and a defect must never verify. */
export async function judge<C>(
  tee: Verdict['tee'],
  malformed: EvidenceRefusalReason,
  { roots }: EvidenceContext,
  collateral: C | null,
  verify: (collateral: C, found: Found) => Promise<'unknown' | undefined>,
): Promise<Verdict> {
  const found = foundNothing()
  const base = { tee, root: roots.kind }
  if (collateral === null) {
    found.claims.push({
      claim: 'collateral',
      status: 'unknown',
      source: 'verifier',
      detail: 'No collateral: nothing was checked.',
    })
    return { ...base, ...found, verdict: 'unknown', refusals: [] }
  }
  try {
    const open = await verify(collateral, found)
    return { ...base, ...found, verdict: open ?? 'verified', refusals: [] }
  } catch (error) {
    const refusal: Refusal =
      error instanceof Refused ? error.refusal : { reason: malformed, detail: 'The evidence could not be read.' }
    found.claims.push({ claim: refusal.reason, status: 'refuted', source: 'verifier', detail: refusal.detail })
    return { ...base, ...found, verdict: 'refuted', validUntil: 0, refusals: [refusal] }
  }
}
