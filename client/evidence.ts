import { EncodingError, fromBase64, fromHex, fromUtf8, type Hex, LittleReader } from '../protocol/bytes.ts'
import { type LoggedEvent, readCcel, readDstackLog } from '../protocol/evidence/eventLog.ts'
import {
  type Collateral,
  collateralFromJson,
  type Evidence,
  type EvidenceOf,
  evidenceFromJson,
} from '../protocol/evidence/index.ts'
import { parseStrictJson, parseStrictList } from '../protocol/evidence/json.ts'
import { unframeNitroDocument } from '../protocol/evidence/nitro.ts'
import { rimTableFromJson, type SignedRimTable } from '../protocol/evidence/rim.ts'
import { snpReportLength } from '../protocol/evidence/snpReport.ts'
import { amdProfile, parseCertificate, parsePem } from '../protocol/evidence/x509.ts'
import { createRimSigner, verifyRim } from './rim.ts'

/** Holds what was read from the files of one piece of evidence; `now` (unix seconds) where the file says as of when it stands. */
export type EvidenceFiles = {
  evidence: Evidence
  collateral: Collateral | null
  now: number | null
  /** The log that explains the registers, where the file has one. */
  eventLog?: LoggedEvent[]
  /** Whoever verified the GPU's reference measurements here and now. */
  rimSigner?: Hex
}

const isTdx = (bytes: Uint8Array) =>
  bytes.length > 632 && [3, 4, 5].includes(bytes[0]!) && bytes[1] === 0 && bytes[2]! < 4 && bytes[3] === 0

/** Reads the bytes a text stands for: hexadecimal or base64. Null where it is neither. */
function textBytes(text: string): Uint8Array | null {
  const bare = text.replace(/\s/g, '')
  if (/^(0x)?([0-9a-fA-F]{2})+$/.test(bare)) return fromHex(bare.startsWith('0x') ? bare : `0x${bare}`)
  if (/^[A-Za-z0-9+/]{64,}={0,2}$/.test(bare) && bare.length % 4 === 0) return fromBase64(bare)
  return null
}

function asText(bytes: Uint8Array): string | null {
  try {
    return fromUtf8(bytes)
  } catch {
    return null
  }
}

type Json = Record<string, unknown>
const text = (json: Json, field: string): string => {
  const value = json[field]
  if (typeof value !== 'string') throw new EncodingError(`The collateral lacks ${field}.`)
  return value
}

/** Reads collateral by the names of Intel's verifiers (`tcb_info`, `pck_crl`, ...; CRLs in hexadecimal). Throws EncodingError naming what is missing. */
function intelCollateral(json: Json): Collateral {
  return {
    format: 'tdx',
    tcbInfo: text(json, 'tcb_info'),
    tcbInfoSignature: text(json, 'tcb_info_signature'),
    tcbInfoChain: text(json, 'tcb_info_issuer_chain'),
    qeIdentity: text(json, 'qe_identity'),
    qeIdentitySignature: text(json, 'qe_identity_signature'),
    qeIdentityChain: text(json, 'qe_identity_issuer_chain'),
    pckCrl: fromHex(text(json, 'pck_crl')),
    // The quote brings the list's issuer, so collections often leave this one out.
    pckCrlChain: json.pck_crl_issuer_chain === undefined ? '' : text(json, 'pck_crl_issuer_chain'),
    rootCaCrl: fromHex(text(json, 'root_ca_crl')),
  }
}

function tdxCollateral(json: unknown): Collateral {
  const record = (json ?? {}) as Json
  const inner = (record.collateral ?? record) as Json
  return 'tcb_info' in inner ? intelCollateral(inner) : collateralFromJson(inner)
}

function gpuFromTool(list: unknown): Evidence {
  if (!Array.isArray(list) || list.length !== 1)
    throw new EncodingError(
      `The file holds evidence of ${Array.isArray(list) ? list.length : 0} GPUs: keep each in a file of its own.`,
    )
  const [{ arch, evidence, certificate }] = list as [Record<string, string>]
  return {
    format: 'gpu',
    arch: String(arch),
    evidence: fromBase64(String(evidence)),
    certificates: fromUtf8(fromBase64(String(certificate))),
  }
}

