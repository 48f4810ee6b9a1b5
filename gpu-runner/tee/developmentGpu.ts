import { p256 } from '@noble/curves/nist.js'
import { concat, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { integer, octets, oid, sequence } from '../../protocol/evidence/derWriter.ts'
import type { GpuCollateral, GpuEvidence, OcspStatus } from '../../protocol/evidence/gpu.ts'
import { type RimTable, rimTableBytes, type SignedRimTable } from '../../protocol/evidence/rim.ts'
import { p384Profile, parseCertificate } from '../../protocol/evidence/x509.ts'
import { sha256 } from '../../protocol/hash.ts'
import { createDevelopmentResponder, type OcspFault } from './developmentOcsp.ts'
import { deriveBytes, extension, type Issued, issue, p384Key, pem, signP384 } from './developmentPki.ts'

/** Lists what a development GPU can get wrong on purpose. */
export const gpuFaults = [
  'expired_leaf',
  'future_leaf',
  'foreign_root',
  'wrong_role',
  'leaf_as_ca',
  'issuer_not_ca',
  'revoked',
  'on_hold',
  'other_nonce',
  'other_firmware',
  'no_firmware',
  'ppcie',
  'protected_pcie',
  'unknown_mode',
  'zero_signature',
  'signed_by_stranger',
  'trailing_bytes',
  'truncated',
  'repeated_block',
  'measurement_mismatch',
  'measurement_missing',
  'other_driver',
  'other_model',
  'other_board',
  'rim_by_stranger',
  'rim_changed',
  'rim_expired',
  'rims_contested',
  'rim_empty',
] as const

/** Names what a development GPU can get wrong on purpose. */
export type GpuFault = (typeof gpuFaults)[number]

/** Holds a development GPU: digests of what it is trusted by, its evidence for a nonce (32 bytes), and what is known of it. */
export type DevelopmentGpu = {
  root: Hex
  rimSigner: Hex
  evidence(nonce: Uint8Array): GpuEvidence
  collateral(): GpuCollateral
  /** Answers an OCSP request (DER) about one of its certificates. */
  answerOcsp(request: Uint8Array): Promise<Uint8Array>
}

const day = 86_400
const driver = '580.00.00'
const vbios = [0x00, 0x5e, 0x00, 0x96, 0x01, 0x00, 0x00, 0x00]

const little = (value: number, width: number) =>
  Uint8Array.from({ length: width }, (_, index) => Math.floor(value / 256 ** index) & 0xff)

/** Tells whether a request is about a certificate, by its serial number. */
function asksAbout(request: Uint8Array, der: Uint8Array): boolean {
  const { serial } = parseCertificate(der, p384Profile)
  return toHex(request).includes(serial.slice(2))
}

/** Makes a development GPU: SPDM measurements of NVIDIA's format with a PKI of its own from the seed (32 bytes). `index` tells several of one machine apart; `now` gives unix seconds. */
export async function createDevelopmentGpu({
  seed,
  now,
  index = 0,
  faults = [],
  ocspFaults = [],
}: {
  seed: Uint8Array
  now: () => number
  index?: number
  faults?: readonly GpuFault[]
  ocspFaults?: readonly OcspFault[]
}): Promise<DevelopmentGpu> {
  const has = (fault: GpuFault) => faults.includes(fault)
  const authority = (commonName: string, label: string, issuer?: Issued, ca = true) =>
    issue({
      commonName,
      key: p384Key(seed, label),
      serial: deriveBytes(seed, `${label} serial`, 9),
      ca,
      ...(issuer ? { issuer } : {}),
    })
  const trusted = await authority('Assay Development Device Identity CA', 'gpu root')
  const root = has('foreign_root')
    ? await authority('Assay Development Device Identity CA', 'foreign gpu root')
    : trusted
  const identity = await authority('Assay Development GH100 Identity', 'gpu identity', root)
  const device = await authority('GH100 A01 GSP BROM', `gpu device ${index}`, identity, !has('issuer_not_ca'))
  const fwid = deriveBytes(seed, 'gpu firmware', 48)
  const leafKey = p384Key(seed, `gpu leaf ${index}`)
  const serial = deriveBytes(seed, `gpu ueid ${index}`, 20)
  serial[0] = 0x50
  const leaf = await issue({
    commonName: has('wrong_role') ? 'GH100 A01 GSP BROM' : 'GH100 A01 GSP FMC LF',
    key: leafKey,
    issuer: device,
    serial,
    ca: has('leaf_as_ca'),
    ...(has('expired_leaf') ? { notAfter: now() - day } : {}),
    ...(has('future_leaf') ? { notBefore: now() + day } : {}),
    extensions: [
      extension(
        '2.23.133.5.4.1',
        sequence(integer(1), leafKey.spki, sequence(oid('2.16.840.1.101.3.4.2.2'), octets(fwid))),
      ),
    ],
  })
  const chain = [leaf, device, identity, root]

  const value = (at: number) => deriveBytes(seed, `gpu measurement ${at}`, 48)
  const rimSecret = deriveBytes(seed, 'rim signer')
  const signTable = (table: RimTable, secret: Uint8Array): SignedRimTable => ({
    table,
    signer: toHex(p256.getPublicKey(secret, false)),
    signature: toHex(p256.sign(rimTableBytes(table), secret, { lowS: false })),
  })
  const table = (kind: RimTable['kind'], version: string, from: number, to: number): RimTable => ({
    format: 'assay-rim-1',
    id: `development GH100 ${kind} ${version}`,
    kind,
    version,
    chip: has('other_model') ? 'GB100' : 'GH100',
    measurements: Object.fromEntries(
      Array.from({ length: to - from }, (_, offset) => [
        String(from + offset),
        [toHex(value(from + offset + (kind === 'vbios' && has('other_board') ? 100 : 0)))],
      ]),
    ),
    signerNotAfter: now() + (has('rim_expired') ? -day : 365 * day),
    verifiedAt: now() - 2 * day,
  })

  return {
    root: toHex(sha256(trusted.der)),
    rimSigner: toHex(p256.getPublicKey(rimSecret, false)),

    evidence(nonce) {
      const request = concat(
        new Uint8Array([0x11, 0xe0, 0x01, 0xff]),
        has('other_nonce') ? nonce.map((byte) => byte ^ 1) : nonce,
        new Uint8Array(1),
      )
      const block = (at: number, content: Uint8Array) =>
        concat(new Uint8Array([at + 1, 1]), little(51, 2), new Uint8Array([0x13]), little(48, 2), content)
      const blocks = Array.from({ length: has('measurement_missing') ? 8 : 64 }, (_, at) =>
        block(
          has('repeated_block') && at === 9 ? 8 : at,
          has('measurement_mismatch') && at === 9 ? new Uint8Array(48).fill(1) : value(at),
        ),
      )
      const record = concat(...blocks)
      const field = (type: number, content: Uint8Array) => concat(little(type, 2), little(content.length, 2), content)
      const mode = has('ppcie') ? 2 : has('unknown_mode') ? 9 : 0
      const opaque = concat(
        field(3, utf8(`${driver}\0`)),
        field(6, new Uint8Array(vbios)),
        field(11, new Uint8Array([0xaa])),
        field(15, utf8('882\0')),
        field(17, utf8('1010\0')),
        field(18, utf8('0200\0')),
        ...(has('no_firmware')
          ? []
          : [field(20, has('other_firmware') ? deriveBytes(seed, 'other firmware', 48) : fwid)]),
        field(21, new Uint8Array([has('protected_pcie') ? 0xaa : 0x55])),
        field(36, new Uint8Array([mode])),
      )
      const signed = concat(
        request,
        new Uint8Array([0x11, 0x60, 0, 0, blocks.length]),
        little(record.length, 3),
        record,
        deriveBytes(seed, 'gpu responder nonce'),
        little(opaque.length, 2),
        opaque,
      )
      const secret = has('signed_by_stranger') ? p384Key(seed, 'stranger').secret : leafKey.secret
      const signature = has('zero_signature') ? new Uint8Array(96) : signP384(secret, signed)
      const whole = concat(signed, signature)
      const evidence = has('trailing_bytes')
        ? concat(whole, new Uint8Array(2))
        : has('truncated')
          ? whole.slice(0, -9)
          : whole
      return { arch: 'HOPPER', evidence, certificates: pem(...chain.map(({ der }) => der)) }
    },

    collateral() {
      const version = has('other_driver') ? '570.00.00' : driver
      const signer = has('rim_by_stranger') ? deriveBytes(seed, 'stranger rim signer') : rimSecret
      const ofDriver = signTable(
        has('rim_empty') ? { ...table('driver', version, 0, 20), measurements: {} } : table('driver', version, 0, 20),
        signer,
      )
      const ofVbios = signTable(
        has('rim_empty')
          ? { ...table('vbios', '96.00.5E.00.01', 20, 30), measurements: {} }
          : table('vbios', '96.00.5E.00.01', has('rims_contested') ? 19 : 20, 30),
        signer,
      )
      const rims = has('rim_changed')
        ? [{ ...ofDriver, table: { ...ofDriver.table, signerNotAfter: now() + 999 * day } }, ofVbios]
        : [ofDriver, ofVbios]
      const status: OcspStatus = has('revoked') ? 'revoked' : has('on_hold') ? 'hold' : 'good'
      const ocsp = Object.fromEntries(
        chain
          .slice(0, -1)
          .map(({ commonName }, at) => [
            toHex(
              at === 0 ? serial : deriveBytes(seed, `${at === 1 ? `gpu device ${index}` : 'gpu identity'} serial`, 9),
            ),
            commonName === device.commonName ? status : ('good' as OcspStatus),
          ]),
      )
      return { rims, ocsp }
    },

    async answerOcsp(request) {
      const about = chain.findIndex(({ der }) => asksAbout(request, der))
      const { commonName } = chain[about]!
      const status = has('revoked') ? 'revoked' : has('on_hold') ? 'hold' : 'good'
      const respond = await createDevelopmentResponder({
        seed,
        issuer: chain[about + 1]!,
        now,
        status: commonName === device.commonName ? status : 'good',
        faults: ocspFaults,
      })
      return respond(request)
    },
  }
}
