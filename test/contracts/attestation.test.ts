import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createDevelopmentTee, type TeeFault } from '../../gpu-runner/tee/development.ts'
import { toHex } from '../../protocol/bytes.ts'
import {
  type CollateralOf,
  defaultPolicy,
  type Policy,
  type Roots,
  vendorRoots,
  verifyEvidence,
} from '../../protocol/evidence/index.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { tcbStatuses } from '../../protocol/evidence/verdict.ts'
import { realQuotes, recordedPolicy } from '../fixtures/quotes.ts'
import { openRecorded } from './recorded.ts'

type Recorded = Awaited<ReturnType<typeof openRecorded>>
type Outcome = { accepted: boolean; status?: string; moduleStatus?: string | null; qeStatus?: string; error?: string }

const statusName = (status: number) => (status === 255 ? null : (tcbStatuses[status] ?? 'NotSupported'))
const statusBits = (policy: Policy) =>
  policy.tcbStatuses.reduce(
    (bits, status) => bits | (1 << tcbStatuses.indexOf(status as (typeof tcbStatuses)[number])),
    0,
  )
const errorName = (error: unknown) => /Error: (\w+)\(/.exec((error as Error).message)?.[1] ?? (error as Error).message

/** Does on chain what a runner does: posts everything, then registers. */
async function onChain(it: Recorded, quote: Uint8Array, collateral: CollateralOf<'tdx'>): Promise<Outcome> {
  let appraisal: Partial<Outcome> = {}
  try {
    await it.post(quote, collateral)
    const { status, moduleStatus, qeStatus } = await it.appraise(quote)
    appraisal = {
      status: statusName(status)!,
      moduleStatus: statusName(moduleStatus),
      qeStatus: statusName(qeStatus)!,
    }
    await it.register(quote)
    return { ...appraisal, accepted: true }
  } catch (error) {
    return { ...appraisal, accepted: false, error: errorName(error) }
  }
}

async function prepared(now: number, roots: Roots, quote: Uint8Array, policy: Policy): Promise<Recorded> {
  // A quote the parser refuses has no report data to expect.
  let body: ReturnType<typeof parseTdxQuote>['body'] | null = null
  try {
    ;({ body } = parseTdxQuote(quote))
  } catch {}
  const it = await openRecorded({
    now,
    rootDer: roots.intel,
    reportData: toHex(body?.reportData ?? new Uint8Array(64)),
  })
  await it.setTcbRules(
    statusBits(policy),
    policy.minTcbEvaluationDataNumber,
    Math.floor(policy.maxCollateralAgeSeconds / 3600),
  )
  if (body) await it.approve(tdxWorkload(body))
  return it
}

const recorded = realQuotes()
if (recorded.length === 0)
  console.warn(
    'SKIPPED: the recorded quotes are not beside this checkout; on-chain and off-chain verdicts were not compared on them.',
  )

describe('on-chain and off-chain verdicts agree', () => {
  test.skipIf(recorded.length === 0).each(recorded.map((each) => [each.name, each] as const))(
    'vector: %s',
    async (_, { quote, collateral, now }) => {
      const policy: Policy = { ...recordedPolicy, maxCollateralAgeSeconds: 365 * 86_400 }
      const verdict = await verifyEvidence({ format: 'tdx', quote }, collateral, { now, roots: vendorRoots, policy })
      const it = await prepared(now, vendorRoots, quote, policy)
      try {
        const outcome = await onChain(it, quote, collateral)
        expect(outcome.accepted).toBe(verdict.verdict === 'verified')
        if (outcome.status !== undefined) {
          expect(outcome.status).toBe(verdict.tcbStatus)
          expect(outcome.moduleStatus).toBe(verdict.moduleStatus)
          expect(outcome.qeStatus).toBe(verdict.qeStatus)
        }
        if (verdict.verdict === 'verified') expect(outcome).toMatchObject({ accepted: true, status: verdict.tcbStatus })
      } finally {
        await it.chain.stop()
      }
    },
  )

  const now = Date.UTC(2026, 10, 21) / 1000
  const seed = new Uint8Array(32).fill(7)
  const teeWith = (faults: readonly TeeFault[]) => createDevelopmentTee({ seed, now: () => now, faults })
  const roots = developmentRoots({ chainId: 31_337, intel: teeWith([]).rootDer })
  const reportData = Uint8Array.from({ length: 64 }, (_, index) => index)

  // What the chain says of each; lists and certificates wrapped wrongly never reach it, since it is sent only their signed parts.
  const faults: [TeeFault | 'sound', string | null, (4 | 5)?][] = [
    ['sound', null],
    ['sound', null, 5],
    ['trailing_bytes', null],
    ['expired_leaf', 'CertificateExpired'],
    ['future_leaf', 'CertificateNotYetValid'],
    ['wrong_role', 'CertificateRole'],
    ['leaf_as_ca', 'CertificateRole'],
    ['ca_not_ca', 'CertificateRole'],
    ['foreign_root', 'CertificateNotSigned'],
    ['revoked_leaf', 'CertificateIsRevoked'],
    ['revoked_intermediate', 'IssuerRevoked'],
    ['revoked_tcb_signer', 'IssuerRevoked'],
    ['stale_crl', 'CrlNotCurrent'],
    ['foreign_crl', 'CrlNotSigned'],
    ['stale_tcb', 'CollateralNotCurrent'],
    ['tcb_out_of_date', 'StatusNotAllowed'],
    ['tcb_revoked', 'StatusNotAllowed'],
    ['tcb_wrong_fmspc', 'CollateralMissing'],
    ['tcb_wrong_pce', 'CollateralMissing'],
    ['tcb_signed_by_leaf', 'CertificateNotSigned'],
    ['tcb_duplicate_key', 'UnexpectedText'],
    ['tcb_15_components', 'UnexpectedText'],
    ['tcb_17_components', 'UnexpectedText'],
    // Texts are read before their signature is checked, and this change leaves the template.
    ['tcb_changed', 'UnexpectedText'],
    ['unknown_module', 'ModuleUnknown'],
    ['qe_wrong_signer', 'QeIdentityMismatch'],
    ['qe_changed', 'CollateralNotSigned'],
    ['debug', 'DebugEnabled'],
    ['migratable', 'AttributesNotAllowed'],
    ['no_sept_ve', 'AttributesNotAllowed'],
    ['service_td', 'AttributesNotAllowed', 5],
    ['qe_unbound', 'AttestationKeyUnbound'],
    ['zero_signature', 'QuoteNotSigned'],
    ['key_off_curve', 'AttestationKeyUnbound'],
  ]
  describe('on development evidence', () => {
    let it: Recorded
    let snapshot: `0x${string}`
    beforeAll(async () => {
      it = await prepared(now, roots, teeWith([]).quote(reportData), defaultPolicy)
      snapshot = await it.testClient.snapshot()
    })
    beforeEach(async () => {
      await it.testClient.revert({ id: snapshot })
      // A reverted chain has forgotten its newest block hash.
      await it.testClient.mine({ blocks: 2 })
      snapshot = await it.testClient.snapshot()
    })
    afterAll(async () => {
      await it?.chain.stop()
    })

    test.each(faults)('%s: %s', async (fault, error, version = 4) => {
      const tee = teeWith(fault === 'sound' ? [] : [fault])
      const quote = tee.quote(reportData, { version })
      const collateral = tee.collateral() as CollateralOf<'tdx'>
      const verdict = await verifyEvidence({ format: 'tdx', quote }, collateral, { now, roots, policy: defaultPolicy })
      await it.approve(tdxWorkload(parseTdxQuote(quote).body))
      const outcome = await onChain(it, quote, collateral)
      expect(outcome.error ?? null).toBe(error)
      expect(outcome.accepted).toBe(verdict.verdict === 'verified')
      if (outcome.status !== undefined) expect(outcome.status).toBe(verdict.tcbStatus)
    })
  })
})
