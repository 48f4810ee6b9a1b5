import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  createDevelopmentSnp,
  type DevelopmentSnp,
  type SnpFault,
  snpFaults,
} from '../../../gpu-runner/tee/developmentSnp.ts'
import { toHex } from '../../../protocol/bytes.ts'
import { fetchCollateral, platformOf } from '../../../protocol/evidence/collateral.ts'
import {
  type CollateralOf,
  collateralFromJson,
  collateralToJson,
  createEvidenceCache,
  defaultPolicy,
  evidenceFromJson,
  evidencePolicy,
  evidenceToJson,
  vendorRoots,
  verifyEvidence,
} from '../../../protocol/evidence/index.ts'
import { developmentRoots } from '../../../protocol/evidence/roots.development.ts'
import { flipped, long, mangled } from '../../fixtures/mangle.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const reportData = Uint8Array.from({ length: 64 }, (_, index) => index)
type Options = Omit<Parameters<typeof createDevelopmentSnp>[0], 'seed' | 'now'>

const rootsOf = ({ roots }: DevelopmentSnp) =>
  developmentRoots({ chainId: 31_337, intel: new Uint8Array(), amd: roots })

async function judge(options: Options, policy = defaultPolicy) {
  const machine = await createDevelopmentSnp({ seed, now: () => now, ...options })
  return verifyEvidence({ format: 'snp', report: machine.report(reportData) }, await machine.collateral(), {
    now,
    roots: rootsOf(machine),
    policy,
  })
}

describe('verifyEvidence on development SNP reports', () => {
  test.each<Options>([{}, { version: 3 }, { version: 4 }, { kind: 'VLEK' }])(
    'behavior: a sound machine %j is verified',
    async (options) => {
      const verdict = await judge(options)
      expect(verdict).toMatchObject({
        verdict: 'verified',
        tee: 'snp',
        root: 'development',
        tcbStatus: 'UpToDate',
        debug: false,
      })
      expect(verdict.reportData).toBe(toHex(reportData))
      expect(verdict.validUntil).toBeGreaterThan(now)
      expect(verdict.claims.find(({ claim }) => claim === 'not_revoked')?.status).toBe('asserted')
    },
  )

  const expected: Record<SnpFault, string> = {
    expired_leaf: 'certificate_expired',
    future_leaf: 'certificate_expired',
    wrong_role: 'certificate_invalid',
    leaf_as_ca: 'certificate_role',
    authority_not_ca: 'certificate_role',
    foreign_root: 'untrusted_root',
    revoked_authority: 'certificate_revoked',
    stale_crl: 'crl_stale',
    foreign_crl: 'crl_invalid',
    missing_crl: 'crl_invalid',
    non_minimal_der: 'crl_invalid',
    debug: 'debug',
    migratable: 'attributes',
    reserved_policy: 'attributes',
    high_vmpl: 'attributes',
    no_alias_check: 'attributes',
    tcb_too_low: 'tcb_status',
    provisional: 'tcb_status',
    tcb_mismatch: 'platform_mismatch',
    other_chip: 'platform_mismatch',
    other_product: 'untrusted_root',
    wrong_key_kind: 'platform_mismatch',
    zero_signature: 'evidence_signature',
    huge_signature: 'malformed_evidence',
    signed_by_stranger: 'evidence_signature',
    trailing_bytes: 'malformed_evidence',
    reserved_bytes: 'malformed_evidence',
    old_version: 'malformed_evidence',
  }
  test.each(snpFaults.map((fault) => [fault, expected[fault]] as const))(
    'refusal: %s is refused as %s',
    async (fault, reason) => {
      const verdict = await judge({ faults: [fault] })
      expect(verdict.verdict).toBe('refuted')
      expect(verdict.refusals.map((refusal) => refusal.reason)).toEqual([reason])
      expect(verdict.validUntil).toBe(0)
    },
  )

  test('behavior: a product without a minimum TCB is unknown by default, and its TCB is never said to be current', async () => {
    const open = await judge({ product: 'Turin' })
    expect(open).toMatchObject({ verdict: 'unknown', tcbStatus: null, refusals: [] })
    expect(open.claims.find(({ claim }) => claim === 'tcb_current')?.status).toBe('unknown')
    const minimumTcb = { ...defaultPolicy.snp.minimumTcb, Turin: { fmc: 1, snp: 4 } }
    const set = { ...defaultPolicy, snp: { ...defaultPolicy.snp, minimumTcb } }
    expect(await judge({ product: 'Turin' }, set)).toMatchObject({ verdict: 'verified', tcbStatus: 'UpToDate' })
    expect((await judge({ product: 'Turin', faults: ['tcb_too_low'] }, set)).refusals[0]?.reason).toBe('tcb_status')
  })

  test('refusal: Milan by default; a policy that names it not takes it', async () => {
    expect((await judge({ product: 'Milan' })).refusals[0]?.reason).toBe('platform_denied')
    const snp = { ...defaultPolicy.snp, refusedProducts: [] }
    expect((await judge({ product: 'Milan' }, { ...defaultPolicy, snp })).verdict).toBe('verified')
  })

  test('refusal: a chip on the deny list, a workload that is not on the list', async () => {
    const { measurement } = await judge({})
    const denied = await judge({}, { ...defaultPolicy, deniedPlatforms: [measurement!.chipid!.slice(2)] })
    expect(denied.refusals[0]?.reason).toBe('platform_denied')
    const listed = await judge({}, { ...defaultPolicy, workloads: [toHex(new Uint8Array(32))] })
    expect(listed.refusals[0]?.reason).toBe('measurement_not_allowed')
  })

  test('refusal: a development report under the vendor roots', async () => {
    const machine = await createDevelopmentSnp({ seed, now: () => now })
    const verdict = await verifyEvidence(
      { format: 'snp', report: machine.report(reportData) },
      await machine.collateral(),
      {
        now,
        roots: vendorRoots,
        policy: defaultPolicy,
      },
    )
    expect(verdict.refusals[0]?.reason).toBe('untrusted_root')
  })

  test('behavior: no list given is unknown where the policy does without, never asserted', async () => {
    const verdict = await judge({ faults: ['missing_crl'] }, { ...defaultPolicy, requireRevocation: false })
    expect(verdict.verdict).toBe('verified')
    expect(verdict.claims.find(({ claim }) => claim === 'not_revoked')?.status).toBe('unknown')
  })

  test('behavior: certificates fetched from the key service are the collateral, and JSON keeps both', async () => {
    const machine = await createDevelopmentSnp({ seed, now: () => now })
    const collateral = await machine.collateral()
    const evidence = { format: 'snp', report: machine.report(reportData) } as const
    const asked: string[] = []
    const pem = (der: Uint8Array) =>
      `-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString('base64')}\n-----END CERTIFICATE-----\n`
    const fetch = async (url: string) => {
      asked.push(url)
      if (url.endsWith('/cert_chain')) return new Response(pem(collateral.authority) + pem(collateral.root))
      return new Response((url.endsWith('/crl') ? collateral.crl! : collateral.certificate) as Uint8Array<ArrayBuffer>)
    }
    const fetched = await fetchCollateral(evidence, { fetch, intelUrl: 'http://pcs.test', amdUrl: 'http://kds.test/' })
    expect(fetched).toEqual(collateral)
    expect(asked[0]).toMatch(
      /^http:\/\/kds\.test\/vcek\/v1\/Genoa\/[0-9a-f]{128}\?blSPL=10&teeSPL=0&snpSPL=27&ucodeSPL=84$/,
    )
    expect(platformOf(evidence)).toMatch(/^snp:Genoa:/)
    expect(collateralFromJson(JSON.parse(JSON.stringify(collateralToJson(collateral))))).toEqual(collateral)
    expect(evidenceFromJson(JSON.parse(JSON.stringify(evidenceToJson(evidence))))).toEqual(evidence)
  })

  test(`property: ${long ? 100_000 : 5_000} mangled reports and certificates, never a throw and never a false verified`, async () => {
    const machine = await createDevelopmentSnp({ seed, now: () => now })
    const collateral = await machine.collateral()
    const context = { now, roots: rootsOf(machine), policy: defaultPolicy, cache: createEvidenceCache() }
    const count = long ? 100_000 : 5_000
    for (const report of mangled(machine.report(reportData), count)) {
      const { verdict } = await verifyEvidence({ format: 'snp', report }, collateral, context)
      expect(verdict).toBe('refuted')
    }
    const report = machine.report(reportData)
    for (const field of ['certificate', 'authority', 'root', 'crl'] as const) {
      for (const changed of mangled(collateral[field]!, count / 20, 3)) {
        const { verdict } = await verifyEvidence(
          { format: 'snp', report },
          { ...collateral, [field]: changed } as CollateralOf<'snp'>,
          context,
        )
        expect(verdict).toBe('refuted')
      }
    }
  }, 1_200_000)
})

