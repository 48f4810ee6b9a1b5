import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDevelopmentNitro, type NitroFault, nitroFaults } from '../../../gpu-runner/tee/developmentNitro.ts'
import { fromHex, toHex } from '../../../protocol/bytes.ts'
import { readCbor } from '../../../protocol/evidence/cbor.ts'
import {
  createEvidenceCache,
  defaultPolicy,
  evidencePolicy,
  vendorRoots,
  verifyEvidence,
} from '../../../protocol/evidence/index.ts'
import { parseNitroDocument, unframeNitroDocument } from '../../../protocol/evidence/nitro.ts'
import { developmentRoots } from '../../../protocol/evidence/roots.development.ts'
import { flipped, long, mangled } from '../../fixtures/mangle.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const userData = Uint8Array.from({ length: 64 }, (_, index) => index)

async function judge(faults: NitroFault[], policy = defaultPolicy) {
  const enclave = await createDevelopmentNitro({ seed, now: () => now, faults })
  const roots = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), aws: enclave.root })
  return verifyEvidence({ format: 'nitro', document: await enclave.document(userData) }, null, { now, roots, policy })
}

describe('verifyEvidence on development Nitro documents', () => {
  test('behavior: a sound document is verified and gives its user data', async () => {
    const verdict = await judge([])
    expect(verdict).toMatchObject({ verdict: 'verified', tee: 'nitro', root: 'development', debug: false })
    expect(verdict.reportData).toBe(toHex(userData))
    expect(verdict.validUntil).toBe(now + defaultPolicy.nitro.maxAgeSeconds)
    expect(verdict.claims.find(({ claim }) => claim === 'not_revoked')?.status).toBe('unknown')
  })

  const expected: Record<NitroFault, string> = {
    expired_leaf: 'certificate_expired',
    future_leaf: 'certificate_expired',
    foreign_root: 'untrusted_root',
    leaf_as_ca: 'certificate_role',
    issuer_not_ca: 'certificate_role',
    debug: 'debug',
    old_document: 'evidence_too_old',
    future_document: 'evidence_too_old',
    wrong_algorithm: 'malformed_evidence',
    unprotected_header: 'malformed_evidence',
    zero_signature: 'evidence_signature',
    signed_by_stranger: 'evidence_signature',
    trailing_bytes: 'malformed_evidence',
    duplicate_key: 'malformed_evidence',
    non_minimal_cbor: 'malformed_evidence',
    endless_map: 'malformed_evidence',
    short_pcr: 'malformed_evidence',
    pcr_out_of_range: 'malformed_evidence',
    no_certificates: 'malformed_evidence',
  }
  test.each(nitroFaults.map((fault) => [fault, expected[fault]] as const))(
    'refusal: %s is refused as %s',
    async (fault, reason) => {
      const verdict = await judge([fault])
      expect(verdict.refusals.map((refusal) => refusal.reason)).toEqual([reason])
    },
  )

  test('refusal: PCRs that equal no set on the list; one equal set is enough', async () => {
    const { measurement } = await judge([])
    const under = (pcrs: (typeof defaultPolicy)['nitro']['pcrs']) =>
      judge([], { ...defaultPolicy, nitro: { ...defaultPolicy.nitro, pcrs } })
    const other = toHex(new Uint8Array(48).fill(1))
    expect((await under([{ '0': other }, { '0': measurement!.pcr0!, '2': measurement!.pcr2! }])).verdict).toBe(
      'verified',
    )
    expect((await under([{ '0': measurement!.pcr0!, '8': other }])).refusals[0]?.reason).toBe('measurement_not_allowed')
  })

  test(`property: ${long ? 100_000 : 5_000} mangled documents, never a throw and never a false verified`, async () => {
    const enclave = await createDevelopmentNitro({ seed, now: () => now })
    const roots = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), aws: enclave.root })
    const context = { now, roots, policy: defaultPolicy, cache: createEvidenceCache() }
    for (const document of mangled(await enclave.document(userData), long ? 100_000 : 5_000)) {
      expect((await verifyEvidence({ format: 'nitro', document }, null, context)).verdict).toBe('refuted')
    }
  }, 600_000)
})

describe('readCbor', () => {
  test.each([
    ['an indefinite byte string', '0x5f41014102ff'],
    ['an indefinite list', '0x9f01ff'],
    ['a number in more bytes than it takes', '0x1817'],
    ['a length in more bytes than it takes', '0x590001ff'],
    ['a key twice', '0xa201020103'],
    ['a key that is a list', '0xa1810102'],
    ['a list longer than its bytes', '0x9affffffff'],
    ['a map longer than its bytes', '0xbaffffffff'],
    ['nesting without end', `0x${'81'.repeat(40)}00`],
    ['a fraction', '0xf93c00'],
    ['undefined', '0xf7'],
    ['a break where a value belongs', '0xff'],
    ['text that is not UTF-8', '0x61ff'],
    ['a number beyond what is safe', '0x1bffffffffffffffff'],
    ['nothing', '0x'],
  ])('refusal: %s', (_, hex) => {
    expect(() => readCbor(fromHex(hex))).toThrow(/CBOR|UTF-8/)
  })
})

const folder = join(import.meta.dirname, '../../../../shared/vectors/nitro')
const present = existsSync(folder)
if (!present) console.warn('skipped: real Nitro documents are not beside this checkout (../shared/vectors)')

describe.skipIf(!present)('verifyEvidence on a real Nitro document, damaged', () => {
  const document = present
    ? unframeNitroDocument(new Uint8Array(readFileSync(join(folder, 'dstack/nsm-qvl-nitro_attestation.bin'))))
    : new Uint8Array()
  const context = {
    now: Date.parse('2025-12-25T13:15:37Z') / 1000,
    roots: vendorRoots,
    policy: evidencePolicy,
    cache: createEvidenceCache(),
  }
  const verdictOf = async (bytes: Uint8Array) =>
    (await verifyEvidence({ format: 'nitro', document: bytes }, null, context)).verdict

  test('behavior: whole, it is verified', async () => {
    expect(await verdictOf(document)).toBe('verified')
  })

  test('refusal: every single bit of it, flipped', async () => {
    expect(parseNitroDocument(document).payload.length).toBeGreaterThan(4_000)
    for (const [bit, changed] of flipped(document)) expect(await verdictOf(changed), `bit ${bit}`).toBe('refuted')
  }, 300_000)

  test('refusal: every truncation', async () => {
    for (let length = 0; length < document.length; length++)
      expect(await verdictOf(document.slice(0, length))).toBe('refuted')
  })
})
