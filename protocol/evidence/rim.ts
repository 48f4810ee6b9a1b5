import { EncodingError, fromHex, type Hex, toHex, utf8 } from '../bytes.ts'
import { canonicalJson } from '../canonicalJson.ts'
import { verifyP256 } from './x509.ts'

/** Holds NVIDIA's reference measurements of one driver or video BIOS: of each active index, the values it may have. Times in unix seconds. */
export type RimTable = {
  format: 'assay-rim-1'
  id: string
  kind: 'driver' | 'vbios'
  version: string
  /** The chip it is for, as certificates name it: GH100, GB100. */
  chip: string
  /** SHA-384 values as hexadecimal, by index from 0 to 63. */
  measurements: Readonly<Record<string, readonly Hex[]>>
  /** Earliest end of a certificate the reference stands on. */
  signerNotAfter: number
  /** When its signatures were verified. */
  verifiedAt: number
}

/** Holds a table with the signature of whoever verified NVIDIA's own over the XML it comes from: ECDSA P-256 (r ‖ s) over the canonical JSON, because WebCrypto verifies that everywhere. */
export type SignedRimTable = { table: RimTable; signer: Hex; signature: Hex }

/** Writes what the signature of a table covers: a tag and its canonical JSON (RFC 8785). */
export function rimTableBytes(table: RimTable): Uint8Array<ArrayBuffer> {
  return utf8(`ASY1rimt${canonicalJson(table)}`)
}

const hash = /^0x[0-9a-f]{96}$/

/** Reads a signed table from parsed JSON. Throws EncodingError naming what is wrong. */
export function rimTableFromJson(json: unknown): SignedRimTable {
  const fail = (what: string): never => {
    throw new EncodingError(`RIM table: ${what}.`)
  }
  const { table, signer, signature } = (json ?? {}) as Record<string, unknown>
  if (typeof signer !== 'string' || !/^0x04[0-9a-f]{128}$/.test(signer)) fail('signer is not an uncompressed P-256 key')
  if (typeof signature !== 'string' || !/^0x[0-9a-f]{128}$/.test(signature)) fail('signature is not 64 bytes')
  const { format, id, kind, version, chip, measurements, signerNotAfter, verifiedAt, ...rest } = (table ??
    {}) as Record<string, unknown>
  if (format !== 'assay-rim-1') fail('its format is not assay-rim-1')
  if (Object.keys(rest).length > 0) fail(`unknown field ${Object.keys(rest)[0]}`)
  if (typeof id !== 'string' || typeof version !== 'string' || typeof chip !== 'string')
    fail('id, version and chip are texts')
  if (kind !== 'driver' && kind !== 'vbios') fail('kind is driver or vbios')
  if (!Number.isSafeInteger(signerNotAfter) || !Number.isSafeInteger(verifiedAt)) fail('times are whole seconds')
  if (typeof measurements !== 'object' || measurements === null) fail('measurements are missing')
  for (const [index, values] of Object.entries(measurements as object)) {
    if (!/^([0-9]|[1-5][0-9]|6[0-3])$/.test(index)) fail(`index ${index} is not 0 to 63`)
    if (!Array.isArray(values) || values.length === 0 || !values.every((value) => hash.test(value)))
      fail(`index ${index} has no SHA-384 values`)
  }
  return json as SignedRimTable
}

/** Tells whether one of the trusted signers signed a table. */
export async function verifyRimTable(signed: SignedRimTable, signers: readonly Hex[]): Promise<boolean> {
  if (!signers.includes(signed.signer)) return false
  return verifyP256(fromHex(signed.signer, 65), fromHex(signed.signature, 64), rimTableBytes(signed.table))
}

/** Tells which values a measurement may have, where a table has it active. */
function allowedValues(table: RimTable, index: number): readonly Hex[] | undefined {
  return table.measurements[String(index)]
}

/** Compares measurements (by SPDM index, 1 to 64) with the tables of driver and video BIOS. Gives the indexes that differ, those that both tables claim, and how many were compared; an excused one may differ. */
export function compareWithRims(
  blocks: ReadonlyMap<number, Uint8Array>,
  tables: readonly RimTable[],
  excused: ReadonlySet<number>,
): { compared: number; differing: number[]; contested: number[] } {
  const differing: number[] = []
  const contested: number[] = []
  let compared = 0
  for (let index = 0; index < 64; index++) {
    const claims = tables.map((table) => allowedValues(table, index)).filter((values) => values !== undefined)
    if (claims.length === 0) continue
    if (claims.length > 1) contested.push(index)
    const value = blocks.get(index + 1)
    const equal = value !== undefined && claims[0]!.includes(toHex(value))
    if (!equal && excused.has(index)) continue
    compared++
    if (!equal) differing.push(index)
  }
  return { compared, differing, contested }
}
