import { EncodingError, equalBytes, type Hex, toHex } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { type EvidenceCache, noCache } from './cache.ts'
import {
  asn1,
  DerReader,
  type Element,
  inside,
  readBits,
  readEcdsaSignature,
  readOid,
  readTime,
  readUnsigned,
} from './der.ts'
import { element, integer, octets, oid, sequence, yes } from './derWriter.ts'
import type { OcspStatus } from './gpu.ts'
import { Refused, require } from './verdict.ts'
import {
  type Certificate,
  checkIssued,
  checkWindow,
  p384Profile,
  parseCertificate,
  parsePem,
  verifyEcdsa,
} from './x509.ts'

const oids = {
  sha384: '2.16.840.1.101.3.4.2.2',
  ecdsaSha384: '1.2.840.10045.4.3.3',
  basic: '1.3.6.1.5.5.7.48.1.1',
  nonce: '1.3.6.1.5.5.7.48.1.2',
  extendedKeyUsage: '2.5.29.37',
  ocspSigning: '1.3.6.1.5.5.7.3.9',
} as const

/** What a responder's certificate may be marked critical with, beyond the usual: that it is for signing answers. */
const responderProfile = { ...p384Profile, critical: [oids.extendedKeyUsage] }

const certificateHold = 6

/** Tolerates this much difference between the responder's clock and ours, in seconds. */
const clockSkew = 300

/** Reports that a responder did not answer, or not with what can be believed; nothing is known of the certificate then. */
export class OcspUnavailableError extends Error {
  override name = 'OcspUnavailableError'
}

/** Names the certificate that is asked about and its issuer, and the nonce of the question (RFC 9654: 32 bytes). */
export type OcspQuestion = { certificate: Certificate; issuer: Certificate; nonce: Uint8Array }

const sha384 = async (bytes: Uint8Array) =>
  new Uint8Array(await crypto.subtle.digest('SHA-384', bytes as Uint8Array<ArrayBuffer>))

/** Writes an OCSP request about one certificate (RFC 6960 §4.1.1), its issuer named by SHA-384. */
export async function ocspRequest({ certificate, issuer, nonce }: OcspQuestion): Promise<Uint8Array<ArrayBuffer>> {
  const id = sequence(
    sequence(oid(oids.sha384), element(0x05)),
    octets(await sha384(issuer.subject)),
    octets(await sha384(issuer.publicKey)),
    integer(Uint8Array.from(bytesOf(certificate.serial))),
  )
  const extensions = sequence(sequence(oid(oids.nonce), yes(), octets(octets(nonce))))
  return sequence(sequence(sequence(sequence(id)), element(0xa2, extensions)))
}

const bytesOf = (hex: Hex) => (hex.slice(2).match(/../g) ?? []).map((pair) => Number.parseInt(pair, 16))

type Single = { names: boolean; status: OcspStatus; thisUpdate: number; nextUpdate: number }

/** Reads a response about one certificate (RFC 6960 §4.2.1, SingleResponse), and whether it is about this one. */
async function readSingle(entry: Element, { certificate, issuer }: OcspQuestion): Promise<Single> {
  const single = inside(entry)
  const id = inside(single.next(asn1.sequence))
  const algorithm = inside(id.next(asn1.sequence))
  const hash = readOid(algorithm.next(asn1.oid))
  const [name, key] = [id.next(asn1.octetString).content, id.next(asn1.octetString).content]
  const serial = toHex(readUnsigned(id.next(asn1.integer)))
  id.end()
  const names =
    hash === oids.sha384 &&
    serial === certificate.serial &&
    equalBytes(name, await sha384(issuer.subject)) &&
    equalBytes(key, await sha384(issuer.publicKey))
  const status = readStatus(single.next())
  const thisUpdate = readTime(single.next())
  const next = single.optional(0xa0)
  if (!next) throw new EncodingError('OCSP: the answer does not say until when it holds.')
  const nextUpdate = readTime(inside(next).next())
  single.optional(0xa1)
  single.end()
  return { names, status, thisUpdate, nextUpdate }
}

