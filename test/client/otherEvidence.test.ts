import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { rimTableFromJson, verifyRimTable } from '../../protocol/evidence/rim.ts'

const vectors = join(import.meta.dirname, '../../../shared/vectors')
const present = existsSync(vectors)
if (!present) console.warn('skipped: real evidence is not beside this checkout (../shared/vectors)')
const folder = mkdtempSync(join(tmpdir(), 'assay-evidence-'))
afterAll(() => rmSync(folder, { recursive: true }))

function assay(evidence: string, collateral: string[], now?: number, ...more: string[]) {
  const words = [
    resolve(vectors, evidence),
    ...collateral.flatMap((path) => ['--collateral', join(vectors, path)]),
    ...(now === undefined ? [] : ['--now', String(now)]),
    '--json',
    ...more,
  ]
  const { status, stdout } = spawnSync('node', ['client/cli.mjs', 'evidence', 'verify', ...words], {
    encoding: 'utf8',
    cwd: join(import.meta.dirname, '../..'),
    env: { PATH: process.env.PATH },
  })
  const result = JSON.parse(stdout)
  return { status, verdict: result.verdict, reason: result.refusals?.[0]?.reason ?? result.error?.code, result }
}

const at = (text: string) => Date.parse(text) / 1000
const roots = (product: string, authority = 'ask') => [
  `snp/amd-roots/${product}/${authority}.der`,
  `snp/amd-roots/${product}/ark.der`,
]
type Case = [string, string, string[], number | undefined, string, string?]

