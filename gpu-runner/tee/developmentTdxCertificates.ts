import { p256 } from '@noble/curves/nist.js'
import { bits, element, integer, name, octets, oid, sequence, time, yes } from '../../protocol/evidence/derWriter.ts'
import { sha256 } from '../../protocol/hash.ts'
import { extension, pem } from './developmentPki.ts'
import { derive, type TdxMachine } from './developmentTdxMachine.ts'

/** Holds a P-256 key; the public one uncompressed, 65 bytes. */
export type P256Key = { secret: Uint8Array; publicKey: Uint8Array }

/** Derives a P-256 key from a machine's seed. */
export function p256Key(machine: TdxMachine, label: string): P256Key {
  const secret = derive(machine, label)
  return { secret, publicKey: p256.getPublicKey(secret, false) }
}

/** Signs as quotes and collateral hold it: r ‖ s, 64 bytes. */
export const signP256 = ({ secret }: P256Key, message: Uint8Array): Uint8Array =>
  p256.sign(message, secret, { lowS: false })

/** Holds a certificate of a development TDX machine, and what issues more under it. */
export type TdxCertificate = { der: Uint8Array; key: P256Key; commonName: string; serial: Uint8Array }

/** Holds the certificates of a development TDX machine. */
export type TdxCertificates = {
  root: TdxCertificate
  /** Issues PCK certificates. */
  platformCa: TdxCertificate
  /** Signs the quoting enclave's reports. */
  pck: TdxCertificate
  /** Signs collateral. */
  tcbSigner: TdxCertificate
}

const day = 86_400
// Certificates do not move with the clock, so that a chain registered on chain once stays the same chain.
const issuedAt = Math.floor(Date.UTC(2026, 0, 1) / 1000)
const ecdsaSha256 = sequence(oid('1.2.840.10045.4.3.2'))

/** Adds its signature to what was signed, as certificates and revocation lists do (RFC 5280 §4.1.1). */
function signed(tbs: Uint8Array, signer: P256Key): Uint8Array {
  const signature = signP256(signer, tbs)
  return sequence(tbs, ecdsaSha256, bits(sequence(integer(signature.subarray(0, 32)), integer(signature.subarray(32)))))
}

/** Names an issuer's key as what it issues does. */
const authorityKeyIdentifier = ({ publicKey }: P256Key): Uint8Array =>
  extension('2.5.29.35', sequence(element(0x80, sha256(publicKey).subarray(0, 20))))

function issue(
  machine: TdxMachine,
  {
    label,
    commonName,
    issuer,
    ca,
    extensions = [],
    notBefore = issuedAt,
    notAfter = issuedAt + 20 * 365 * day,
  }: {
    label: string
    commonName: string
    issuer?: TdxCertificate
    ca: boolean
    extensions?: Uint8Array[]
    notBefore?: number
    notAfter?: number
  },
): TdxCertificate {
  const key = p256Key(machine, label)
  const signer = issuer ?? { key, commonName }
  const serial = derive(machine, `serial ${label}`).slice(0, 16)
  serial[0] = (serial[0]! & 0x7f) | 0x40
  const tbs = sequence(
    element(0xa0, integer(2)),
    integer(serial),
    ecdsaSha256,
    name(signer.commonName),
    sequence(time(notBefore), time(notAfter)),
    name(commonName),
    sequence(sequence(oid('1.2.840.10045.2.1'), oid('1.2.840.10045.3.1.7')), bits(key.publicKey)),
    element(
      0xa3,
      sequence(
        authorityKeyIdentifier(signer.key),
        extension('2.5.29.15', ca ? bits(new Uint8Array([0x06]), 1) : bits(new Uint8Array([0xc0]), 6), true),
        extension('2.5.29.19', ca ? sequence(yes()) : sequence(), true),
        ...extensions,
      ),
    ),
  )
  return { der: signed(tbs, signer.key), key, commonName, serial }
}

