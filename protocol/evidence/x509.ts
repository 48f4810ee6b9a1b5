import { EncodingError, equalBytes, fromBase64, type Hex, toHex } from '../bytes.ts'
import {
  asn1,
  DerReader,
  inside,
  readBits,
  readEcdsaSignature,
  readOid,
  readSmall,
  readTime,
  readUnsigned,
} from './der.ts'
import { require } from './verdict.ts'

const oids = {
  ecPublicKey: '1.2.840.10045.2.1',
  p256: '1.2.840.10045.3.1.7',
  ecdsaSha256: '1.2.840.10045.4.3.2',
  commonName: '2.5.4.3',
  basicConstraints: '2.5.29.19',
  keyUsage: '2.5.29.15',
  crlNumber: '2.5.29.20',
  authorityKeyId: '2.5.29.35',
} as const

// RFC 5280 §4.2: an unknown critical extension refuses the certificate.
const knownCritical = new Set<string>([oids.basicConstraints, oids.keyUsage])

/** Holds the fields of an X.509 certificate (RFC 5280 §4.1) that a P-256 chain needs; times in unix seconds. */
export type Certificate = {
  der: Uint8Array
  tbs: Uint8Array
  serial: Hex
  issuer: Uint8Array
  subject: Uint8Array
  commonName: string
  notBefore: number
  notAfter: number
  /** Uncompressed point, 65 bytes. */
  publicKey: Uint8Array<ArrayBuffer>
  isCa: boolean
  keyCertSign: boolean
  crlSign: boolean
  extensions: Map<string, Uint8Array>
  /** r ‖ s, 64 bytes. */
  signature: Uint8Array<ArrayBuffer>
}

/** Holds the fields of a CRL (RFC 5280 §5.1); `revoked` are serial numbers. */
export type Crl = {
  tbs: Uint8Array
  issuer: Uint8Array
  thisUpdate: number
  nextUpdate: number
  revoked: Set<Hex>
  number: bigint
  signature: Uint8Array<ArrayBuffer>
}

function readAlgorithm(reader: DerReader): Uint8Array {
  const element = reader.next(asn1.sequence)
  const algorithm = inside(element)
  if (readOid(algorithm.next(asn1.oid)) !== oids.ecdsaSha256)
    throw new EncodingError('Certificate is not signed with ECDSA and SHA-256.')
  algorithm.end()
  return element.whole
}

function readCommonName(name: Uint8Array): string {
  const sets = new DerReader(new DerReader(name).next(asn1.sequence).content)
  let commonName = ''
  while (!sets.done) {
    const attributes = inside(sets.next(asn1.set))
    while (!attributes.done) {
      const attribute = inside(attributes.next(asn1.sequence))
      const type = readOid(attribute.next(asn1.oid))
      const value = attribute.next()
      attribute.end()
      if (type !== oids.commonName) continue
      if (commonName) throw new EncodingError('Certificate name has two common names.')
      commonName = new TextDecoder().decode(value.content)
    }
  }
  return commonName
}

function readPublicKey(reader: DerReader): Uint8Array<ArrayBuffer> {
  const info = inside(reader.next(asn1.sequence))
  const algorithm = inside(info.next(asn1.sequence))
  if (readOid(algorithm.next(asn1.oid)) !== oids.ecPublicKey || readOid(algorithm.next(asn1.oid)) !== oids.p256) {
    throw new EncodingError('Certificate key is not P-256.')
  }
  algorithm.end()
  const point = readBits(info.next(asn1.bitString))
  info.end()
  if (point.length !== 65 || point[0] !== 4) throw new EncodingError('Certificate key is not an uncompressed point.')
  return point.slice()
}

function readExtensions(element: { content: Uint8Array }, allowedCritical: Set<string>): Map<string, Uint8Array> {
  const outer = new DerReader(element.content)
  const list = inside(outer.next(asn1.sequence))
  outer.end()
  const extensions = new Map<string, Uint8Array>()
  while (!list.done) {
    const entry = inside(list.next(asn1.sequence))
    const oid = readOid(entry.next(asn1.oid))
    const critical = entry.optional(asn1.boolean)
    if (critical && (critical.content.length !== 1 || critical.content[0] !== 0xff))
      throw new EncodingError('DER boolean must be true here.')
    const value = entry.next(asn1.octetString).content
    entry.end()
    if (extensions.has(oid)) throw new EncodingError(`Extension ${oid} stands twice.`)
    if (critical && !allowedCritical.has(oid)) throw new EncodingError(`Critical extension ${oid} is unknown.`)
    extensions.set(oid, value)
  }
  return extensions
}

