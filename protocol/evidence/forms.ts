import { EncodingError, fromBase64, toBase64 } from '../bytes.ts'
import type { OcspStatus } from './gpu.ts'
import type { Collateral, Evidence } from './index.ts'
import { rimTableFromJson } from './rim.ts'

/** Names the members that are bytes, texts and optional bytes in each form; bytes travel in base64. */
const evidenceForms = {
  tdx: { bytes: ['quote'], texts: [], optional: [] },
  snp: { bytes: ['report'], texts: [], optional: ['vlek'] },
  nitro: { bytes: ['document'], texts: [], optional: [] },
  gpu: { bytes: ['evidence'], texts: ['arch', 'certificates'], optional: [] },
} as const

const tdxTexts = [
  'tcbInfo',
  'tcbInfoSignature',
  'tcbInfoChain',
  'qeIdentity',
  'qeIdentitySignature',
  'qeIdentityChain',
  'pckCrlChain',
] as const

const collateralForms = {
  tdx: { bytes: ['pckCrl', 'rootCaCrl'], texts: tdxTexts, optional: [] },
  snp: { bytes: ['certificate', 'authority', 'root'], texts: [], optional: ['crl'] },
  gpu: { bytes: [], texts: [], optional: [] },
} as const

type Form = { bytes: readonly string[]; texts: readonly string[]; optional: readonly string[] }
type Json = Record<string, unknown>

/** Shows evidence as JSON: its format, and its members by name, bytes in base64. */
export type EvidenceJson = Json

/** Shows collateral as JSON: its format, and its members by name, bytes in base64. */
export type CollateralJson = Json

function read(json: Json, what: string, { bytes, texts, optional }: Form): Json {
  const text = (field: string): string => {
    const value = json[field]
    if (typeof value !== 'string') throw new EncodingError(`${what}: ${field} must be text.`)
    return value
  }
  const given = optional.filter((field) => json[field] !== undefined && json[field] !== null)
  return Object.fromEntries([
    ...texts.map((field) => [field, text(field)]),
    ...[...bytes, ...given].map((field) => [field, fromBase64(text(field))]),
  ])
}

function formOf<F extends Record<string, Form>>(json: unknown, what: string, forms: F): [keyof F & string, Json] {
  const record = (json ?? {}) as Json
  const { format } = record
  if (typeof format !== 'string' || !Object.hasOwn(forms, format))
    throw new EncodingError(`${what}: the format must be one of ${Object.keys(forms).join(', ')}.`)
  return [format, record]
}

const write = (value: object): Json =>
  Object.fromEntries(
    Object.entries(value).map(([field, member]) => [field, member instanceof Uint8Array ? toBase64(member) : member]),
  )

/** Turns evidence into JSON, bytes in base64. */
export function evidenceToJson(evidence: Evidence): EvidenceJson {
  return write(evidence)
}

/** Reads evidence from parsed JSON. Throws EncodingError naming what is wrong. */
export function evidenceFromJson(json: unknown): Evidence {
  const [format, record] = formOf(json, 'Evidence', evidenceForms)
  return { format, ...read(record, 'Evidence', evidenceForms[format]) } as Evidence
}

/** Turns collateral into JSON, bytes in base64. */
export function collateralToJson(collateral: Collateral): CollateralJson {
  return write(collateral)
}

const ocspStatuses: readonly unknown[] = ['good', 'revoked', 'hold', 'unknown'] satisfies OcspStatus[]

function readGpuCollateral({ rims, ocsp }: Json): Json {
  if (!Array.isArray(rims)) throw new EncodingError('Collateral: rims must be a list of signed tables.')
  const answers = ocsp ?? null
  if (
    answers !== null &&
    (typeof answers !== 'object' || !Object.values(answers).every((each) => ocspStatuses.includes(each)))
  )
    throw new EncodingError('Collateral: ocsp must give good, revoked, hold or unknown by serial number.')
  return { rims: rims.map(rimTableFromJson), ocsp: answers }
}

/** Reads collateral from parsed JSON. Throws EncodingError naming what is wrong. */
export function collateralFromJson(json: unknown): Collateral {
  const [format, record] = formOf(json, 'Collateral', collateralForms)
  if (format === 'gpu') return { format, ...readGpuCollateral(record) } as Collateral
  const members = read(record, 'Collateral', collateralForms[format])
  return { format, ...(format === 'snp' ? { crl: null } : {}), ...members } as Collateral
}
