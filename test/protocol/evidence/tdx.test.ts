import { createRequire } from 'node:module'
import { describe, expect, test } from 'vitest'
import { createDevelopmentTee, developmentPccs, type TeeFault } from '../../../gpu-runner/tee/development.ts'
import { equalBytes, toHex } from '../../../protocol/bytes.ts'
import { fetchCollateral } from '../../../protocol/evidence/collateral.ts'
import {
  type Check,
  type Collateral,
  createEvidenceCache,
  defaultPolicy,
  type EvidenceCache,
  vendorRoots,
  verifyEvidence,
} from '../../../protocol/evidence/index.ts'
import { readPckExtension } from '../../../protocol/evidence/pck.ts'
import { parseTdxQuote } from '../../../protocol/evidence/quote.ts'
import { developmentRoots } from '../../../protocol/evidence/roots.development.ts'
import { parseCertificate } from '../../../protocol/evidence/x509.ts'
import { long } from '../../fixtures/mangle.ts'
import { type RealQuote, realQuotes, recordedPolicy } from '../../fixtures/quotes.ts'
import { numbersFrom } from '../../fixtures/random.ts'

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

  test("refusal: measurements that equal no set on the policy's list; one equal set is enough", async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const quote = tee.quote(reportData)
    const judgeUnder = (tdxMeasurements: (typeof defaultPolicy)['tdxMeasurements']) =>
      verifyEvidence({ format: 'tdx', quote }, tee.collateral(), {
        now,
        roots,
        policy: { ...defaultPolicy, tdxMeasurements },
      })
    const { mrtd, rtmr0, rtmr1 } = (await judgeUnder('any')).measurement!
    const other = toHex(new Uint8Array(48).fill(9))
    expect((await judgeUnder([{ mrtd: other }, { mrtd: mrtd!, rtmr1: rtmr1! }])).verdict).toBe('verified')
    for (const list of [
      [],
      [{ mrtd: other }],
      [
        { mrtd: mrtd!, rtmr0: other },
        { mrtd: other, rtmr0: rtmr0! },
      ],
    ]) {
      expect((await judgeUnder(list)).refusals[0]?.reason).toBe('measurement_not_allowed')
    }
  })

  test('refusal: a machine on the deny list, by its PPID', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const quote = tee.quote(reportData)
    const { ppid } = readPckExtension(parseCertificate(parseTdxQuote(quote).chain[0]!))
    const verdict = await verifyEvidence({ format: 'tdx', quote }, tee.collateral(), {
      now,
      roots,
      policy: { ...defaultPolicy, deniedPlatforms: [ppid] },
    })
    expect(verdict.refusals[0]?.reason).toBe('platform_denied')
  })

  test('behavior: a platform that fell behind has the grace the policy gives it, and not a second more', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now, faults: ['tcb_out_of_date'] })
    const quote = tee.quote(reportData)
    const under = (graceSeconds: number) =>
      verifyEvidence({ format: 'tdx', quote }, tee.collateral(), {
        now,
        roots,
        policy: { ...defaultPolicy, graceSeconds },
      })
    const graced = await under(20 * 365 * 86_400)
    expect(graced).toMatchObject({ verdict: 'verified', tcbStatus: 'OutOfDate' })
    const info = JSON.parse((tee.collateral() as { tcbInfo: string }).tcbInfo)
    const behind = Date.parse(info.tcbLevels[0].tcbDate) / 1000
    expect((await under(now - behind)).verdict).toBe('verified')
    expect((await under(now - behind - 1)).refusals[0]?.reason).toBe('tcb_status')
    expect((await under(0)).refusals[0]?.reason).toBe('tcb_status')
  })

  test('behavior: every row of a verification is told, and a refusal marks the row it happened in', async () => {
    const tell = async (faults: TeeFault[]) => {
      const tee = createDevelopmentTee({ seed, now: () => now, faults })
      const rows: Check[] = []
      await verifyEvidence({ format: 'tdx', quote: tee.quote(reportData) }, tee.collateral(), {
        now,
        roots,
        policy: defaultPolicy,
        trace: (row) => rows.push(row),
      })
      return rows
    }
    const whole = await tell([])
    expect(whole.map((row) => row.status)).toEqual([...new Array(whole.length - 1).fill('passed'), 'unknown'])
    expect(whole.length).toBeGreaterThan(9)
    const refused = await tell(['debug'])
    expect(refused.at(-1)).toMatchObject({ check: 'TD attributes', status: 'failed' })
  })

  test('behavior: collateral fetched from the provisioning service is the collateral', async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const serve = developmentPccs(tee)
    const fetched = await fetchCollateral(
      { format: 'tdx', quote: tee.quote(reportData) },
      { fetch: async (url) => serve(new Request(url)), intelUrl: 'http://pccs.test', amdUrl: 'http://kds.test' },
    )
    expect(fetched).toEqual(tee.collateral())
  })
})