function fromJson(json: Json): EvidenceFiles {
  const now = typeof json.now === 'number' ? json.now : null
  if (typeof json.quoteHex === 'string') {
    return { evidence: { format: 'tdx', quote: fromHex(json.quoteHex) }, collateral: tdxCollateral(json), now }
  }
  // dstack's guest agent answers GetQuote with the quote in hexadecimal beside its event log.
  if (typeof json.quote === 'string' && json.format === undefined) {
    return { evidence: { format: 'tdx', quote: fromHex(json.quote) }, collateral: null, now }
  }
  if (json.evidences !== undefined) return { evidence: gpuFromTool(json.evidences), collateral: null, now }
  if (json.evidence !== undefined && json.format === undefined) {
    const { format } = (json.collateral ?? {}) as Json
    const collateral = format === undefined ? null : collateralFromJson(json.collateral)
    const at = typeof json.verifiedAt === 'number' ? json.verifiedAt : now
    return { evidence: evidenceFromJson(json.evidence), collateral, now: at }
  }
  return { evidence: evidenceFromJson(json), collateral: null, now }
}

/** Reads SCALE's compact integer, of up to four bytes: the two low bits tell the width. */
function compact(reader: LittleReader): number {
  const first = reader.number(1)
  const mode = first & 3
  if (mode === 3) throw new EncodingError('A length in the frame is larger than any evidence.')
  return (first + (mode === 0 ? 0 : reader.number(mode === 1 ? 1 : 3) * 256)) >>> 2
}

/** Cuts an SNP report out of the frame dstack keeps attestations in (SCALE: version 0, kind 3, the report, its certificates), with the certificates there are; null where there is no such frame. */
function unframeDstackSnp(bytes: Uint8Array): { report: Uint8Array; certificates: Uint8Array[] } | null {
  if (bytes[0] !== 0 || bytes[1] !== 3 || bytes[2] !== 0x81 || bytes[3] !== 0x12) return null
  const reader = new LittleReader(bytes.subarray(2), 'The frame')
  const report = reader.take(compact(reader))
  return { report, certificates: Array.from({ length: compact(reader) }, () => reader.take(compact(reader))) }
}

function fromBytes(bytes: Uint8Array): Evidence {
  // A report's version looks like a quote's, but no quote is this short.
  if (bytes.length === snpReportLength) return { format: 'snp', report: bytes }
  if (isTdx(bytes)) return { format: 'tdx', quote: bytes }
  if (bytes[0] === 0x11 && bytes[1] === 0xe0) return { format: 'gpu', arch: '', evidence: bytes, certificates: '' }
  const document = unframeNitroDocument(bytes)
  if (document !== bytes || (bytes[0] === 0xd2 && bytes[1] === 0x84) || (bytes[0] === 0x84 && bytes[1] === 0x44))
    return { format: 'nitro', document }
  throw new EncodingError(
    'This is no evidence known here: a TDX quote, an SNP report, a Nitro document or GPU measurements were expected.',
  )
}

/** Splits files of certificates, PEM or DER, one or several in each. */
function certificatesIn(file: Uint8Array): Uint8Array[] {
  const content = asText(file)
  return content?.includes('-----BEGIN CERTIFICATE-----') ? parsePem(content) : [file]
}

/** Sorts AMD's certificates by what they say they are; what is no certificate is taken for the revocation list. */
function snpCollateral(files: readonly Uint8Array[]): Collateral {
  const found: Partial<Record<'certificate' | 'authority' | 'root' | 'crl', Uint8Array>> = {}
  for (const der of files.flatMap(certificatesIn)) {
    let name = 'crl'
    try {
      name = parseCertificate(der, amdProfile).commonName
    } catch (error) {
      if (!(error instanceof EncodingError)) throw error
    }
    const part =
      name === 'crl' ? 'crl' : /^ARK-/.test(name) ? 'root' : /^SEV-V[CL]EK$/.test(name) ? 'certificate' : 'authority'
    if (found[part]) throw new EncodingError(`Two files of collateral are both the ${part}.`)
    found[part] = der
  }
  const { certificate, authority, root, crl = null } = found
  if (!certificate || !authority || !root)
    throw new EncodingError(
      'An SNP report takes the certificates of its chip (VCEK or VLEK), its authority (ASK or ASVK) and the root (ARK).',
    )
  return { format: 'snp', certificate, authority, root, crl }
}

