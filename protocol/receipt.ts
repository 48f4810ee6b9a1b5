import { concat, EncodingError, fromHex, type Hex, Reader, setU64, setU128, setUint, toHex, utf8 } from './bytes.ts'
import { digestsApart, type HashRows, sha256 } from './hash.ts'

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

// Written over for every digest: nothing waits between writing and hashing.
const detailScratch = concat(detailTag, new Uint8Array(detailLength))
const detailView = new DataView(detailScratch.buffer)
const receiptScratch = concat(receiptTag, new Uint8Array(receiptLength))
const receiptView = new DataView(receiptScratch.buffer)

function setFixed(into: Uint8Array, offset: number, bytes: Uint8Array, size: number, field: string): void {
  if (bytes.length !== size) throw new EncodingError(`${field} takes ${size} bytes, got ${bytes.length}.`)
  into.set(bytes, offset)
}

/** Writes a detail in its fixed-width form. */
export function encodeDetail(detail: Detail): Uint8Array {
  const bytes = new Uint8Array(detailLength)
  setDetail(bytes, new DataView(bytes.buffer), 0, detail)
  return bytes
}

/** Writes a detail in its fixed-width form at an offset; `view` is of the same bytes. */
export function setDetail(bytes: Uint8Array, view: DataView, offset: number, detail: Detail): void {
  setFixed(bytes, offset, detail.input, 32, 'input')
  setFixed(bytes, offset + 32, detail.output, 32, 'output')
  setFixed(bytes, offset + 64, detail.execution, 32, 'execution')
  setU128(view, offset + 96, detail.price)
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
  setDetail(detailScratch, detailView, detailTag.length, detail)
  return sha256(detailScratch)
}

/** Computes the digests of details, as rows. */
export function detailDigests(details: readonly Detail[], hashRows: HashRows): Uint8Array[] {
  return digestsOf(details, detailTag, detailLength, setDetail, hashRows)
}

/** Writes a receipt in its fixed-width form. */
export function encodeReceipt(receipt: Receipt): Uint8Array {
  const bytes = new Uint8Array(receiptLength)
  setReceipt(bytes, new DataView(bytes.buffer), 0, receipt)
  return bytes
}

/** Writes a receipt in its fixed-width form at an offset; `view` is of the same bytes. */
export function setReceipt(bytes: Uint8Array, view: DataView, offset: number, receipt: Receipt): void {
  setFixed(bytes, offset, receipt.channel, 32, 'channel')
  setU64(view, offset + 32, receipt.job)
  setUint(bytes, offset + 40, receipt.status, 1)
  setU128(view, offset + 41, receipt.cumulative)
  setU64(view, offset + 57, receipt.finishedAt)
  setFixed(bytes, offset + 65, receipt.detail, 32, 'detail')
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
  setReceipt(receiptScratch, receiptView, receiptTag.length, receipt)
  return sha256(receiptScratch)
}

/** Computes the Merkle leaves of receipts, as rows. */
export function receiptLeaves(receipts: readonly Receipt[], hashRows: HashRows): Uint8Array[] {
  return digestsOf(receipts, receiptTag, receiptLength, setReceipt, hashRows)
}

function digestsOf<T>(
  values: readonly T[],
  tag: Uint8Array,
  length: number,
  write: (bytes: Uint8Array, view: DataView, offset: number, value: T) => void,
  hashRows: HashRows,
): Uint8Array[] {
  const rowLength = tag.length + length
  const rows = new Uint8Array(values.length * rowLength)
  const view = new DataView(rows.buffer)
  for (let row = 0; row < values.length; row++) {
    rows.set(tag, row * rowLength)
    write(rows, view, row * rowLength + tag.length, values[row]!)
  }
  return digestsApart(hashRows(rows, rowLength))
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
