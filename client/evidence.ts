import { EncodingError, fromBase64, fromHex, fromUtf8 } from '../protocol/bytes.ts'
import { type Collateral, collateralFromJson, type Evidence, evidenceFromJson } from '../protocol/evidence/index.ts'
import { parseStrictJson } from '../protocol/evidence/json.ts'

/** Holds what was read from the files of one piece of evidence; `now` (unix seconds) where the file says as of when it stands. */
export type EvidenceFiles = { evidence: Evidence; collateral: Collateral | null; now: number | null }

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
export function intelCollateral(json: Json): Collateral {
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

function collateralOf(json: unknown): Collateral {
  const record = (json ?? {}) as Json
  const inner = (record.collateral ?? record) as Json
  return 'tcb_info' in inner ? intelCollateral(inner) : collateralFromJson(inner)
}

function fromJson(json: Json): EvidenceFiles {
  const now = typeof json.now === 'number' ? json.now : null
  if (typeof json.quoteHex === 'string') {
    return { evidence: { format: 'tdx', quote: fromHex(json.quoteHex) }, collateral: collateralOf(json), now }
  }
  // dstack's guest agent answers GetQuote with the quote in hexadecimal beside its event log.
  if (typeof json.quote === 'string' && json.format === undefined) {
    return { evidence: { format: 'tdx', quote: fromHex(json.quote) }, collateral: null, now }
  }
  if (json.evidence !== undefined) {
    const collateral = json.collateral === undefined ? null : collateralOf(json)
    const at = typeof json.verifiedAt === 'number' ? json.verifiedAt : now
    return { evidence: evidenceFromJson(json.evidence), collateral, now: at }
  }
  return { evidence: evidenceFromJson(json), collateral: null, now }
}

function fromBytes(bytes: Uint8Array): Evidence {
  if (isTdx(bytes)) return { format: 'tdx', quote: bytes }
  throw new EncodingError('This is no evidence known here: a TDX quote, or a bundle of one, was expected.')
}

/** Reads evidence from a file in any form it is commonly kept in, with its collateral from the same file or another. Throws EncodingError saying what was expected. */
export function readEvidenceFiles(file: Uint8Array, collateralFiles: readonly Uint8Array[]): EvidenceFiles {
  const content = asText(file)
  const read = (): EvidenceFiles => {
    if (content?.trimStart().startsWith('{')) return fromJson(parseStrictJson(content) as Json)
    const decoded = content === null ? null : textBytes(content)
    return { evidence: fromBytes(decoded ?? file), collateral: null, now: null }
  }
  const found = read()
  if (collateralFiles.length === 0) return found
  if (collateralFiles.length > 1) throw new EncodingError('A TDX quote takes one file of collateral.')
  return { ...found, collateral: collateralOf(parseStrictJson(asText(collateralFiles[0]!) ?? '')) }
}
