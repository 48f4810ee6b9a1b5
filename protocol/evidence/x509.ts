import { EncodingError, equalBytes, fromBase64, type Hex, toBase64, toHex } from '../bytes.ts'
import {
  asn1,
  DerReader,
  type Element,
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
  p384: '1.3.132.0.34',
  rsaEncryption: '1.2.840.113549.1.1.1',
  ecdsaSha256: '1.2.840.10045.4.3.2',
  ecdsaSha384: '1.2.840.10045.4.3.3',
  rsaPss: '1.2.840.113549.1.1.10',
  mgf1: '1.2.840.113549.1.1.8',
  sha384: '2.16.840.1.101.3.4.2.2',
  commonName: '2.5.4.3',
  basicConstraints: '2.5.29.19',
  keyUsage: '2.5.29.15',
  crlNumber: '2.5.29.20',
  authorityKeyId: '2.5.29.35',
} as const

// RFC 5280 §4.2: an unknown critical extension refuses the certificate.
const knownCritical = new Set<string>([oids.basicConstraints, oids.keyUsage])

/** Names how a certificate or list is signed: ECDSA on the curve of its hash's width, or RSA-PSS with SHA-384 and a salt of 48 bytes. */
export type SignatureAlgorithm = 'ecdsa-sha256' | 'ecdsa-sha384' | 'rsa-pss-sha384'

/** Names the kind of key a certificate is for. */
export type KeyType = 'P-256' | 'P-384' | 'RSA'

/** Says which algorithms a vendor's chain may use; everything else is refused at parsing. */
export type Profile = {
  signatures: readonly SignatureAlgorithm[]
  keys: readonly KeyType[]
  /** Critical extensions that whoever parses looks at, beyond those every certificate has. */
  critical?: readonly string[]
}

/** Takes what Intel's chains use and nothing else: P-256 with SHA-256. */
export const p256Profile: Profile = { signatures: ['ecdsa-sha256'], keys: ['P-256'] }

/** Takes what Nitro's and NVIDIA's chains use and nothing else: P-384 with SHA-384. */
export const p384Profile: Profile = { signatures: ['ecdsa-sha384'], keys: ['P-384'] }

/** Takes what AMD's chains use and nothing else: RSA-PSS signatures over RSA authorities and P-384 chips. */
export const amdProfile: Profile = { signatures: ['rsa-pss-sha384'], keys: ['RSA', 'P-384'] }

/** Holds the fields of an X.509 certificate (RFC 5280 §4.1) that a vendor's chain needs; times in unix seconds. */
export type Certificate = {
  der: Uint8Array
  tbs: Uint8Array
  serial: Hex
  issuer: Uint8Array
  subject: Uint8Array
  commonName: string
  notBefore: number
  notAfter: number
  keyType: KeyType
  /** An uncompressed point, or for RSA the DER of SubjectPublicKeyInfo. */
  publicKey: Uint8Array<ArrayBuffer>
  isCa: boolean
  keyCertSign: boolean
  crlSign: boolean
  extensions: Map<string, Uint8Array>
  algorithm: SignatureAlgorithm
  /** r ‖ s, or the RSA signature. */
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
  algorithm: SignatureAlgorithm
  signature: Uint8Array<ArrayBuffer>
}

function expectSha384(element: Element): void {
  const hash = inside(element)
  if (readOid(hash.next(asn1.oid)) !== oids.sha384) throw new EncodingError('RSA-PSS with a hash other than SHA-384.')
  hash.optional(0x05)
  hash.end()
}

/** Reads RSASSA-PSS-params (RFC 4055 §3.1): SHA-384 for both hashes, 48 bytes of salt, the only trailer there is. */
function expectPssParameters(algorithm: DerReader): void {
  const parameters = inside(algorithm.next(asn1.sequence))
  expectSha384(inside(parameters.next(0xa0)).next(asn1.sequence))
  const mask = inside(inside(parameters.next(0xa1)).next(asn1.sequence))
  if (readOid(mask.next(asn1.oid)) !== oids.mgf1) throw new EncodingError('RSA-PSS with an unknown mask.')
  expectSha384(mask.next(asn1.sequence))
  mask.end()
  if (readSmall(inside(parameters.next(0xa2)).next(asn1.integer)) !== 48)
    throw new EncodingError('RSA-PSS with a salt that is not 48 bytes.')
  // AMD writes out the default trailer where DER leaves defaults out.
  const trailer = parameters.optional(0xa3)
  if (trailer && readSmall(inside(trailer).next(asn1.integer)) !== 1)
    throw new EncodingError('RSA-PSS with an unknown trailer.')
  parameters.end()
}