/** Reads a GPU's certificates and reference measurements. A manifest in XML is verified here, and its table signed with a key that lives as long as this call: the same path a table takes that somebody else verified. */
async function gpuCollateral(
  evidence: EvidenceOf<'gpu'>,
  files: readonly Uint8Array[],
  now: number,
): Promise<{ evidence: EvidenceOf<'gpu'>; collateral: Collateral; rimSigner: Hex }> {
  const signer = await createRimSigner()
  const rims: SignedRimTable[] = []
  let { certificates } = evidence
  for (const file of files) {
    const content = asText(file) ?? ''
    if (content.includes('-----BEGIN CERTIFICATE-----')) certificates = content
    else if (content.trimStart().startsWith('<'))
      rims.push(await signer.sign((await verifyRim(content, { now })).table))
    else rims.push(rimTableFromJson(parseStrictJson(content)))
  }
  return {
    evidence: { ...evidence, certificates },
    collateral: { format: 'gpu', rims, ocsp: null },
    rimSigner: signer.key,
  }
}

/** Reads an event log: dstack's JSON, by itself or beside a quote, or the binary log firmware leaves. Throws EncodingError. */
export async function readEventLog(file: Uint8Array): Promise<LoggedEvent[]> {
  const content = asText(file)?.trimStart()
  if (!content?.startsWith('{') && !content?.startsWith('[')) return readCcel(file)
  if (content.startsWith('[')) return readDstackLog(content)
  const { event_log: log } = parseStrictJson(content) as Json
  if (typeof log !== 'string') throw new EncodingError('The file holds no event log.')
  return readDstackLog(log)
}

/** Reads evidence from a file in any form it is commonly kept in, with its collateral from the same file or others; `now` (unix seconds) stands where no file says as of when. Throws EncodingError saying what was expected, or Refused where a manifest does not verify. */
export async function readEvidenceFiles(
  file: Uint8Array,
  collateralFiles: readonly Uint8Array[],
  now: number | null,
): Promise<EvidenceFiles> {
  const content = asText(file)
  let files = collateralFiles
  const framed = (bytes: Uint8Array): EvidenceFiles => {
    const snp = unframeDstackSnp(bytes)
    if (!snp) return { evidence: fromBytes(bytes), collateral: null, now: null }
    files = [...snp.certificates, ...collateralFiles]
    return { evidence: { format: 'snp', report: snp.report }, collateral: null, now: null }
  }
  const read = (): EvidenceFiles => {
    const first = content?.trimStart()[0]
    if (first === '[') return { evidence: gpuFromTool(parseStrictList(content!)), collateral: null, now: null }
    if (first !== '{') return framed((content === null ? null : textBytes(content)) ?? file)
    const json = parseStrictJson(content!) as Json
    return typeof json.attestation === 'string' ? framed(fromHex(json.attestation)) : fromJson(json)
  }
  const found = read()
  const { evidence } = found
  if (evidence.format === 'tdx' && content?.includes('"event_log"')) found.eventLog = await readEventLog(file)
  if (evidence.format === 'gpu') {
    const at = now ?? found.now ?? Math.floor(Date.now() / 1000)
    return { ...found, ...(await gpuCollateral(evidence, files, at)) }
  }
  if (files.length === 0) return found
  if (evidence.format === 'nitro')
    throw new EncodingError('A Nitro document brings its own certificates and takes no collateral.')
  if (evidence.format === 'snp') return { ...found, collateral: snpCollateral(files) }
  if (files.length > 1) throw new EncodingError('A TDX quote takes one file of collateral.')
  return { ...found, collateral: tdxCollateral(parseStrictJson(asText(files[0]!) ?? '')) }
}
