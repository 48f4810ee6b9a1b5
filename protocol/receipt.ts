import { concat, EncodingError, fromHex, type Hex, Reader, toHex, uint, utf8 } from './bytes.ts'
import { sha256 } from './hash.ts'

/** Numbers how a job ended; everything but `ok` costs nothing. */
export const jobStatus = { ok: 0, badInput: 1, modelError: 2, deadline: 3 } as const

/** Commits to what a job was: input and output commitments, execution descriptor (32 bytes each), and price. */
export type Detail = { input: Uint8Array; output: Uint8Array; execution: Uint8Array; price: bigint }

/** Says what a runner did for a channel: `cumulative` is its running total, `finishedAt` unix seconds, `detail` the detail's digest. */
export type Receipt = {
  channel: Uint8Array
  job: bigint
  status: number
  cumulative: bigint
  finishedAt: bigint
  detail: Uint8Array
}

const detailTag = utf8('ASY1detl')
const receiptTag = concat(new Uint8Array([0x00]), utf8('ASY1rcpt'))

/** Length of an encoded detail, in bytes. */
export const detailLength = 112
/** Length of an encoded receipt, in bytes. */
export const receiptLength = 97

function fixed(bytes: Uint8Array, size: number, field: string): Uint8Array {
  if (bytes.length !== size) throw new EncodingError(`${field} takes ${size} bytes, got ${bytes.length}.`)
  return bytes
}

/** Writes a detail in its fixed-width form. */
export function encodeDetail(detail: Detail): Uint8Array {
  return concat(
    fixed(detail.input, 32, 'input'),
    fixed(detail.output, 32, 'output'),
    fixed(detail.execution, 32, 'execution'),
    uint(detail.price, 16),
  )
}

/** Reads a detail. Throws EncodingError unless it is exactly 112 bytes. */
export function decodeDetail(bytes: Uint8Array): Detail {
  const reader = new Reader(bytes)
  const detail = { input: reader.take(32), output: reader.take(32), execution: reader.take(32), price: reader.u128() }
  reader.end()
  return detail
}

/** Computes the digest of a detail. */
export function detailDigest(detail: Detail): Uint8Array {
  return sha256(concat(detailTag, encodeDetail(detail)))
}

/** Writes a receipt in its fixed-width form. */
export function encodeReceipt(receipt: Receipt): Uint8Array {
  return concat(
    fixed(receipt.channel, 32, 'channel'),
    uint(receipt.job, 8),
    uint(receipt.status, 1),
    uint(receipt.cumulative, 16),
    uint(receipt.finishedAt, 8),
    fixed(receipt.detail, 32, 'detail'),
  )
}

/** Reads a receipt. Throws EncodingError unless it is exactly 97 bytes. */
export function decodeReceipt(bytes: Uint8Array): Receipt {
  const reader = new Reader(bytes)
  const receipt = {
    channel: reader.take(32),
    job: reader.u64(),
    status: reader.u8(),
    cumulative: reader.u128(),
    finishedAt: reader.u64(),
    detail: reader.take(32),
  }
  reader.end()
  return receipt
}

/** Computes the Merkle leaf of a receipt (leaf domain 0x00, RFC 9162 §2.1.1). */
export function receiptLeaf(receipt: Receipt): Uint8Array {
  return sha256(concat(receiptTag, encodeReceipt(receipt)))
}

/** Shows a receipt as JSON: bytes as hexadecimal, amounts as decimal strings. */
export type ReceiptJson = {
  channel: Hex
  job: string
  status: number
  cumulative: string
  finishedAt: string
  detail: Hex
}

/** Shows a detail as JSON: bytes as hexadecimal, the price as a decimal string. */
export type DetailJson = { input: Hex; output: Hex; execution: Hex; price: string }

/** Turns a receipt into JSON. */
export function receiptToJson(receipt: Receipt): ReceiptJson {
  return {
    channel: toHex(receipt.channel),
    job: receipt.job.toString(),
    status: receipt.status,
    cumulative: receipt.cumulative.toString(),
    finishedAt: receipt.finishedAt.toString(),
    detail: toHex(receipt.detail),
  }
}

/** Reads a receipt from JSON. Throws EncodingError or SyntaxError on malformed fields. */
export function receiptFromJson(json: ReceiptJson): Receipt {
  return {
    channel: fromHex(json.channel, 32),
    job: BigInt(json.job),
    status: json.status,
    cumulative: BigInt(json.cumulative),
    finishedAt: BigInt(json.finishedAt),
    detail: fromHex(json.detail, 32),
  }
}

/** Turns a detail into JSON. */
export function detailToJson(detail: Detail): DetailJson {
  return {
    input: toHex(detail.input),
    output: toHex(detail.output),
    execution: toHex(detail.execution),
    price: detail.price.toString(),
  }
}

/** Reads a detail from JSON. Throws EncodingError or SyntaxError on malformed fields. */
export function detailFromJson(json: DetailJson): Detail {
  return {
    input: fromHex(json.input, 32),
    output: fromHex(json.output, 32),
    execution: fromHex(json.execution, 32),
    price: BigInt(json.price),
  }
}