const folder = join(import.meta.dirname, '../../../../shared/vectors/snp')
const present = existsSync(folder)
if (!present) console.warn('skipped: real SNP reports are not beside this checkout (../shared/vectors)')

describe.skipIf(!present)('verifyEvidence on a real SNP report, damaged', () => {
  let report: Uint8Array
  let collateral: CollateralOf<'snp'>
  const context = { now, roots: vendorRoots, policy: evidencePolicy, cache: createEvidenceCache() }
  const verdictOf = async (bytes: Uint8Array) =>
    (await verifyEvidence({ format: 'snp', report: bytes }, collateral, context)).verdict

  beforeAll(() => {
    const read = (path: string) => new Uint8Array(readFileSync(join(folder, path)))
    report = read('lunal/live-report-v5-genoa.bin')
    collateral = {
      format: 'snp',
      certificate: read('lunal/live-vcek-genoa.der'),
      authority: read('amd-roots/genoa/ask.der'),
      root: read('amd-roots/genoa/ark.der'),
      crl: null,
    }
  })

  test('behavior: whole, it is verified', async () => {
    expect(await verdictOf(report)).toBe('verified')
  })

  test('refusal: every single bit of it, flipped', async () => {
    for (const [bit, changed] of flipped(report)) expect(await verdictOf(changed), `bit ${bit}`).toBe('refuted')
  }, 120_000)

  test('refusal: every truncation', async () => {
    for (let length = 0; length < report.length; length++)
      expect(await verdictOf(report.slice(0, length))).toBe('refuted')
  })
})
