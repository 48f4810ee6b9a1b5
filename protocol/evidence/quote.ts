import { concat, EncodingError, equalBytes, fromHex, fromUtf8, type Hex, LittleReader, toHex, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { parsePem } from './x509.ts'

const intelQeVendorId = fromHex('939a7233f79c4ca9940a0db3957f0607')

/** Holds a TDX quote cut into its parts (Intel TDX DCAP quote format, versions 4 and 5); views into the quote. */
export type TdxQuote = {
  version: 4 | 5
  /** Header, descriptor and body: what the attestation key signs. */
  signed: Uint8Array
  body: TdReport
  signature: Uint8Array
  attestationKey: Uint8Array
  qeReport: Uint8Array
  qeReportSignature: Uint8Array
  qeAuthData: Uint8Array
  /** PCK leaf, intermediate, root: DER. */
  chain: Uint8Array[]
}

/** Holds the fields of a TD report body that verification reads. */
export type TdReport = {
  teeTcbSvn: Uint8Array
  mrSeam: Uint8Array
  mrSignerSeam: Uint8Array
  seamAttributes: Uint8Array
  tdAttributes: Uint8Array
  xfam: Uint8Array
  mrTd: Uint8Array
  mrConfigId: Uint8Array
  rtmr: [Uint8Array, Uint8Array, Uint8Array, Uint8Array]
  reportData: Uint8Array
  /** Present in TDX 1.5 bodies. */
  teeTcbSvn2: Uint8Array | null
  mrServiceTd: Uint8Array | null
}

/** Explains why a quote of a known kind is not accepted. */
export class UnsupportedQuoteError extends Error {
  override name = 'UnsupportedQuoteError'
}

function readBody(bytes: Uint8Array): TdReport {
  const field = (offset: number, length: number) => bytes.subarray(offset, offset + length)
  const later = bytes.length > 584
  return {
    teeTcbSvn: field(0, 16),
    mrSeam: field(16, 48),
    mrSignerSeam: field(64, 48),
    seamAttributes: field(112, 8),
    tdAttributes: field(120, 8),
    xfam: field(128, 8),
    mrTd: field(136, 48),
    mrConfigId: field(184, 48),
    rtmr: [field(328, 48), field(376, 48), field(424, 48), field(472, 48)],
    reportData: field(520, 64),
    teeTcbSvn2: later ? field(584, 16) : null,
    mrServiceTd: later ? field(600, 48) : null,
  }
}

/** Cuts a TDX quote into its parts. Bytes after the signature data are real and unsigned, so they are ignored and never hashed. Throws EncodingError on a malformed quote, UnsupportedQuoteError on one this verifier does not take. */
export function parseTdxQuote(quote: Uint8Array): TdxQuote {
  const reader = new LittleReader(quote, 'Quote')
  const version = reader.number(2)
  const keyType = reader.number(2)
  const teeType = reader.number(4)
  if (version === 3 || teeType === 0) throw new UnsupportedQuoteError('An SGX quote: this marketplace takes TDX.')
  if (version !== 4 && version !== 5)
    throw new UnsupportedQuoteError(`Quote version ${version}: versions 4 and 5 are taken.`)
  if (teeType !== 0x81) throw new UnsupportedQuoteError(`TEE type 0x${teeType.toString(16)}: TDX is 0x81.`)
  if (keyType !== 2) throw new UnsupportedQuoteError(`Attestation key type ${keyType}: ECDSA P-256 is 2.`)
  reader.take(4)
  if (!equalBytes(reader.take(16), intelQeVendorId))
    throw new UnsupportedQuoteError("The quoting enclave is not Intel's.")
  reader.take(20)

  let bodyLength = 584
  if (version === 5) {
    const type = reader.number(2)
    const size = reader.number(4)
    if (type === 4)
      throw new UnsupportedQuoteError('A TDX 1.5-Ex body (885 bytes): its extra fields have no policy yet.')
    if (type !== 2 && type !== 3) throw new UnsupportedQuoteError(`Body type ${type}: TDX 1.0 is 2 and TDX 1.5 is 3.`)
    bodyLength = type === 2 ? 584 : 648
    if (size !== bodyLength)
      throw new EncodingError(`Body type ${type} takes ${bodyLength} bytes, the quote says ${size}.`)
  }
  const body = readBody(reader.take(bodyLength))
  const signed = quote.subarray(0, reader.offset)

  const auth = new LittleReader(reader.take(reader.number(4)), 'Signature data')
  const signature = auth.take(64)
  const attestationKey = auth.take(64)
  if (auth.number(2) !== 6)
    throw new UnsupportedQuoteError('The outer certification data is not a quoting enclave report (type 6).')
  const certification = new LittleReader(auth.take(auth.number(4)), 'Certification data')
  if (!auth.done) throw new EncodingError('Signature data is longer than its parts.')
  const qeReport = certification.take(384)
  const qeReportSignature = certification.take(64)
  const qeAuthData = certification.take(certification.number(2))
  if (certification.number(2) !== 5)
    throw new UnsupportedQuoteError('The quote carries no PCK certificate chain (type 5).')
  const pem = certification.take(certification.number(4))
  if (certification.offset !== certification.bytes.length)
    throw new EncodingError('Certification data is longer than its parts.')
  const chain = parsePem(fromUtf8(pem))
  if (chain.length !== 3)
    throw new EncodingError(`The PCK chain has ${chain.length} certificates; leaf, intermediate and root make 3.`)
  return { version, signed, body, signature, attestationKey, qeReport, qeReportSignature, qeAuthData, chain }
}

/** Computes the digest that names a TDX workload: everything measured that an operator could vary. */
export function tdxWorkload(body: TdReport): Hex {
  return toHex(sha256(concat(utf8('ASY1wrkl'), body.mrTd, ...body.rtmr, body.mrConfigId, body.xfam, body.tdAttributes)))
}