function readBasicConstraints(value: Uint8Array | undefined): boolean {
  if (!value) return false
  const outer = new DerReader(value)
  const constraints = inside(outer.next(asn1.sequence))
  outer.end()
  const flag = constraints.optional(asn1.boolean)
  if (flag && (flag.content.length !== 1 || flag.content[0] !== 0xff))
    throw new EncodingError('DER boolean must be true here.')
  if (constraints.optional(asn1.integer) && !flag) throw new EncodingError('A path length stands without the CA flag.')
  constraints.end()
  return flag !== null
}

/** Reads a P-256 certificate from strict DER. Throws EncodingError. */
export function parseCertificate(der: Uint8Array): Certificate {
  const outer = new DerReader(der)
  const certificate = inside(outer.next(asn1.sequence))
  outer.end()
  const tbsElement = certificate.next(asn1.sequence)
  const outerAlgorithm = readAlgorithm(certificate)
  const signature = readEcdsaSignature(readBits(certificate.next(asn1.bitString)), 32)
  certificate.end()

  const tbs = inside(tbsElement)
  const version = new DerReader(tbs.next(0xa0).content)
  if (readSmall(version.next(asn1.integer)) !== 2) throw new EncodingError('Certificate is not version 3.')
  const serial = toHex(readUnsigned(tbs.next(asn1.integer)))
  if (!equalBytes(readAlgorithm(tbs), outerAlgorithm))
    throw new EncodingError('Certificate names two signature algorithms.')
  const issuer = tbs.next(asn1.sequence).whole
  const validity = inside(tbs.next(asn1.sequence))
  const notBefore = readTime(validity.next())
  const notAfter = readTime(validity.next())
  validity.end()
  const subject = tbs.next(asn1.sequence).whole
  const publicKey = readPublicKey(tbs)
  const extensions = readExtensions(tbs.next(0xa3), knownCritical)
  tbs.end()

  const usage = extensions.get(oids.keyUsage)
  const usageByte = usage ? (new DerReader(usage).next(asn1.bitString).content[1] ?? 0) : 0
  return {
    der,
    tbs: tbsElement.whole,
    serial,
    issuer,
    subject,
    commonName: readCommonName(subject),
    notBefore,
    notAfter,
    publicKey,
    isCa: readBasicConstraints(extensions.get(oids.basicConstraints)),
    keyCertSign: (usageByte & 0x04) !== 0,
    crlSign: (usageByte & 0x02) !== 0,
    extensions,
    signature,
  }
}

/** Reads a CRL from strict DER. Throws EncodingError; a CRL without a number or an authority key id is refused, as Intel's verifier does. */
export function parseCrl(der: Uint8Array): Crl {
  const outer = new DerReader(der)
  const crl = inside(outer.next(asn1.sequence))
  outer.end()
  const tbsElement = crl.next(asn1.sequence)
  const outerAlgorithm = readAlgorithm(crl)
  const signature = readEcdsaSignature(readBits(crl.next(asn1.bitString)), 32)
  crl.end()

  const tbs = inside(tbsElement)
  if (readSmall(tbs.next(asn1.integer)) !== 1) throw new EncodingError('CRL is not version 2.')
  if (!equalBytes(readAlgorithm(tbs), outerAlgorithm)) throw new EncodingError('CRL names two signature algorithms.')
  const issuer = tbs.next(asn1.sequence).whole
  const thisUpdate = readTime(tbs.next())
  const nextUpdate = readTime(tbs.next())
  const revoked = new Set<Hex>()
  const entries = tbs.optional(asn1.sequence)
  if (entries) {
    const list = inside(entries)
    while (!list.done) {
      const entry = inside(list.next(asn1.sequence))
      revoked.add(toHex(readUnsigned(entry.next(asn1.integer))))
      readTime(entry.next())
      entry.optional(asn1.sequence)
      entry.end()
    }
  }
  const extensions = readExtensions(tbs.next(0xa0), new Set())
  tbs.end()
  const number = extensions.get(oids.crlNumber)
  if (!number || !extensions.has(oids.authorityKeyId))
    throw new EncodingError('CRL lacks its number or its authority key id.')
  const magnitude = readUnsigned(new DerReader(number).next(asn1.integer))
  return { tbs: tbsElement.whole, issuer, thisUpdate, nextUpdate, revoked, number: BigInt(toHex(magnitude)), signature }
}

