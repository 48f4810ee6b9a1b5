import { toHex } from '../bytes.ts'
import { asn1, DerReader, inside, readUnsigned } from './der.ts'
import { parseCrl } from './x509.ts'

/** Says where an entry of a revocation list begins, counted from the start of its signed part, and which serial number it revokes. */
export type CrlEntry = { offset: number; serial: bigint }

/** Finds the entries of a revocation list (RFC 5280 §5.1.2.6), in their order. Throws EncodingError on anything but a strict CRL. */
export function crlEntries(der: Uint8Array): CrlEntry[] {
  const { tbs } = parseCrl(der)
  const list = new DerReader(tbs).next(asn1.sequence)
  const fields = inside(list)
  // Version, algorithm, issuer, this update, next update.
  for (let i = 0; i < 5; i++) fields.next()
  const revoked = fields.optional(asn1.sequence)
  const entries: CrlEntry[] = []
  if (!revoked) return entries
  const reader = inside(revoked)
  while (!reader.done) {
    const entry = reader.next(asn1.sequence)
    const serial = BigInt(toHex(readUnsigned(inside(entry).next(asn1.integer))))
    entries.push({ offset: entry.whole.byteOffset - tbs.byteOffset, serial })
  }
  return entries
}