function readStatus({ tag, content }: Element): OcspStatus {
  if (tag === 0x80 && content.length === 0) return 'good'
  if (tag === 0x82 && content.length === 0) return 'unknown'
  if (tag !== 0xa1) throw new EncodingError('OCSP: a status that is none of good, revoked and unknown.')
  const info = new DerReader(content)
  readTime(info.next())
  const reason = info.optional(0xa0)
  info.end()
  const [code] = reason ? inside(reason).next(0x0a).content : []
  return code === certificateHold ? 'hold' : 'revoked'
}

function nonceOf(extensions: Element | null): Uint8Array | null {
  if (!extensions) return null
  const list = inside(inside(extensions).next(asn1.sequence))
  let nonce: Uint8Array | null = null
  while (!list.done) {
    const entry = inside(list.next(asn1.sequence))
    const id = readOid(entry.next(asn1.oid))
    entry.optional(asn1.boolean)
    const value = entry.next(asn1.octetString).content
    entry.end()
    if (id === oids.nonce) nonce = new DerReader(value).next(asn1.octetString).content
  }
  return nonce
}

/** Finds who signed: the issuer itself, or one whom the issuer has certified for signing answers (RFC 6960 §4.2.2.2). */
async function responderOf(certificates: Element | null, issuer: Certificate, now: number): Promise<Certificate> {
  if (!certificates) return issuer
  const list = inside(inside(certificates).next(asn1.sequence))
  const responder = parseCertificate(list.next(asn1.sequence).whole, responderProfile)
  if (equalBytes(responder.der, issuer.der)) return issuer
  await checkIssued(responder, issuer)
  checkWindow(responder, now)
  const usage = responder.extensions.get(oids.extendedKeyUsage)
  const purposes = usage ? inside(new DerReader(usage).next(asn1.sequence)) : null
  let signs = false
  while (purposes && !purposes.done) signs = readOid(purposes.next(asn1.oid)) === oids.ocspSigning || signs
  require(signs && !responder.isCa, 'certificate_role', `"${responder.commonName}" is not certified to answer.`)
  return responder
}

async function readAnswer(der: Uint8Array, question: OcspQuestion, now: number): Promise<OcspStatus> {
  const outer = new DerReader(der)
  const response = inside(outer.next(asn1.sequence))
  outer.end()
  const [status] = response.next(0x0a).content
  if (status !== 0) throw new EncodingError(`OCSP: the responder refuses with status ${status}.`)
  const bytes = inside(inside(response.next(0xa0)).next(asn1.sequence))
  if (readOid(bytes.next(asn1.oid)) !== oids.basic) throw new EncodingError('OCSP: not a basic response.')
  const basic = inside(new DerReader(bytes.next(asn1.octetString).content).next(asn1.sequence))
  const data = basic.next(asn1.sequence)
  const algorithm = readOid(inside(basic.next(asn1.sequence)).next(asn1.oid))
  if (algorithm !== oids.ecdsaSha384) throw new EncodingError(`OCSP: signed with ${algorithm}, not ECDSA and SHA-384.`)
  const signature = readEcdsaSignature(readBits(basic.next(asn1.bitString)), 48)
  const responder = await responderOf(basic.optional(0xa0), question.issuer, now)
  basic.end()
  require(await verifyEcdsa(
    'P-384',
    responder.publicKey,
    signature,
    data.whole,
  ), 'collateral_signature', `"${responder.commonName}" did not sign this answer.`)

  const fields = inside(data)
  fields.optional(0xa0)
  fields.next() // who answers: the signature tells better
  readTime(fields.next())
  const list = inside(fields.next(asn1.sequence))
  const nonce = nonceOf(fields.optional(0xa1))
  fields.end()
  require(nonce !== null &&
    equalBytes(nonce, question.nonce), 'nonce_mismatch', 'The answer is to another question than ours.')
  while (!list.done) {
    const single = await readSingle(list.next(asn1.sequence), question)
    if (!single.names) continue
    require(single.thisUpdate - clockSkew <= now &&
      now <=
        single.nextUpdate, 'collateral_stale', `The answer holds from ${single.thisUpdate} to ${single.nextUpdate}.`)
    return single.status
  }
  throw new EncodingError('OCSP: the answer is about another certificate.')
}

