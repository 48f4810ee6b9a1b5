import { p256 } from '@noble/curves/nist.js'
import { decodeFunctionData, encodeFunctionData } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { runnerRegistryAbi } from '../../contracts/abi.ts'
import { pack } from '../../gpu-runner/packedText.ts'
import { crlCall, issuerCall, pckCall, quoteForChain } from '../../gpu-runner/registrar.ts'
import { createDevelopmentTee } from '../../gpu-runner/tee/development.ts'
import { concat, fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { DerReader } from '../../protocol/evidence/der.ts'
import { sequence } from '../../protocol/evidence/derWriter.ts'
import { type CollateralOf, defaultPolicy, verifyEvidence } from '../../protocol/evidence/index.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { type Certificate, parseCertificate, parseCrl, parsePem } from '../../protocol/evidence/x509.ts'
import { sha256 } from '../../protocol/hash.ts'
import { openRecorded } from './recorded.ts'

// Everything here is signed as it should be: what a compromised or careless signer could issue must still be read strictly.
const start = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const tee = createDevelopmentTee({ seed, now: () => start })
const reportData = new Uint8Array(64).fill(3)
const quote = tee.quote(reportData)
const later = tee.quote(reportData, { version: 5 })
const collateral = tee.collateral() as CollateralOf<'tdx'>
const parts = parseTdxQuote(quote)
const [pck, platformCa] = parts.chain.map((der) => parseCertificate(der)) as [Certificate, Certificate]

type Key = 'root' | 'platform ca' | 'pck' | 'attestation' | 'tcb signing'
// The development keys follow from the seed.
const sign = (key: Key, message: Uint8Array) => p256.sign(message, sha256(concat(seed, utf8(key))), { lowS: false })

/** Replaces the first run of bytes; both as hexadecimal of one length, so that every length around stays right. */
function replaced(bytes: Uint8Array, from: string, to: string): Uint8Array {
  const text = toHex(bytes).slice(2)
  let position = text.indexOf(from)
  while (position % 2 === 1) position = text.indexOf(from, position + 1)
  if (position < 0 || from.length !== to.length) throw new Error(`${from} does not stand there, or ${to} is longer.`)
  return fromHex(`0x${text.slice(0, position)}${to}${text.slice(position + to.length)}`)
}
const ascii = (text: string) => toHex(utf8(text)).slice(2)
const sgx = '2a864886f84d010d01'

describe('signed, and still refused', () => {
  let it: Awaited<ReturnType<typeof openRecorded>>
  let snapshot: Hex
  beforeAll(async () => {
    it = await openRecorded({ now: start, rootDer: tee.rootDer, reportData: toHex(reportData) })
    await it.approve(tdxWorkload(parts.body))
    await it.post(quote, collateral)
    snapshot = await it.testClient.snapshot()
  })
  beforeEach(async () => {
    await it.testClient.revert({ id: snapshot })
    await it.testClient.mine({ blocks: 2 })
    snapshot = await it.testClient.snapshot()
  })
  afterAll(async () => {
    await it?.chain.stop()
  })

  const leaves: [string, string, string, string][] = [
    ['of another version', 'a003020102', 'a003020101', 'MalformedDer'],
    ['signed by another algorithm', '2a8648ce3d040302', '2a8648ce3d040303', 'MalformedDer'],
    ['on another curve', '2a8648ce3d030107', '2a8648ce3d030106', 'MalformedDer'],
    ['with a compressed key', '03420004', '03420002', 'MalformedDer'],
    ['of another role', ascii('SGX PCK Certificate'), ascii('SGX PCK Certificatf'), 'CertificateRole'],
    [
      'with two common names',
      `${ascii('SGX PCK Certificate')}31283026060355040a`,
      `${ascii('SGX PCK Certificate')}312830260603550403`,
      'MalformedCertificate',
    ],
    [
      'issued by another name',
      ascii('Assay Development SGX PCK Platform CA'),
      ascii('Assay Development SGX PCK Platform Cb'),
      'IssuerUnknown',
    ],
    ['with a date that is none', ascii('260101000000Z'), ascii('261301000000Z'), 'MalformedTime'],
    ['with a date without a zone', ascii('260101000000Z'), ascii('2601010000000'), 'MalformedDer'],
    ['with a flag that is neither true nor absent', '0603551d0f0101ff', '0603551d0f010101', 'MalformedDer'],
    ['with an unknown critical extension', '0603551d0f0101ff', '0603551d1e0101ff', 'MalformedDer'],
    ['with basic constraints twice', '0603551d23', '0603551d13', 'MalformedDer'],
    ['with a component out of place', `060b${sgx}0202`, `060b${sgx}0203`, 'MalformedPckExtension'],
    ['with a negative component', `060b${sgx}0201020105`, `060b${sgx}0201020185`, 'MalformedPckExtension'],
    ['with a component that is no number', `060b${sgx}0201020105`, `060b${sgx}0201040105`, 'MalformedPckExtension'],
    ['without FMSPC', `060a${sgx}04`, `060a${sgx}09`, 'MalformedPckExtension'],
    ['with PCE id twice', `060a${sgx}04`, `060a${sgx}03`, 'MalformedPckExtension'],
    ["without Intel's extension", `0609${sgx}04`, '06092a864886f84d010e0104', 'MalformedDer'],
  ]
  test.each(leaves)('refusal: a PCK certificate %s', async (_, from, to, error) => {
    const tbs = replaced(pck.tbs, from, to)
    const call = pckCall({ ...pck, tbs, signature: sign('platform ca', tbs) as Uint8Array<ArrayBuffer> }, platformCa)
    await expect(it.call(call)).rejects.toThrow(error)
  })

  const intermediates: [string, string, string, string][] = [
    [
      'issued by another name',
      ascii('Assay Development SGX Root CA'),
      ascii('Assay Development SGX Root Cb'),
      'IssuerMismatch',
    ],
    ['without the power to sign certificates', '03020106', '03020102', 'CertificateRole'],
    ['without the power to sign lists', '03020106', '03020104', 'CertificateRole'],
    ['of no role', ascii('SGX PCK Platform CA'), ascii('SGX PCK Platform CB'), 'CertificateRole'],
    ['of the role of a leaf', ascii('SGX PCK Platform CA'), ascii('SGX PCK Certificate'), 'CertificateRole'],
  ]
  test.each(intermediates)('refusal: an intermediate %s', async (_, from, to, error) => {
    const tbs = replaced(platformCa.tbs, from, to)
    const call = issuerCall({ ...platformCa, tbs, signature: sign('root', tbs) as Uint8Array<ArrayBuffer> })
    await expect(it.call(call)).rejects.toThrow(error)
  })

  test('refusal: a machine whose certificate the root itself signed', async () => {
    const signer = parseCertificate(parsePem(collateral.tcbInfoChain)[0]!)
    const tbs = replaced(
      signer.tbs,
      ascii('Assay Development SGX TCB Signing'),
      ascii('Assay DevelopmSGX PCK Certificate'),
    )
    const call = issuerCall({ ...signer, tbs, signature: sign('root', tbs) as Uint8Array<ArrayBuffer> })
    await expect(it.call(call)).rejects.toThrow('CertificateRole')
  })

  const lists: [string, string, string, string][] = [
    ['of another version', '020101300a', '020100300a', 'MalformedCrl'],
    ['without a number', '0603551d14', '0603551d15', 'MalformedCrl'],
    ['that does not name its key', '0603551d23', '0603551d22', 'MalformedCrl'],
    ['with its number twice', '0603551d23', '0603551d14', 'MalformedDer'],
    [
      'of another issuer',
      ascii('Assay Development SGX PCK Platform CA'),
      ascii('Assay Development SGX PCK Platform Cb'),
      'IssuerUnknown',
    ],
  ]
  test.each(lists)('refusal: a revocation list %s', async (_, from, to, error) => {
    const { tbs } = parseCrl(collateral.pckCrl)
    const changed = replaced(tbs, from, to)
    await expect(it.call(signedList(changed))).rejects.toThrow(error)
  })
  /** Encodes a list whose signed part was changed and signed again. */
  const signedList = (tbs: Uint8Array): Hex => {
    const sound = decodeFunctionData({
      abi: runnerRegistryAbi,
      data: crlCall(collateral.pckCrl, platformCa, new Set()),
    }) as { args: readonly [Hex, Hex, Hex, Hex, Hex, readonly bigint[]] }
    const signature = sign('platform ca', tbs)
    const [, , , x, y, offsets] = sound.args
    const args = [toHex(pack(tbs)), toHex(signature.slice(0, 32)), toHex(signature.slice(32)), x, y, offsets] as const
    return encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'postCrl', args })
  }

  test('refusal: a revocation list by whoever signs collateral', async () => {
    const signer = parseCertificate(parsePem(collateral.tcbInfoChain)[0]!)
    const { tbs } = parseCrl(collateral.pckCrl)
    const content = new DerReader(tbs).next().content
    const fields = new DerReader(content)
    const [version, algorithm] = [fields.next(), fields.next()]
    const issuer = fields.next()
    const after = content.subarray(issuer.whole.byteOffset + issuer.whole.length - content.byteOffset)
    const renamed = sequence(version.whole, algorithm.whole, signer.subject, after)
    const signature = sign('tcb signing', renamed)
    const args = [
      toHex(pack(renamed)),
      toHex(signature.slice(0, 32)),
      toHex(signature.slice(32)),
      toHex(signer.publicKey.slice(1, 33)),
      toHex(signer.publicKey.slice(33)),
      [],
    ] as const
    await expect(
      it.call(encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'postCrl', args })),
    ).rejects.toThrow('CertificateRole')
  })

  test('refusal: a platform whose certificate has run out, though its CA stands', async () => {
    const tbs = replaced(pck.tbs, ascii('451227000000Z'), ascii('261201000000Z'))
    await it.call(pckCall({ ...pck, tbs, signature: sign('platform ca', tbs) as Uint8Array<ArrayBuffer> }, platformCa))
    // Ten days on, lists and collateral still stand.
    expect((await it.appraise(quote)).validUntil).toBe(Date.UTC(2026, 11, 1) / 1000)
    await it.testClient.setNextBlockTimestamp({ timestamp: BigInt(Date.UTC(2026, 11, 1) / 1000 + 1) })
    await it.testClient.mine({ blocks: 1 })
    await expect(it.appraise(quote)).rejects.toThrow('CertificateExpired')
  })

  test('refusal: everything, once the certificates have expired', async () => {
    await it.testClient.setNextBlockTimestamp({ timestamp: BigInt(pck.notAfter + 1) })
    await it.testClient.mine({ blocks: 1 })
    await expect(it.appraise(quote)).rejects.toThrow('CertificateExpired')
    await expect(it.call(pckCall(pck, platformCa))).rejects.toThrow('CertificateExpired')
    await expect(it.call(issuerCall(platformCa))).rejects.toThrow('CertificateExpired')
    await expect(it.call(crlCall(collateral.pckCrl, platformCa, 'all'))).rejects.toThrow('CertificateExpired')
  })

  test("refusal: an enclave's report of another length", async () => {
    const cut = quoteForChain(quote)
    for (const qeReport of [`${cut.qeReport}00`, cut.qeReport.slice(0, -2), '0x'] as Hex[]) {
      const changed = { ...cut, qeReport }
      const call = { address: it.registry, abi: runnerRegistryAbi, functionName: 'appraise', args: [changed] } as const
      await expect(it.publicClient.readContract(call)).rejects.toThrow('MalformedQuote')
    }
  })

  /** Changes a quote's bytes and signs what they are part of again. */
  function resigned(whole: Uint8Array, region: 'signed' | 'qeReport', change: (bytes: Uint8Array) => void): Uint8Array {
    const made = whole.slice()
    const cut = parseTdxQuote(made)
    change(cut[region])
    cut[region === 'signed' ? 'signature' : 'qeReportSignature'].set(
      sign(region === 'signed' ? 'attestation' : 'pck', cut[region]),
    )
    return made
  }
  const set = (offset: number, value: number) => (bytes: Uint8Array) => {
    bytes[offset] = value
  }
  const quotes: [string, () => Uint8Array, string][] = [
    [
      "with a module signer that is not the vendor's",
      () => resigned(quote, 'signed', set(48 + 64, 1)),
      'ModuleMismatch',
    ],
    ['with attributes of a module', () => resigned(quote, 'signed', set(48 + 119, 1)), 'ModuleMismatch'],
    ['with performance monitoring on', () => resigned(quote, 'signed', set(48 + 127, 0x80)), 'AttributesNotAllowed'],
    [
      'with a service domain in its last byte',
      () => resigned(later, 'signed', set(54 + 647, 1)),
      'AttributesNotAllowed',
    ],
    ['of an enclave too old for any level', () => resigned(quote, 'qeReport', set(258, 3)), 'QeLevelMissing'],
    ['of an enclave in debug mode', () => resigned(quote, 'qeReport', set(48, 0x13)), 'QeIdentityMismatch'],
    ['of another product', () => resigned(quote, 'qeReport', set(256, 1)), 'QeIdentityMismatch'],
    ['of an enclave with a selector', () => resigned(quote, 'qeReport', set(16, 1)), 'QeIdentityMismatch'],
    ['with report data beyond the key', () => resigned(quote, 'qeReport', set(383, 1)), 'AttestationKeyUnbound'],
    ['of a module too old for any level', () => resigned(quote, 'signed', set(48, 4)), 'ModuleLevelMissing'],
    ['of a module version nobody knows', () => resigned(quote, 'signed', set(49, 9)), 'ModuleUnknown'],
    ['whose current module is too old', () => resigned(later, 'signed', set(54 + 584, 4)), 'ModuleLevelMissing'],
  ]
  test.each(quotes)('refusal: a quote %s', async (_, make, error) => {
    await expect(it.appraise(make())).rejects.toThrow(error)
  })

  // These cannot be cut by a parser that refuses them, so the header is changed in what the sound quote was cut into.
  test.each([
    ['version', 0, 3],
    ['attestation key type', 2, 3],
    ['TEE type', 4, 0],
    ['enclave vendor', 12, 0],
  ] as const)('refusal: a quote of another %s', async (_, offset, value) => {
    const signed = parts.signed.slice()
    signed[offset] = value
    const signature = sign('attestation', signed)
    const changed = {
      ...quoteForChain(quote),
      signed: toHex(signed),
      r: toHex(signature.slice(0, 32)),
      s: toHex(signature.slice(32)),
    }
    await expect(
      it.publicClient.readContract({
        address: it.registry,
        abi: runnerRegistryAbi,
        functionName: 'appraise',
        args: [changed],
      }),
    ).rejects.toThrow('UnsupportedQuote')
  })

  test('behavior: version 5 may carry a body of TDX 1.0, and other sizes it may not', async () => {
    const early = (type: number, size: number) => {
      const signed = concat(parts.signed.subarray(0, 48), new Uint8Array([type, 0, size & 0xff, size >> 8, 0, 0]))
      signed[0] = 5
      const whole = concat(signed, parts.signed.subarray(48))
      return { whole, signature: sign('attestation', whole) }
    }
    const { whole, signature } = early(2, 584)
    const rest = quote.slice(parts.signed.length)
    rest.set(signature, 4)
    const made = concat(whole, rest)
    const verdict = await verifyEvidence({ format: 'tdx', quote: made }, collateral, {
      now: start,
      roots: developmentRoots({ chainId: 31_337, intel: tee.rootDer }),
      policy: defaultPolicy,
    })
    expect(verdict.tcbStatus).toBe('UpToDate')
    expect((await it.appraise(made)).status).toBe(0)
    for (const [type, size] of [
      [3, 648],
      [2, 585],
      [4, 885],
    ] as const) {
      const other = early(type, size)
      const cut = {
        ...quoteForChain(made),
        signed: toHex(other.whole),
        r: toHex(other.signature.slice(0, 32)),
        s: toHex(other.signature.slice(32)),
      }
      const call = { address: it.registry, abi: runnerRegistryAbi, functionName: 'appraise', args: [cut] } as const
      await expect(it.publicClient.readContract(call)).rejects.toThrow('UnsupportedQuote')
    }
  })

  test('behavior: current microcode fallen behind the launch counts', async () => {
    const fallen = resigned(later, 'signed', set(54 + 584 + 2, 1))
    expect((await it.appraise(fallen)).status).toBe(7)
    expect((await it.appraise(later)).status).toBe(0)
  })
})
