import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  createDevelopmentGpu,
  type DevelopmentGpu,
  type GpuFault,
  gpuFaults,
} from '../../../gpu-runner/tee/developmentGpu.ts'
import { fromHex, toHex } from '../../../protocol/bytes.ts'
import type { OcspStatus } from '../../../protocol/evidence/gpu.ts'
import { checkGpuLink, gpuEvidenceDigest } from '../../../protocol/evidence/gpu.ts'
import {
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
import { rimTableFromJson } from '../../../protocol/evidence/rim.ts'
import { developmentRoots } from '../../../protocol/evidence/roots.development.ts'
import { parseSpdm } from '../../../protocol/evidence/spdm.ts'
import { flipped, long, mangled } from '../../fixtures/mangle.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const nonce = new Uint8Array(32).fill(5)
const rootsOf = ({ root, rimSigner }: DevelopmentGpu) =>
  developmentRoots({ chainId: 31_337, intel: new Uint8Array(), nvidia: root, rimSigners: [rimSigner] })
const machine = (faults: GpuFault[] = [], index = 0) => createDevelopmentGpu({ seed, now: () => now, faults, index })

async function judge(faults: GpuFault[], policy = defaultPolicy) {
  const gpu = await machine(faults)
  return verifyEvidence(
    { format: 'gpu', ...gpu.evidence(nonce) },
    { format: 'gpu', ...gpu.collateral() },
    { now, nonce, roots: rootsOf(gpu), policy },
  )
}

describe('verifyEvidence on development GPUs', () => {
  test('behavior: a sound GPU is verified; that it sits beside the CPU stays unknown', async () => {
    const verdict = await judge([])
    expect(verdict).toMatchObject({ verdict: 'verified', tee: 'gpu', root: 'development', reportData: toHex(nonce) })
    const status = (name: string) => verdict.claims.find(({ claim }) => claim === name)?.status
    expect([status('gpu_measured'), status('fresh'), status('not_revoked'), status('gpu_bound')]).toEqual([
      'asserted',
      'asserted',
      'asserted',
      'unknown',
    ])
  })

  const expected: Record<GpuFault, string> = {
    expired_leaf: 'certificate_expired',
    future_leaf: 'certificate_expired',
    foreign_root: 'untrusted_root',
    wrong_role: 'certificate_role',
    leaf_as_ca: 'certificate_role',
    issuer_not_ca: 'certificate_role',
    revoked: 'certificate_revoked',
    on_hold: 'certificate_revoked',
    other_nonce: 'nonce_mismatch',
    other_firmware: 'firmware_mismatch',
    no_firmware: 'firmware_mismatch',
    ppcie: 'gpu_mode',
    protected_pcie: 'gpu_mode',
    unknown_mode: 'gpu_mode',
    zero_signature: 'evidence_signature',
    signed_by_stranger: 'evidence_signature',
    trailing_bytes: 'malformed_evidence',
    truncated: 'malformed_evidence',
    repeated_block: 'malformed_evidence',
    measurement_mismatch: 'rim_mismatch',
    measurement_missing: 'rim_mismatch',
    other_driver: 'rim_mismatch',
    other_model: 'rim_mismatch',
    other_board: 'rim_mismatch',
    rim_by_stranger: 'rim_invalid',
    rim_changed: 'rim_invalid',
    rim_expired: 'rim_invalid',
    rims_contested: 'rim_invalid',
    rim_empty: 'rim_invalid',
  }
  test.each(gpuFaults.map((fault) => [fault, expected[fault]] as const))(
    'refusal: %s is refused as %s',
    async (fault, reason) => {
      const verdict = await judge([fault])
      expect(verdict.verdict).toBe('refuted')
      expect(verdict.refusals.map((refusal) => refusal.reason)).toEqual([reason])
    },
  )

  test('behavior: what is missing leaves the verdict unknown, never verified', async () => {
    const gpu = await machine()
    const ask = (collateral: ReturnType<DevelopmentGpu['collateral']> | null, policy = defaultPolicy) =>
      verifyEvidence({ format: 'gpu', ...gpu.evidence(nonce) }, collateral && { format: 'gpu', ...collateral }, {
        now,
        nonce,
        roots: rootsOf(gpu),
        policy,
      })
    const { rims, ocsp } = gpu.collateral()
    expect((await ask(null)).verdict).toBe('unknown')
    expect((await ask({ rims: [], ocsp })).verdict).toBe('unknown')
    expect((await ask({ rims: rims.slice(0, 1), ocsp })).verdict).toBe('unknown')
    expect((await ask({ rims, ocsp: null })).verdict).toBe('unknown')
    const [leaf, device, identity] = Object.entries(ocsp!)
    for (const partial of [[leaf, identity], [leaf, device], [leaf]])
      expect((await ask({ rims, ocsp: Object.fromEntries(partial as [string, OcspStatus][]) })).verdict).toBe('unknown')
    // NVIDIA did not issue the leaf: the device did, and answers for it with its own certificate.
    const issued = Object.fromEntries([device!, identity!])
    expect((await ask({ rims, ocsp: issued })).verdict).toBe('verified')
    expect((await ask({ rims, ocsp: null }, { ...defaultPolicy, requireRevocation: false })).verdict).toBe('verified')
  })

  test('behavior: tables for any number of drivers, in any order; one that will not do spoils none that will', async () => {
    const gpu = await machine()
    const { rims, ocsp } = gpu.collateral()
    const others = [
      ...(await machine(['other_driver'])).collateral().rims,
      ...(await machine(['rim_by_stranger'])).collateral().rims,
      ...(await machine(['other_model'])).collateral().rims,
      // Another board of the same video BIOS version has a table of its own, with other values.
      ...(await machine(['other_board'])).collateral().rims.filter(({ table }) => table.kind === 'vbios'),
    ]
    for (const list of [[...others, ...rims], [...rims, ...others], [...rims, ...others].reverse()]) {
      const verdict = await verifyEvidence(
        { format: 'gpu', ...gpu.evidence(nonce) },
        { format: 'gpu', rims: list, ocsp },
        { now, nonce, roots: rootsOf(gpu), policy: defaultPolicy },
      )
      expect(verdict.verdict).toBe('verified')
    }
  })

  test('refusal: a GPU on the deny list; a hold passes only where the policy says so', async () => {
    const { measurement } = await judge([])
    const denied = await judge([], { ...defaultPolicy, deniedPlatforms: [measurement!.ueid!.slice(2)] })
    expect(denied.refusals[0]?.reason).toBe('platform_denied')
    const gpu = { ...defaultPolicy.gpu, acceptHold: true }
    expect((await judge(['on_hold'], { ...defaultPolicy, gpu })).verdict).toBe('verified')
  })

  test('refusal: evidence the statement does not name, and one GPU shown twice', async () => {
    const both = [await machine(), await machine([], 1)]
    const evidence = both.map((gpu) => gpu.evidence(nonce))
    const verdicts = await Promise.all(
      both.map((gpu) =>
        verifyEvidence(
          { format: 'gpu', ...gpu.evidence(nonce) },
          { format: 'gpu', ...gpu.collateral() },
          { now, nonce, roots: rootsOf(gpu), policy: defaultPolicy },
        ),
      ),
    )
    const [first, second] = verdicts as [(typeof verdicts)[0], (typeof verdicts)[0]]
    expect(checkGpuLink(gpuEvidenceDigest(evidence), evidence, verdicts)).toBeNull()
    expect(checkGpuLink(gpuEvidenceDigest(evidence.slice(1)), evidence, verdicts)?.reason).toBe('gpu_link')
    expect(checkGpuLink(gpuEvidenceDigest([...evidence].reverse()), evidence, verdicts)?.reason).toBe('gpu_link')
    expect(checkGpuLink(gpuEvidenceDigest(evidence), evidence, [second, second])?.reason).toBe('gpu_repeated')
    expect(first.measurement!.ueid).not.toBe(second.measurement!.ueid)
    expect(gpuEvidenceDigest([])).toEqual(new Uint8Array(32))
  })

  test('behavior: JSON keeps evidence and collateral', async () => {
    const gpu = await machine()
    const evidence = { format: 'gpu', ...gpu.evidence(nonce) } as const
    const collateral = { format: 'gpu', ...gpu.collateral() } as const
    expect(evidenceFromJson(JSON.parse(JSON.stringify(evidenceToJson(evidence))))).toEqual(evidence)
    expect(collateralFromJson(JSON.parse(JSON.stringify(collateralToJson(collateral))))).toEqual(collateral)
  })

  test.each([
    ['a table of another format', (t: Record<string, unknown>) => ({ ...t, format: 'assay-rim-2' })],
    ['an unknown field', (t: Record<string, unknown>) => ({ ...t, note: 'x' })],
    [
      'an index out of range',
      (t: Record<string, unknown>) => ({ ...t, measurements: { '64': [`0x${'00'.repeat(48)}`] } }),
    ],
    ['an index without values', (t: Record<string, unknown>) => ({ ...t, measurements: { '1': [] } })],
    ['a short value', (t: Record<string, unknown>) => ({ ...t, measurements: { '1': ['0x00'] } })],
  ])('refusal: %s', async (_, change) => {
    const [signed] = (await machine()).collateral().rims
    expect(() => rimTableFromJson({ ...signed, table: change({ ...signed!.table }) })).toThrow('RIM table')
  })

  test(`property: ${long ? 100_000 : 5_000} mangled measurements and chains, never a throw and never a false verified`, async () => {
    const gpu = await machine()
    const context = { now, nonce, roots: rootsOf(gpu), policy: defaultPolicy, cache: createEvidenceCache() }
    const collateral = { format: 'gpu', ...gpu.collateral() } as const
    const whole = gpu.evidence(nonce)
    for (const evidence of mangled(whole.evidence, long ? 100_000 : 5_000)) {
      const { verdict } = await verifyEvidence({ ...whole, format: 'gpu', evidence }, collateral, context)
      expect(verdict).toBe('refuted')
    }
    const text = new TextEncoder().encode(whole.certificates)
    for (const changed of mangled(text, long ? 100_000 : 500, 2)) {
      const certificates = new TextDecoder().decode(changed)
      if (certificates.replace(/\s/g, '') === whole.certificates.replace(/\s/g, '')) continue
      const { verdict } = await verifyEvidence({ ...whole, format: 'gpu', certificates }, collateral, context)
      expect(verdict).toBe('refuted')
    }
  }, 1_200_000)
})

const folder = join(import.meta.dirname, '../../../../shared/vectors/nvidia/attestation-sdk')
const present = existsSync(folder)
if (!present) console.warn('skipped: real GPU evidence is not beside this checkout (../shared/vectors)')

describe.skipIf(!present)('verifyEvidence on a real GPU, damaged', () => {
  const text = (name: string) => (present ? readFileSync(join(folder, name), 'utf8') : '')
  const evidence = fromHex(`0x${text('hopperAttestationReport.txt').trim()}`)
  const certificates = text('hopperCertChain.txt')
  const context = {
    now: Date.parse('2025-06-01') / 1000,
    roots: vendorRoots,
    policy: evidencePolicy,
    cache: createEvidenceCache(),
  }
  const verdictOf = async (bytes: Uint8Array) =>
    (await verifyEvidence({ format: 'gpu', arch: 'HOPPER', evidence: bytes, certificates }, null, context)).verdict

  test('behavior: whole, everything but its measurements holds', async () => {
    expect(await verdictOf(evidence)).toBe('unknown')
  })

  test('refusal: every single bit of what is signed, and of the signature, flipped', async () => {
    const { signed, signature } = parseSpdm(evidence)
    for (const [bit, changed] of flipped(evidence, 0, signed.length + signature.length)) {
      expect(await verdictOf(changed), `bit ${bit}`).toBe('refuted')
    }
  }, 300_000)

  test('refusal: every truncation', async () => {
    const { signed, signature } = parseSpdm(evidence)
    for (let length = 0; length < signed.length + signature.length; length++) {
      expect(await verdictOf(evidence.slice(0, length))).toBe('refuted')
    }
  })
})
