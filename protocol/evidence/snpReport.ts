import { concat, EncodingError, type Hex, toHex, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import type { AmdProduct } from './roots.ts'

/** Length of an SNP attestation report, in bytes (AMD SEV-SNP ABI, table 23). */
export const snpReportLength = 1_184
const signedLength = 0x2a0

/** Holds the security versions of an AMD platform. FMC is Turin's; elsewhere it is 0. */
export type SnpTcb = { fmc: number; bootloader: number; tee: number; snp: number; microcode: number }

/** Holds the fields of an SNP report that verification reads; views into the report. */
export type SnpReport = {
  version: number
  policy: bigint
  vmpl: number
  platformInfo: bigint
  flags: number
  reportData: Uint8Array
  measurement: Uint8Array
  hostData: Uint8Array
  idKeyDigest: Uint8Array
  authorKeyDigest: Uint8Array
  /** From the report itself, where it names its processor (version 3 on). */
  product: AmdProduct | null
  chipId: Uint8Array
  tcb: Record<'current' | 'reported' | 'committed' | 'launch', Uint8Array>
  signed: Uint8Array
  /** r ‖ s, big-endian, 96 bytes. */
  signature: Uint8Array<ArrayBuffer>
}

function productOf(family: number, model: number): AmdProduct {
  if (family === 0x19 && model <= 0x0f) return 'Milan'
  if (family === 0x19 && ((model >= 0x10 && model <= 0x1f) || (model >= 0xa0 && model <= 0xaf))) return 'Genoa'
  if (family === 0x1a && model <= 0x1f) return 'Turin'
  throw new EncodingError(`Processor family 0x${family.toString(16)} model 0x${model.toString(16)} is not known.`)
}

/** Reads one signature value: little-endian, 48 bytes and 24 zeros, turned round. */
function readHalf(field: Uint8Array): Uint8Array {
  if (field.subarray(48).some((byte) => byte !== 0))
    throw new EncodingError('A signature value has more than 48 bytes.')
  return field.slice(0, 48).reverse()
}

const zero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0)

/** Reads an SNP report of version 2 to 5 strictly: exact length, reserved bytes zero, one signature algorithm. Throws EncodingError. */
export function parseSnpReport(bytes: Uint8Array): SnpReport {
  if (bytes.length !== snpReportLength)
    throw new EncodingError(`An SNP report has ${snpReportLength} bytes, got ${bytes.length}.`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const field = (offset: number, length: number) => bytes.subarray(offset, offset + length)
  const version = view.getUint32(0, true)
  if (version < 2 || version > 5) throw new EncodingError(`SNP report version ${version}: 2 to 5 are taken.`)
  if (view.getUint32(0x34, true) !== 1)
    throw new EncodingError('The signature algorithm is not ECDSA P-384 with SHA-384.')
  const reserved = [
    field(0x4c, 4),
    field(version < 3 ? 0x188 : 0x18b, version < 3 ? 24 : 21),
    field(0x1eb, 1),
    field(0x1ef, 1),
  ]
  reserved.push(version < 5 ? field(0x1f8, 0xa8) : field(0x208, 0x98), field(signedLength + 144, 368))
  if (!reserved.every(zero)) throw new EncodingError('Reserved bytes of the report are not zero.')
  return {
    version,
    policy: view.getBigUint64(8, true),
    vmpl: view.getUint32(0x30, true),
    platformInfo: view.getBigUint64(0x40, true),
    flags: view.getUint32(0x48, true),
    reportData: field(0x50, 64),
    measurement: field(0x90, 48),
    hostData: field(0xc0, 32),
    idKeyDigest: field(0xe0, 48),
    authorKeyDigest: field(0x110, 48),
    product: version < 3 ? null : productOf(bytes[0x188]!, bytes[0x189]!),
    chipId: field(0x1a0, 64),
    tcb: {
      current: field(0x38, 8),
      reported: field(0x180, 8),
      committed: field(0x1e0, 8),
      launch: field(0x1f0, 8),
    },
    signed: field(0, signedLength),
    signature: concat(readHalf(field(signedLength, 72)), readHalf(field(signedLength + 72, 72))),
  }
}

/** Reads the security versions out of eight bytes, whose order Turin changed. */
export function readSnpTcb(product: AmdProduct, bytes: Uint8Array): SnpTcb {
  const at = (index: number) => bytes[index]!
  return product === 'Turin'
    ? { fmc: at(0), bootloader: at(1), tee: at(2), snp: at(3), microcode: at(7) }
    : { fmc: 0, bootloader: at(0), tee: at(1), snp: at(6), microcode: at(7) }
}

/** Computes the digest that names an SNP workload, everything measured or set at launch that an operator could vary: SHA-256 of `ASY1wsnp` ‖ MEASUREMENT (48) ‖ HOST_DATA (32) ‖ POLICY (8, as in the report) ‖ ID_KEY_DIGEST (48) ‖ AUTHOR_KEY_DIGEST (48). */
export function snpWorkload(report: SnpReport): Hex {
  const policy = report.signed.subarray(8, 16)
  const { measurement, hostData, idKeyDigest, authorKeyDigest } = report
  return toHex(sha256(concat(utf8('ASY1wsnp'), measurement, hostData, policy, idKeyDigest, authorKeyDigest)))
}