const quotes = realQuotes()
if (quotes.length === 0) console.warn('skipped: real TDX quotes are not beside this checkout (../shared/vectors)')
const judgeReal = (real: RealQuote, change: Partial<{ quote: Uint8Array; now: number; cache: EvidenceCache }> = {}) =>
  verifyEvidence({ format: 'tdx', quote: change.quote ?? real.quote }, real.collateral, {
    now: change.now ?? real.now,
    roots: vendorRoots,
    policy: recordedPolicy,
    ...(change.cache ? { cache: change.cache } : {}),
  })

describe.skipIf(quotes.length === 0)('verifyEvidence on quotes from real machines', () => {
  const verified = [
    'phala_tdx_quote__phala-2025-06',
    'go-tdx-guest_quote_v5_sample',
    'cos-113-tdx-quote',
    'dstack_tdx-lite-getquote',
  ]
  const named = (name: string) => quotes.find((real) => real.name.startsWith(name))!

  test.each(quotes.map((real) => [real.name, real] as const))('%s', async (name, real) => {
    const verdict = await judgeReal(real)
    expect(verdict.verdict).toBe(verified.some((part) => name.includes(part)) ? 'verified' : 'refuted')
    if (name.startsWith('phala_sgx')) {
      expect(verdict.refusals[0]?.reason).toBe('unsupported_quote')
      return
    }
    expect(verdict.debug).toBe(real.expected.debug)
    expect(verdict.qeStatus).toBe(real.expected.qeTcb)
    if (real.expected.platformTcbLaunch === 'NOMATCH') expect(verdict.tcbStatus).toBe('NotSupported')
    else expect(verdict.tcbStatus).toBe(real.expected.platformTcbLaunch)
    const reason = verdict.refusals[0]?.reason
    if (verdict.verdict === 'refuted') expect(['tcb_status', 'debug', 'attributes']).toContain(reason)
  })

  test("refusal: the same quote outside its collateral's window", async () => {
    const real = named('phala_tdx_quote__')
    const verdict = await judgeReal(real, { now: real.now + 90 * 86_400 })
    expect(verdict.refusals[0]?.reason).toMatch(/stale|too_old/)
  })

  test('property: a cache changes no verdict, not even when the clock moves past what it remembers', async () => {
    const cache = createEvidenceCache()
    for (const real of [...quotes, ...quotes]) {
      for (const now of [real.now, real.now + 90 * 86_400]) {
        expect(await judgeReal(real, { now, cache })).toEqual(await judgeReal(real, { now }))
      }
    }
  })

  test.each(['phala_tdx_quote__', 'go-tdx-guest_quote_v5_sample'])(
    'refusal: every single bit of the signed ranges of %s, flipped',
    async (name) => {
      const real = named(name)
      const parts = parseTdxQuote(real.quote)
      const cache = createEvidenceCache()
      for (const region of [parts.signed, parts.signature, parts.attestationKey, parts.qeReport, parts.qeAuthData]) {
        const start = region.byteOffset - real.quote.byteOffset
        for (let bit = 0; bit < region.length * 8; bit++) {
          const changed = real.quote.slice()
          changed[start + (bit >> 3)]! ^= 1 << (bit & 7)
          const { verdict } = await judgeReal(real, { quote: changed, cache })
          // The header's user data and PCE SVN are signed as well: nothing in these ranges is free to change.
          expect(verdict, `bit ${bit} from ${start}`).toBe('refuted')
        }
      }
    },
    120_000,
  )

  test('refusal: every truncation of a real quote', async () => {
    const real = named('phala_tdx_quote__')
    const cache = createEvidenceCache()
    const { offset } = signatureEnd(real.quote)
    for (let length = 0; length < offset; length++) {
      expect((await judgeReal(real, { quote: real.quote.slice(0, length), cache })).verdict).toBe('refuted')
    }
  })
})

/** Tells whether two quotes say the same: line ends in their certificates, and what follows, mean nothing. */
function sameParts(one: Uint8Array, other: Uint8Array): boolean {
  try {
    const [a, b] = [parseTdxQuote(one), parseTdxQuote(other)]
    const parts = ['signed', 'signature', 'attestationKey', 'qeReport', 'qeReportSignature', 'qeAuthData'] as const
    return (
      parts.every((part) => equalBytes(a[part], b[part])) &&
      a.chain.every((der, index) => equalBytes(der, b.chain[index]!))
    )
  } catch {
    return false
  }
}

/** Tells where the signed part and its signature data end; what follows is padding. */
function signatureEnd(quote: Uint8Array): { offset: number } {
  const { signed } = parseTdxQuote(quote)
  const view = new DataView(quote.buffer, quote.byteOffset)
  return { offset: signed.length + 4 + view.getUint32(signed.length, true) }
}

