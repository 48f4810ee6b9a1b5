import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDevelopmentTee, developmentPccs, type TeeFault } from '../../../gpu-runner/tee/development.ts'
import { fromHex, toHex } from '../../../protocol/bytes.ts'
import { fetchCollateral } from '../../../protocol/evidence/collateral.ts'
import { type Collateral, defaultPolicy, vendorRoots, verifyEvidence } from '../../../protocol/evidence/index.ts'
import { parseTdxQuote } from '../../../protocol/evidence/quote.ts'
import { developmentRoots } from '../../../protocol/evidence/roots.development.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const reportData = Uint8Array.from({ length: 64 }, (_, index) => index)
const roots = developmentRoots({ chainId: 31_337, intel: createDevelopmentTee({ seed, now: () => now }).rootDer })

async function judge(faults: TeeFault[], { version = 4 as 4 | 5 } = {}) {
  const tee = createDevelopmentTee({ seed, now: () => now, faults })
  const quote = tee.quote(reportData, { version })
  return verifyEvidence({ format: 'tdx', quote }, tee.collateral(), { now, roots, policy: defaultPolicy })
}

describe('verifyEvidence on development quotes', () => {
  test.each([4, 5] as const)(
    'behavior: a sound version %i quote is verified, and the verdict names its root',
    async (version) => {
      const verdict = await judge([], { version })
      expect(verdict).toMatchObject({
        verdict: 'verified',
        root: 'development',
        tcbStatus: 'UpToDate',
        debug: false,
        refusals: [],
      })
      expect(verdict.reportData).toBe(toHex(reportData))
      expect(verdict.validUntil).toBeGreaterThan(now)
      expect(verdict.claims.find((claim) => claim.claim === 'physically_untampered')?.status).toBe('unknown')
    },
  )

  test('behavior: bytes after the signature data change nothing', async () => {
    expect((await judge(['trailing_bytes'])).verdict).toBe('verified')
  })

  const expected: [TeeFault, string, (4 | 5)?][] = [
    ['expired_leaf', 'certificate_expired'],
    ['future_leaf', 'certificate_expired'],
    ['wrong_role', 'certificate_role'],
    ['leaf_as_ca', 'certificate_role'],
    ['ca_not_ca', 'certificate_role'],
    ['foreign_root', 'untrusted_root'],
    ['revoked_leaf', 'certificate_revoked'],
    ['revoked_intermediate', 'certificate_revoked'],
    ['stale_crl', 'crl_stale'],
    ['foreign_crl', 'crl_invalid'],
    ['empty_crl_bytes', 'crl_invalid'],
    ['non_minimal_der', 'crl_invalid'],
    ['stale_tcb', 'collateral_stale'],
    ['tcb_out_of_date', 'tcb_status'],
    ['tcb_revoked', 'tcb_status'],
    ['tcb_wrong_fmspc', 'collateral_mismatch'],
    ['tcb_wrong_pce', 'collateral_mismatch'],
    ['tcb_signed_by_leaf', 'certificate_role'],
    ['tcb_duplicate_key', 'malformed_collateral'],
    ['tcb_15_components', 'malformed_collateral'],
    ['tcb_17_components', 'malformed_collateral'],
    ['tcb_changed', 'collateral_signature'],
    ['unknown_module', 'module_mismatch'],
    ['qe_wrong_signer', 'qe_identity_mismatch'],
    ['qe_changed', 'collateral_signature'],
    ['debug', 'debug'],
    ['migratable', 'attributes'],
    ['no_sept_ve', 'attributes'],
    ['service_td', 'attributes', 5],
    ['qe_unbound', 'qe_report_binding'],
    ['zero_signature', 'quote_signature'],
    ['key_off_curve', 'qe_report_binding'],
  ]
  test.each(expected)('refusal: %s is refused as %s', async (fault, reason, version = 4) => {
    const verdict = await judge([fault], { version })
    expect(verdict.verdict).toBe('refuted')
    expect(verdict.refusals.map((refusal) => refusal.reason)).toEqual([reason])
    expect(verdict.validUntil).toBe(0)
  })

  test('refusal: one flipped bit in any signed region', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const quote = tee.quote(reportData)
    const parts = parseTdxQuote(quote)
    const regions = [
      parts.signed,
      parts.signature,
      parts.attestationKey,
      parts.qeReport,
      parts.qeReportSignature,
      parts.qeAuthData,
    ]
    for (const region of regions) {
      const start = region.byteOffset - quote.byteOffset
      for (let at = 0; at < region.length; at += 7) {
        const changed = quote.slice()
        changed[start + at]! ^= 1 << (at % 8)
        const verdict = await verifyEvidence({ format: 'tdx', quote: changed }, tee.collateral(), {
          now,
          roots,
          policy: defaultPolicy,
        })
        expect(verdict.verdict, `bit ${at % 8} of byte ${start + at}`).toBe('refuted')
      }
    }
  })

  test('refusal: a quote cut off anywhere', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const quote = tee.quote(reportData)
    const collateral = tee.collateral()
    for (let length = 0; length < quote.length; length += 13) {
      const verdict = await verifyEvidence({ format: 'tdx', quote: quote.slice(0, length) }, collateral, {
        now,
        roots,
        policy: defaultPolicy,
      })
      expect(verdict.verdict).toBe('refuted')
    }
  })

  test('refusal: a development quote under the vendor roots', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const verdict = await verifyEvidence({ format: 'tdx', quote: tee.quote(reportData) }, tee.collateral(), {
      now,
      roots: vendorRoots,
      policy: defaultPolicy,
    })
    expect(verdict).toMatchObject({ verdict: 'refuted', root: 'vendor' })
    expect(verdict.refusals[0]?.reason).toBe('untrusted_root')
  })

  test('refusal: development roots on a chain that is not local', () => {
    expect(() => developmentRoots({ chainId: 1, intel: new Uint8Array() })).toThrow('local chains')
  })

  test('behavior: without collateral nothing was checked, so the verdict is unknown', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const verdict = await verifyEvidence({ format: 'tdx', quote: tee.quote(reportData) }, null, {
      now,
      roots,
      policy: defaultPolicy,
    })
    expect(verdict.verdict).toBe('unknown')
  })

  test("refusal: a workload that is not on the policy's list", async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const policy = { ...defaultPolicy, workloads: [toHex(new Uint8Array(32))] }
    const verdict = await verifyEvidence({ format: 'tdx', quote: tee.quote(reportData) }, tee.collateral(), {
      now,
      roots,
      policy,
    })
    expect(verdict.refusals[0]?.reason).toBe('measurement_not_allowed')
  })

  test('behavior: collateral fetched from the provisioning service is the collateral', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const serve = developmentPccs(tee)
    const fetched = await fetchCollateral(
      { format: 'tdx', quote: tee.quote(reportData) },
      { fetch: async (url) => serve(new Request(url)), baseUrl: 'http://pccs.test' },
    )
    expect(fetched).toEqual(tee.collateral())
  })
})