/** Splits PEM text into the DER of its certificates. Throws EncodingError on text between them or on bad base64. */
export function parsePem(text: string): Uint8Array[] {
  const certificates: Uint8Array[] = []
  const rest = text.replace(
    /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*?)-----END CERTIFICATE-----/g,
    (_, body: string) => {
      certificates.push(fromBase64(body.replace(/\s/g, '')))
      return ''
    },
  )
  // Intel pads the chain inside a quote with a zero byte.
  if (rest.replace(/[\s\0]/g, '') !== '') throw new EncodingError('PEM has text between its certificates.')
  return certificates
}

/** Verifies an ECDSA P-256 signature (r ‖ s) over SHA-256 of a message with an uncompressed public key; false on a point off the curve. */
export async function verifyP256(publicKey: Uint8Array, signature: Uint8Array, message: Uint8Array): Promise<boolean> {
  try {
    const key = await crypto.subtle.importKey(
      'raw',
      publicKey as Uint8Array<ArrayBuffer>,
      { name: 'ECDSA', namedCurve: 'P-256' },
      false,
      ['verify'],
    )
    return await crypto.subtle.verify(
      { name: 'ECDSA', hash: 'SHA-256' },
      key,
      signature as Uint8Array<ArrayBuffer>,
      message as Uint8Array<ArrayBuffer>,
    )
  } catch {
    return false
  }
}

/** Checks that `issuer` issued `certificate`: names, CA flag, key usage, signature (RFC 5280 §6.1.3). Refuses otherwise. */
export async function checkIssued(certificate: Certificate, issuer: Certificate): Promise<void> {
  const who = `"${certificate.commonName}" under "${issuer.commonName}"`
  require(equalBytes(
    certificate.issuer,
    issuer.subject,
  ), 'certificate_invalid', `Issuer and subject names differ: ${who}.`)
  require(issuer.isCa &&
    issuer.keyCertSign, 'certificate_role', `"${issuer.commonName}" is not a certificate authority.`)
  require(await verifyP256(
    issuer.publicKey,
    certificate.signature,
    certificate.tbs,
  ), 'certificate_invalid', `Signature does not verify: ${who}.`)
}

/** Checks that `now` (unix seconds) lies inside a certificate's validity. Refuses otherwise. */
export function checkWindow(certificate: Certificate, now: number): void {
  require(now >= certificate.notBefore &&
    now <=
      certificate.notAfter, 'certificate_expired', `"${certificate.commonName}" is valid from ${certificate.notBefore} to ${certificate.notAfter}, now is ${now}.`)
}

/** Checks who issued a CRL: name and signature (RFC 5280 §6.3.3). Refuses otherwise. */
export async function checkCrlSignature(crl: Crl, issuer: Certificate): Promise<void> {
  const name = issuer.commonName
  require(equalBytes(crl.issuer, issuer.subject), 'crl_invalid', `CRL is not issued by "${name}".`)
  require(await verifyP256(
    issuer.publicKey,
    crl.signature,
    crl.tbs,
  ), 'crl_invalid', `CRL signature of "${name}" does not verify.`)
}

/** Checks a CRL's window and that none of the certificates is on it. Refuses otherwise. */
export function checkCrlStatus(crl: Crl, issuer: Certificate, certificates: readonly Certificate[], now: number): void {
  const name = issuer.commonName
  require(now >= crl.thisUpdate &&
    now <=
      crl.nextUpdate, 'crl_stale', `CRL of "${name}" covers ${crl.thisUpdate} to ${crl.nextUpdate}, now is ${now}.`)
  for (const certificate of certificates) {
    require(!crl.revoked.has(
      certificate.serial,
    ), 'certificate_revoked', `"${certificate.commonName}" (${certificate.serial}) is revoked.`)
  }
}