/** Reads what a responder answered about a certificate, believing nothing that the issuer or its delegate has not signed for this question and this time (RFC 6960 §3.2). `now` in unix seconds. Throws OcspUnavailableError. */
export async function readOcspAnswer(der: Uint8Array, question: OcspQuestion, now: number): Promise<OcspStatus> {
  try {
    return await readAnswer(der, question, now)
  } catch (error) {
    if (error instanceof EncodingError || error instanceof Refused)
      throw new OcspUnavailableError(error.message, { cause: error })
    throw error
  }
}

/** Holds what asking needs: where the responder is, and a way to draw 32 bytes for a nonce. */
export type OcspSource = {
  fetch: (url: string, init: RequestInit) => Promise<Response>
  url: string
  nonce: () => Uint8Array
}

/** Asks about one certificate. Throws OcspUnavailableError. */
async function askOcsp(
  { certificate, issuer }: Pick<OcspQuestion, 'certificate' | 'issuer'>,
  { fetch, url, nonce }: OcspSource,
  now: number,
): Promise<OcspStatus> {
  const question = { certificate, issuer, nonce: nonce() }
  let answer: Uint8Array
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/ocsp-request', accept: 'application/ocsp-response' },
      body: await ocspRequest(question),
    })
    if (!response.ok) throw new OcspUnavailableError(`The OCSP responder answered ${response.status}.`)
    answer = new Uint8Array(await response.arrayBuffer())
  } catch (cause) {
    if (cause instanceof OcspUnavailableError) throw cause
    throw new OcspUnavailableError('The OCSP responder cannot be reached.', { cause })
  }
  return readOcspAnswer(answer, question, now)
}

/** Asks about the certificates of a machine's GPUs, as `askAboutGpu` does. */
export async function askAboutGpus(
  gpus: readonly { certificates: string }[],
  source: OcspSource,
  now: number,
  cache: EvidenceCache,
): Promise<Record<string, OcspStatus>> {
  const answers = await Promise.all(gpus.map(({ certificates }) => askAboutGpu(certificates, source, now, cache)))
  return Object.assign({}, ...answers)
}

/** Lists the GPUs' certificates that NVIDIA can revoke and that nobody answered for. Throws EncodingError on a malformed chain. */
export function unanswered(
  gpus: readonly { certificates: string }[],
  answers: Readonly<Record<string, OcspStatus>>,
): string[] {
  return gpus.flatMap(({ certificates }) =>
    parsePem(certificates)
      .map((der) => parseCertificate(der, p384Profile))
      .slice(1, -1)
      .filter(({ serial }) => !Object.hasOwn(answers, serial))
      .map(({ commonName }) => commonName),
  )
}

/** Asks about every certificate of a GPU's chain that NVIDIA issued: neither the leaf, which the device made, nor the root. What nobody answers for is left out. An answer is kept for an hour in `cache`. Throws EncodingError on a malformed chain. */
export async function askAboutGpu(
  certificates: string,
  source: OcspSource,
  now: number,
  cache: EvidenceCache = noCache,
): Promise<Record<string, OcspStatus>> {
  const chain = parsePem(certificates).map((der) => parseCertificate(der, p384Profile))
  const hour = Math.floor(now / 3_600)
  const answers = await Promise.all(
    chain.slice(1, -1).map(async (certificate, index) => {
      const issuer = chain[index + 2]!
      const key = `ocsp ${hour} ${toHex(sha256(certificate.der))} ${toHex(sha256(issuer.der))}`
      try {
        return [[certificate.serial, await cache.remember(key, () => askOcsp({ certificate, issuer }, source, now))]]
      } catch (error) {
        if (error instanceof OcspUnavailableError) return []
        throw error
      }
    }),
  )
  return Object.fromEntries(answers.flat())
}