describe.skipIf(quotes.length === 0)('verifyEvidence beside @phala/dcap-qvl', () => {
  const peer = createRequire(import.meta.url)('@phala/dcap-qvl') as {
    verify(quote: Uint8Array, collateral: Record<string, string>, now: number): { status: string }
  }
  const ask = (real: RealQuote, collateral = real.plain) => {
    try {
      return { status: peer.verify(real.quote, collateral, real.now).status }
    } catch (error) {
      return { error: (error as Error).message }
    }
  }
  // Each disagreement by name: what the other library does, and why ours differs.
  const disagreements: Record<string, string> = {
    'phala_sgx_quote__phala-sgx-2025-06': 'it takes SGX quotes; this marketplace takes TDX',
    'go-tdx-guest_ccel_cos-113-tdx-quote_dat__automata-2025-06-00806f05':
      'it compares TDX components from index 0 where Intel starts at 2 for modules 1.5 and later, and calls an up-to-date platform out of date',
    'automata_samples_quotev4_hex__automata-2025-06-00806f05':
      'it returns OutOfDate as a success and leaves the gate to its caller',
    'lunal_tdx_quote_4_dat__lunal-2026-03-50806f': 'it judges debug mode before it reports a status',
    'lunal_tdx_quote_4_dat__google-2023-06': 'it judges debug mode before it reports a status',
  }

  test.each(quotes.map((real) => [real.name, real] as const))(
    '%s: same status, or a named disagreement',
    async (name, real) => {
      const theirs = ask(real)
      const ours = await judgeReal(real)
      const same =
        theirs.error === undefined
          ? theirs.status === ours.tcbStatus && ours.verdict === 'verified'
          : /No matching TCB level/.test(theirs.error) && ours.tcbStatus === 'NotSupported'
      expect(same, `theirs ${JSON.stringify(theirs)}, ours ${ours.tcbStatus} ${ours.verdict}`).toBe(
        !(name in disagreements),
      )
    },
  )

  test('refusal: revocation lists it never opens', async () => {
    const real = quotes.find(({ name }) => name.startsWith('phala_tdx_quote__'))!
    expect(ask(real, { ...real.plain, root_ca_crl: '00', pck_crl: '' })).toEqual({ status: 'UpToDate' })
    const stripped: Collateral = { ...real.collateral, rootCaCrl: new Uint8Array(1), pckCrl: new Uint8Array() }
    const verdict = await verifyEvidence({ format: 'tdx', quote: real.quote }, stripped, {
      now: real.now,
      roots: vendorRoots,
      policy: recordedPolicy,
    })
    expect(verdict.refusals[0]?.reason).toBe('crl_invalid')
  })
})

describe('robustness: whatever bytes come', () => {
  test(`property: ${long ? 100_000 : 5_000} mangled quotes, never a throw and never a false verified`, async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const quote = tee.quote(reportData)
    const collateral = tee.collateral()
    const cache = createEvidenceCache()
    const { offset } = signatureEnd(quote)
    const random = numbersFrom(1)
    for (let round = 0; round < (long ? 100_000 : 5_000); round++) {
      const changed = quote.slice(0, random() % 4 === 0 ? random() % offset : quote.length)
      for (let edits = 1 + (random() % 6); edits > 0 && changed.length > 0; edits--) {
        changed[random() % Math.min(changed.length, offset)] = random() & 0xff
      }
      if (sameParts(changed, quote)) continue
      const verdict = await verifyEvidence({ format: 'tdx', quote: changed }, collateral, {
        now,
        roots,
        policy: defaultPolicy,
        cache,
      })
      expect(verdict.verdict).toBe('refuted')
    }
  }, 600_000)

  test(`property: ${long ? 100_000 : 1_000} mangled collaterals, never a throw and never a false verified`, async () => {
    const tee = createDevelopmentTee({ seed, now: () => now })
    const quote = tee.quote(reportData)
    const good = tee.collateral()
    const random = numbersFrom(2)
    const fields = Object.keys(good).filter((field) => field !== 'format' && field !== 'pckCrlChain')
    for (let round = 0; round < (long ? 100_000 : 1_000); round++) {
      const field = fields[random() % fields.length]!
      const value = (good as unknown as Record<string, string | Uint8Array>)[field]!
      const at = random() % value.length
      const byte = random() & 0x7f
      const mangled =
        typeof value === 'string'
          ? value.slice(0, at) + String.fromCharCode(byte) + value.slice(at + (random() % 2))
          : Uint8Array.from(value, (each, index) => (index === at ? byte : each))
      const same = typeof value === 'string' ? mangled === value : equalBytes(mangled as Uint8Array, value)
      const verdict = await verifyEvidence({ format: 'tdx', quote }, { ...good, [field]: mangled } as Collateral, {
        now,
        roots,
        policy: defaultPolicy,
      })
      // White space between PEM lines, and the case of a hexadecimal signature, mean nothing.
      const harmless =
        same ||
        (field.endsWith('Chain') && (mangled as string).replace(/\s/g, '') === (value as string).replace(/\s/g, '')) ||
        (field.endsWith('Signature') && (mangled as string).toLowerCase() === (value as string).toLowerCase())
      if (!harmless) expect(verdict.verdict, `${field} at ${at} to ${byte}`).toBe('refuted')
    }
  }, 600_000)
})