const algorithms: Record<string, SignatureAlgorithm> = {
  [oids.ecdsaSha256]: 'ecdsa-sha256',
  [oids.ecdsaSha384]: 'ecdsa-sha384',
  [oids.rsaPss]: 'rsa-pss-sha384',
}

function readAlgorithm(reader: DerReader, { signatures }: Profile): { whole: Uint8Array; name: SignatureAlgorithm } {
  const element = reader.next(asn1.sequence)
  const algorithm = inside(element)
  const id = readOid(algorithm.next(asn1.oid))
  const name = algorithms[id]
  if (!name || !signatures.includes(name))
    throw new EncodingError(`Signature algorithm ${id} is not one of ${signatures.join(', ')}.`)
  if (name === 'rsa-pss-sha384') expectPssParameters(algorithm)
  algorithm.end()
  return { whole: element.whole, name }
}

function readSignature(algorithm: SignatureAlgorithm, bits: Uint8Array): Uint8Array<ArrayBuffer> {
  if (algorithm === 'rsa-pss-sha384') return bits.slice()
  return readEcdsaSignature(bits, algorithm === 'ecdsa-sha256' ? 32 : 48)
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

const curves: Record<string, { type: KeyType; length: number }> = {
  [oids.p256]: { type: 'P-256', length: 65 },
  [oids.p384]: { type: 'P-384', length: 97 },
}

function readPublicKey(reader: DerReader, { keys }: Profile): Pick<Certificate, 'keyType' | 'publicKey'> {
  const element = reader.next(asn1.sequence)
  const info = inside(element)
  const algorithm = inside(info.next(asn1.sequence))
  const kind = readOid(algorithm.next(asn1.oid))
  const bits = readBits(info.next(asn1.bitString))
  info.end()
  if (kind === oids.rsaEncryption && keys.includes('RSA')) {
    return { keyType: 'RSA', publicKey: element.whole.slice() }
  }
  const curve = kind === oids.ecPublicKey ? curves[readOid(algorithm.next(asn1.oid))] : undefined
  if (!curve || !keys.includes(curve.type)) throw new EncodingError(`Certificate key is not one of ${keys.join(', ')}.`)
  algorithm.end()
  if (bits.length !== curve.length || bits[0] !== 4)
    throw new EncodingError('Certificate key is not an uncompressed point.')
  return { keyType: curve.type, publicKey: bits.slice() }
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

/** Reads a certificate from strict DER, of the algorithms a profile names; Intel's unless told. Throws EncodingError. */
export function parseCertificate(der: Uint8Array, profile: Profile = p256Profile): Certificate {
  const outer = new DerReader(der)
  const certificate = inside(outer.next(asn1.sequence))
  outer.end()
  const tbsElement = certificate.next(asn1.sequence)
  const algorithm = readAlgorithm(certificate, profile)
  const signature = readSignature(algorithm.name, readBits(certificate.next(asn1.bitString)))
  certificate.end()

  const tbs = inside(tbsElement)
  const version = new DerReader(tbs.next(0xa0).content)
  if (readSmall(version.next(asn1.integer)) !== 2) throw new EncodingError('Certificate is not version 3.')
  const serial = toHex(readUnsigned(tbs.next(asn1.integer)))
  if (!equalBytes(readAlgorithm(tbs, profile).whole, algorithm.whole))
    throw new EncodingError('Certificate names two signature algorithms.')
  const issuer = tbs.next(asn1.sequence).whole
  const validity = inside(tbs.next(asn1.sequence))
  const notBefore = readTime(validity.next())
  const notAfter = readTime(validity.next())
  validity.end()
  const subject = tbs.next(asn1.sequence).whole
  const key = readPublicKey(tbs, profile)
  const extensions = readExtensions(
    tbs.next(0xa3),
    profile.critical ? new Set([...knownCritical, ...profile.critical]) : knownCritical,
  )
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
    ...key,
    isCa: readBasicConstraints(extensions.get(oids.basicConstraints)),
    keyCertSign: (usageByte & 0x04) !== 0,
    crlSign: (usageByte & 0x02) !== 0,
    extensions,
    algorithm: algorithm.name,
    signature,
  }
}

/** Reads a CRL from strict DER. Throws EncodingError; a CRL without a number or an authority key id is refused, as Intel's verifier does. */
export function parseCrl(der: Uint8Array, profile: Profile = p256Profile): Crl {
  const outer = new DerReader(der)
  const crl = inside(outer.next(asn1.sequence))
  outer.end()
  const tbsElement = crl.next(asn1.sequence)
  const algorithm = readAlgorithm(crl, profile)
  const signature = readSignature(algorithm.name, readBits(crl.next(asn1.bitString)))
  crl.end()

  const tbs = inside(tbsElement)
  if (readSmall(tbs.next(asn1.integer)) !== 1) throw new EncodingError('CRL is not version 2.')
  if (!equalBytes(readAlgorithm(tbs, profile).whole, algorithm.whole))
    throw new EncodingError('CRL names two signature algorithms.')
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
  return {
    tbs: tbsElement.whole,
    issuer,
    thisUpdate,
    nextUpdate,
    revoked,
    number: BigInt(toHex(magnitude)),
    algorithm: algorithm.name,
    signature,
  }
}

/** Splits PEM text into the DER of its certificates (RFC 7468, lines of any length). Throws EncodingError on text between them or on base64 that is not the one way to write those bytes. */
export function parsePem(text: string): Uint8Array[] {
  const certificates: Uint8Array[] = []
  const rest = text.replace(
    /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\r\n]*?)-----END CERTIFICATE-----/g,
    (_, body: string) => {
      const base64 = body.replace(/[\r\n]/g, '')
      const der = fromBase64(base64)
      if (toBase64(der) !== base64) throw new EncodingError('PEM has base64 with bits left over.')
      certificates.push(der)
      return ''
    },
  )
  // Intel pads the chain inside a quote with a zero byte.
  if (rest.replace(/[\s\0]/g, '') !== '') throw new EncodingError('PEM has text between its certificates.')
  return certificates
}