describe.skipIf(!present)('assay evidence verify on SNP reports of real machines', () => {
  const cases: Case[] = [
    [
      'Milan v2, debug allowed',
      'snp/go-sev-guest/attestation.bin',
      ['snp/go-sev-guest/vcek.testcer', ...roots('milan')],
      at('2024-01-01'),
      'refuted',
      'debug',
    ],
    [
      'Milan v2',
      'snp/lunal/test-report.bin',
      ['snp/lunal/test-vcek.der', ...roots('milan')],
      at('2026-01-01'),
      'verified',
    ],
    [
      'a VCEK not signed by the ASK',
      'snp/lunal/test-report.bin',
      ['snp/lunal/test-vcek-invalid-legacy.der', ...roots('milan')],
      at('2026-01-01'),
      'refuted',
      'certificate_invalid',
    ],
    [
      'another VCEK not signed by the ASK',
      'snp/lunal/test-report.bin',
      ['snp/lunal/test-vcek-invalid-new.der', ...roots('milan')],
      at('2026-01-01'),
      'refuted',
      'certificate_invalid',
    ],
    [
      'Milan v3 by VLEK, VMPL 1',
      'snp/lunal/test-vlek-report.bin',
      ['snp/lunal/test-vlek.der', ...roots('milan', 'asvk')],
      1_742_508_861,
      'verified',
    ],
    [
      'the same after the VLEK expired',
      'snp/lunal/test-vlek-report.bin',
      ['snp/lunal/test-vlek.der', ...roots('milan', 'asvk')],
      at('2026-11-21'),
      'refuted',
      'certificate_expired',
    ],
    [
      'a VLEK under the authority for VCEKs',
      'snp/lunal/test-vlek-report.bin',
      ['snp/lunal/test-vlek.der', ...roots('milan', 'ask')],
      1_742_508_861,
      'refuted',
      'certificate_invalid',
    ],
    [
      'Genoa v5',
      'snp/lunal/live-report-v5-genoa.bin',
      ['snp/lunal/live-vcek-genoa.der', ...roots('genoa')],
      at('2026-11-21'),
      'verified',
    ],
    [
      "Genoa v5 under Milan's root",
      'snp/lunal/live-report-v5-genoa.bin',
      ['snp/lunal/live-vcek-genoa.der', ...roots('milan')],
      at('2026-11-21'),
      'refuted',
      'untrusted_root',
    ],
    [
      'Genoa v3, certificates as PEM',
      'snp/microsoft/genoa_attestation_report.bin',
      ['snp/microsoft/genoa_vcek.pem', 'snp/microsoft/genoa_ask.pem', 'snp/microsoft/genoa_ark.pem'],
      at('2026-11-21'),
      'verified',
    ],
    [
      'Milan v3, certificates as PEM',
      'snp/microsoft/milan_attestation_report.bin',
      ['snp/microsoft/milan_vcek.pem', 'snp/microsoft/milan_ask.pem', 'snp/microsoft/milan_ark.pem'],
      at('2026-11-21'),
      'verified',
    ],
    [
      "Milan v3 in dstack's frame, which brings its chip's certificate and authority",
      'snp/dstack/sev-snp-attestation.json',
      ['snp/amd-roots/milan/ark.der'],
      at('2026-11-21'),
      'verified',
    ],
    [
      "a report with another machine's VCEK",
      'snp/microsoft/genoa_attestation_report.bin',
      ['snp/lunal/live-vcek-genoa.der', ...roots('genoa')],
      at('2026-11-21'),
      'refuted',
      'evidence_signature',
    ],
  ]
  test.each(cases)('%s', (_, evidence, collateral, now, verdict, reason) => {
    const answer = assay(evidence, collateral, now)
    expect([answer.verdict, answer.reason, answer.status]).toEqual([verdict, reason, verdict === 'verified' ? 0 : 1])
    expect(answer.result.tee).toBe('snp')
  })

  test('refusal: Milan, and a chain without a revocation list, under the policy of a registration', () => {
    const policy = join(folder, 'policy.json')
    writeFileSync(policy, JSON.stringify({ requireRevocation: true }))
    const genoa = assay(
      'snp/lunal/live-report-v5-genoa.bin',
      ['snp/lunal/live-vcek-genoa.der', ...roots('genoa')],
      at('2026-11-21'),
      '--policy',
      policy,
    )
    expect(genoa.reason).toBe('crl_invalid')
    const snp = {
      refusedProducts: ['Milan'],
      minimumTcb: { Milan: {}, Genoa: {}, Turin: {} },
      requireAliasCheck: true,
      provisionalFirmware: false,
      maxVmpl: 0,
    }
    writeFileSync(policy, JSON.stringify({ snp }))
    const milan = assay(
      'snp/microsoft/milan_attestation_report.bin',
      ['snp/microsoft/milan_vcek.pem', ...roots('milan')],
      at('2026-11-21'),
      '--policy',
      policy,
    )
    expect(milan.reason).toBe('platform_denied')
  })

  test('refusal: a frame that brings no certificates says which are missing, and one cut off is no evidence', () => {
    const { status, result } = assay('snp/dstack/sev_snp_attestation.bin', [])
    expect([status, result.verdict]).toEqual([2, 'unknown'])
    const cut = join(folder, 'cut.bin')
    writeFileSync(cut, readFileSync(join(vectors, 'snp/dstack/sev_snp_attestation.bin')).subarray(0, 700))
    expect(assay(cut, []).result.error.message).toContain('The frame ends at')
  })

  test('refusal: a report without the certificates it takes', () => {
    const { status, result } = assay('snp/lunal/test-report.bin', ['snp/lunal/test-vcek.der'])
    expect(status).toBe(1)
    expect(result.error.message).toContain('ARK')
  })
})

describe.skipIf(!present)('assay evidence verify on Nitro documents of real enclaves', () => {
  const cases: Case[] = [
    [
      'a document in its frame',
      'nitro/dstack/nsm-qvl-nitro_attestation.bin',
      [],
      at('2025-12-25T13:15:37Z'),
      'verified',
    ],
    ['another', 'nitro/dstack/dstack-attest-nitro_attestation.bin', [], at('2025-12-25T16:04:19Z'), 'verified'],
    [
      'the same a day later',
      'nitro/dstack/dstack-attest-nitro_attestation.bin',
      [],
      at('2025-12-26T16:04:19Z'),
      'refuted',
      'certificate_expired',
    ],
    [
      'a debug enclave',
      'nitro/dstack/dstack-attest-nitro_attestation_dbg.bin',
      [],
      at('2025-12-25T08:20:46Z'),
      'refuted',
      'debug',
    ],
    [
      'a debug enclave, in base64',
      'nitro/evervault/test-data/valid-attestation-doc-base64',
      [],
      at('2023-09-18T15:03:30Z'),
      'refuted',
      'debug',
    ],
  ]
  test.each(cases)('%s', (_, evidence, collateral, now, verdict, reason) => {
    const answer = assay(evidence, collateral, now)
    expect([answer.verdict, answer.reason]).toEqual([verdict, reason])
  })
})