/** Writes what a PCK certificate says of its platform: PPID, security versions, PCE-ID, FMSPC and SGX type. */
function sgxExtension(machine: TdxMachine): Uint8Array {
  const svn = (index: number, value: number) => sequence(oid(`1.2.840.113741.1.13.1.2.${index}`), integer(value))
  return extension(
    '1.2.840.113741.1.13.1',
    sequence(
      sequence(oid('1.2.840.113741.1.13.1.1'), octets(derive(machine, 'ppid').slice(0, 16))),
      sequence(
        oid('1.2.840.113741.1.13.1.2'),
        sequence(
          ...Array.from({ length: 16 }, (_, index) => svn(index + 1, index < 8 ? 5 : 0)),
          svn(17, 13),
          sequence(oid('1.2.840.113741.1.13.1.2.18'), octets(new Uint8Array(16).fill(5, 0, 8))),
        ),
      ),
      sequence(oid('1.2.840.113741.1.13.1.3'), octets(new Uint8Array(2))),
      sequence(oid('1.2.840.113741.1.13.1.4'), octets(new Uint8Array([0x00, 0xa5, 0x5a, 0x70, 0, 0]))),
      sequence(oid('1.2.840.113741.1.13.1.5'), element(0x0a, new Uint8Array([1]))),
    ),
  )
}

/** Issues the root that verifiers of development evidence are told of, whatever root the machine itself stands on. */
export function issueTdxRoot(machine: TdxMachine, label = 'root'): TdxCertificate {
  return issue(machine, { label, commonName: 'Assay Development SGX Root CA', ca: true })
}

/** Issues the certificates of a development TDX machine. */
export function issueTdxCertificates(machine: TdxMachine): TdxCertificates {
  const { has, now } = machine
  const root = issueTdxRoot(machine, has('foreign_root') ? 'foreign root' : 'root')
  const platformCa = issue(machine, {
    label: 'platform ca',
    commonName: 'Assay Development SGX PCK Platform CA',
    issuer: root,
    ca: !has('ca_not_ca'),
  })
  const pck = issue(machine, {
    label: 'pck',
    commonName: has('wrong_role') ? 'Assay Development SGX TCB Signing' : 'Assay Development SGX PCK Certificate',
    issuer: platformCa,
    ca: has('leaf_as_ca'),
    extensions: [sgxExtension(machine)],
    ...(has('expired_leaf') ? { notAfter: now() - day } : {}),
    ...(has('future_leaf') ? { notBefore: now() + day } : {}),
  })
  const tcbSigner = issue(machine, {
    label: 'tcb signing',
    commonName: 'Assay Development SGX TCB Signing',
    issuer: root,
    ca: false,
  })
  return { root, platformCa, pck, tcbSigner }
}

/** Issues a revocation list (RFC 5280 §5.1), good for thirty days from `thisUpdate` (unix seconds); `signer` is the issuer's key unless told. */
export function issueTdxCrl({
  issuer,
  signer = issuer.key,
  revoked,
  thisUpdate,
}: {
  issuer: TdxCertificate
  signer?: P256Key
  revoked: readonly TdxCertificate[]
  thisUpdate: number
}): Uint8Array {
  const tbs = sequence(
    integer(1),
    ecdsaSha256,
    name(issuer.commonName),
    time(thisUpdate),
    time(thisUpdate + 30 * day),
    ...(revoked.length > 0
      ? [sequence(...revoked.map(({ serial }) => sequence(integer(serial), time(thisUpdate))))]
      : []),
    element(0xa0, sequence(authorityKeyIdentifier(issuer.key), extension('2.5.29.20', integer(1)))),
  )
  return signed(tbs, signer)
}

/** Writes a chain of certificates as PEM, in the order given. */
export const pemChain = (...chain: TdxCertificate[]): string => pem(...chain.map(({ der }) => der))