const hashes = { 'P-256': 'SHA-256', 'P-384': 'SHA-384' } as const

/** Verifies an ECDSA signature (r ‖ s) on P-256 with SHA-256 or P-384 with SHA-384, for an uncompressed public key; false on a point off the curve. */
export async function verifyEcdsa(
  curve: 'P-256' | 'P-384',
  publicKey: Uint8Array,
  signature: Uint8Array,
  message: Uint8Array,
): Promise<boolean> {
  try {
    const algorithm = { name: 'ECDSA', namedCurve: curve }
    const key = await crypto.subtle.importKey('raw', publicKey as Uint8Array<ArrayBuffer>, algorithm, false, ['verify'])
    return await crypto.subtle.verify(
      { name: 'ECDSA', hash: hashes[curve] },
      key,
      signature as Uint8Array<ArrayBuffer>,
      message as Uint8Array<ArrayBuffer>,
    )
  } catch {
    return false
  }
}

/** Verifies an ECDSA P-256 signature (r ‖ s) over SHA-256 of a message with an uncompressed public key; false on a point off the curve. */
export const verifyP256 = (publicKey: Uint8Array, signature: Uint8Array, message: Uint8Array): Promise<boolean> =>
  verifyEcdsa('P-256', publicKey, signature, message)

async function verifyRsaPss(spki: Uint8Array, signature: Uint8Array, message: Uint8Array): Promise<boolean> {
  try {
    const algorithm = { name: 'RSA-PSS', hash: 'SHA-384' }
    const key = await crypto.subtle.importKey('spki', spki as Uint8Array<ArrayBuffer>, algorithm, false, ['verify'])
    return await crypto.subtle.verify(
      { name: 'RSA-PSS', saltLength: 48 },
      key,
      signature as Uint8Array<ArrayBuffer>,
      message as Uint8Array<ArrayBuffer>,
    )
  } catch {
    return false
  }
}

/** Verifies what an authority signed, by the algorithm the signed thing names. False where that is none of the authority's key. */
async function verifyIssued(
  issuer: Certificate,
  { algorithm, signature, tbs }: { algorithm: SignatureAlgorithm; signature: Uint8Array; tbs: Uint8Array },
): Promise<boolean> {
  if (algorithm === 'rsa-pss-sha384') return issuer.keyType === 'RSA' && verifyRsaPss(issuer.publicKey, signature, tbs)
  const curve = algorithm === 'ecdsa-sha256' ? 'P-256' : 'P-384'
  return issuer.keyType === curve && verifyEcdsa(curve, issuer.publicKey, signature, tbs)
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
  require(await verifyIssued(issuer, certificate), 'certificate_invalid', `Signature does not verify: ${who}.`)
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
  require(await verifyIssued(issuer, crl), 'crl_invalid', `CRL signature of "${name}" does not verify.`)
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