const bundles = join(import.meta.dirname, '../../../../shared/vectors/tdx/bundles')
const present = existsSync(bundles)
if (!present) console.warn('skipped: real TDX quotes are not beside this checkout (../shared/vectors)')

type Bundle = {
  quoteHex: string
  now: number
  collateral: Record<string, string>
  expected: { platformTcbLaunch: string; qeTcb: string; debug: boolean }
}

describe.skipIf(!present)('verifyEvidence on quotes from real machines', () => {
  const verified = [
    'phala_tdx_quote__phala-2025-06',
    'go-tdx-guest_quote_v5_sample',
    'cos-113-tdx-quote',
    'dstack_tdx-lite-getquote',
  ]
  const load = (file: string) => JSON.parse(readFileSync(join(bundles, file), 'utf8')) as Bundle
  const collateralOf = ({ collateral: c }: Bundle): Collateral => ({
    format: 'tdx',
    tcbInfo: c.tcb_info!,
    tcbInfoSignature: c.tcb_info_signature!,
    tcbInfoChain: c.tcb_info_issuer_chain!,
    qeIdentity: c.qe_identity!,
    qeIdentitySignature: c.qe_identity_signature!,
    qeIdentityChain: c.qe_identity_issuer_chain!,
    pckCrl: fromHex(c.pck_crl!),
    pckCrlChain: c.pck_crl_issuer_chain!,
    rootCaCrl: fromHex(c.root_ca_crl!),
  })
  // These were recorded over three years, so age limits that hold for today's registrations are lifted.
  const policy = { ...defaultPolicy, maxCollateralAgeSeconds: 40 * 86_400, minTcbEvaluationDataNumber: 0 }

  test.each(present ? readdirSync(bundles) : [])('%s', async (file) => {
    const bundle = load(file)
    const verdict = await verifyEvidence({ format: 'tdx', quote: fromHex(bundle.quoteHex) }, collateralOf(bundle), {
      now: bundle.now,
      roots: vendorRoots,
      policy,
    })
    expect(verdict.verdict).toBe(verified.some((name) => file.includes(name)) ? 'verified' : 'refuted')
    if (file.startsWith('phala_sgx')) {
      expect(verdict.refusals[0]?.reason).toBe('unsupported_quote')
      return
    }
    expect(verdict.debug).toBe(bundle.expected.debug)
    expect(verdict.qeStatus).toBe(bundle.expected.qeTcb)
    if (bundle.expected.platformTcbLaunch === 'NOMATCH') expect(verdict.tcbStatus).toBe('NotSupported')
    else expect(verdict.tcbStatus).toBe(bundle.expected.platformTcbLaunch)
    const reason = verdict.refusals[0]?.reason
    if (verdict.verdict === 'refuted') expect(['tcb_status', 'debug', 'attributes']).toContain(reason)
  })

  test("refusal: the same quote outside its collateral's window", async () => {
    const file = readdirSync(bundles).find((name) => name.startsWith('phala_tdx_quote__'))!
    const bundle = load(file)
    const verdict = await verifyEvidence({ format: 'tdx', quote: fromHex(bundle.quoteHex) }, collateralOf(bundle), {
      now: bundle.now + 90 * 86_400,
      roots: vendorRoots,
      policy,
    })
    expect(verdict.refusals[0]?.reason).toMatch(/stale|too_old/)
  })
})