describe.skipIf(!present)('assay evidence verify on GPUs', () => {
  const nvtrust = [
    'nvidia/nvtrust/samples/Driver_RIM_test_no_gpu.swidtag',
    'nvidia/nvtrust/samples/1010_0200_882_96005E0001_test_no_gpu.swidtag',
  ]
  const go = 'nvidia/go-nvtrust'
  const sdk = 'nvidia/attestation-sdk'
  const gpu = `${sdk}/sample_attestation_data/gpu`
  const june = at('2025-06-01')
  const cases: Case[] = [
    [
      'a whole H100: chain, signature, 33 measurements',
      `${go}/attestationReport.txt`,
      [`${go}/gpuAkCertChain.txt`, ...nvtrust],
      june,
      'verified',
    ],
    [
      'the same without reference measurements',
      `${go}/attestationReport.txt`,
      [`${go}/gpuAkCertChain.txt`],
      june,
      'unknown',
    ],
    [
      'the same after the signers of its references expired',
      `${go}/attestationReport.txt`,
      [`${go}/gpuAkCertChain.txt`, ...nvtrust],
      at('2025-07-01'),
      'refuted',
      'certificate_expired',
    ],
    [
      'a chain whose leaf is not signed',
      `${go}/attestationReport.txt`,
      [`${go}/invalidCertChain.txt`, ...nvtrust],
      june,
      'refuted',
      'certificate_invalid',
    ],
    [
      'references for another driver',
      'nvidia/nvtrust/samples/hopperAttestationReport.txt',
      ['nvidia/nvtrust/samples/hopperCertChain.txt', ...nvtrust],
      june,
      'refuted',
      'rim_mismatch',
    ],
    ['H100 of driver 535', `${gpu}/hopperAttestationReport.txt`, [`${gpu}/hopperCertChain.txt`], june, 'unknown'],
    [
      'measurements changed after signing',
      `${gpu}/hopperAttestationReportInvalidSignature.txt`,
      [`${gpu}/hopperCertChainExpired.txt`],
      june,
      'refuted',
      'evidence_signature',
    ],
    ['H200', `${gpu}/hopperAttestationReportExpired.txt`, [`${gpu}/hopperCertChainExpired.txt`], june, 'unknown'],
    [
      'references whose signer expired',
      `${gpu}/hopperAttestationReportExpired.txt`,
      [`${gpu}/hopperCertChainExpired.txt`, `${sdk}/sample_rims/NV_GPU_DRIVER_GH100_570.124.03_expired.xml`],
      june,
      'refuted',
      'certificate_expired',
    ],
    [
      'references changed after signing',
      `${gpu}/hopperAttestationReport.txt`,
      [`${gpu}/hopperCertChain.txt`, `${sdk}/sample_rims/NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml`],
      june,
      'refuted',
      'rim_invalid',
    ],
    [
      'references with a false signature',
      `${sdk}/hopperAttestationReport.txt`,
      [`${sdk}/hopperCertChain.txt`, `${sdk}/incorrect_signature_driver_rim.xml`],
      june,
      'refuted',
      'rim_invalid',
    ],
    [
      'references under another root',
      `${sdk}/hopperAttestationReport.txt`,
      [`${sdk}/hopperCertChain.txt`, `${sdk}/incorrect_cert_chain_driver_rim.xml`],
      june,
      'refuted',
      'untrusted_root',
    ],
    ['H200-class of driver 580', `${sdk}/hopperAttestationReport.txt`, [`${sdk}/hopperCertChain.txt`], june, 'unknown'],
    [
      "H100 of driver 590 in protected PCIe mode, as the tool's list keeps it",
      `${sdk}/evidence_hopper_590_12.json`,
      [],
      june,
      'refuted',
      'gpu_mode',
    ],
    [
      'references for a switch',
      `${sdk}/hopperAttestationReport.txt`,
      [`${sdk}/hopperCertChain.txt`, `${sdk}/switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml`],
      at('2026-11-21'),
      'refuted',
      'rim_invalid',
    ],
    [
      'references for an older driver, sound by themselves',
      `${sdk}/hopperAttestationReport.txt`,
      [`${sdk}/hopperCertChain.txt`, `${sdk}/NV_GPU_DRIVER_GH100_550.144.03.xml`],
      at('2025-01-01'),
      'refuted',
      'rim_mismatch',
    ],
    ['Blackwell', `${gpu}/blackwellAttestationReport.txt`, [`${gpu}/blackwellCertChain.txt`], june, 'unknown'],
  ]
  test.each(cases)('%s', (_, evidence, collateral, now, verdict, reason) => {
    const answer = assay(evidence, collateral, now)
    // A manifest that does not verify ends the command before there is a verdict to word.
    expect([answer.verdict ?? 'refuted', answer.reason]).toEqual([verdict, reason])
    expect(answer.status).toBe({ verified: 0, refuted: 1, unknown: 2 }[verdict])
  })

  test('behavior: what hardware cannot prove stays unknown even in a verified GPU', () => {
    const { result } = assay(`${go}/attestationReport.txt`, [`${go}/gpuAkCertChain.txt`, ...nvtrust], june)
    const status = (name: string) => result.claims.find(({ claim }: { claim: string }) => claim === name)?.status
    expect([status('gpu_measured'), status('gpu_bound'), status('not_revoked'), status('fresh')]).toEqual([
      'asserted',
      'unknown',
      'unknown',
      'unknown',
    ])
    expect(result.claims.find(({ claim }: { claim: string }) => claim === 'gpu_measured').detail).toContain('33')
  })
})

describe.skipIf(!present)('assay rim sign', () => {
  const sign = (...words: string[]) =>
    spawnSync('node', ['client/cli.mjs', 'rim', 'sign', ...words, '--json'], {
      encoding: 'utf8',
      cwd: join(import.meta.dirname, '../..'),
      env: { PATH: process.env.PATH },
    })
  const manifest = join(vectors, 'nvidia/nvtrust/samples/Driver_RIM_test_no_gpu.swidtag')
  const key = join(folder, 'rim-key.jwk')

  test('behavior: makes a key only its owner may read, keeps it, and signs the same table with it', async () => {
    const first = sign(manifest, '--key', key, '--now', '1748736000')
    const again = sign(manifest, '--key', key, '--now', '1748736000')
    expect([first.status, again.status]).toEqual([0, 0])
    expect(statSync(key).mode & 0o777).toBe(0o600)
    const [one, two] = [JSON.parse(first.stdout), JSON.parse(again.stdout)]
    expect(one.table).toEqual(two.table)
    expect(one.signer).toBe(two.signer)
    expect(await verifyRimTable(rimTableFromJson(one), [one.signer])).toBe(true)
    expect(await verifyRimTable({ ...one, table: { ...one.table, version: '1' } }, [one.signer])).toBe(false)
    expect(await verifyRimTable(one, [])).toBe(false)
  })

  test.each([
    ['a manifest whose signer has expired', [manifest, '--key', key, '--now', '1795219200'], 1, 'valid from'],
    ['no key', [manifest], 2, '--key'],
    [
      'a key that is none',
      [manifest, '--key', join(import.meta.dirname, '../../package.json'), '--now', '1748736000'],
      2,
      'P-256',
    ],
    ['a file that is no manifest', [join(import.meta.dirname, '../../package.json'), '--key', key], 1, 'not XML'],
  ])('refusal: %s', (_, words, status, why) => {
    const { status: found, stderr } = sign(...words)
    expect([found, stderr.includes(why)], stderr).toEqual([status, true])
  })
})
