import { EncodingError, fromUtf8, Reader, utf8 } from './bytes.ts'
import type { MerkleProof } from './merkle.ts'
import {
  type Detail,
  decodeDetail,
  decodeReceipt,
  detailLength,
  type Receipt,
  receiptLength,
  setDetail,
  setReceipt,
} from './receipt.ts'
import { decodeTerms, encodeTerms, type Terms, termsLength } from './terms.ts'

/** Numbers the kinds of frame. */
export const frameType = {
  jobRequest: 1,
  jobAnswer: 2,
  jobRefusal: 3,
  load: 4,
  hello: 5,
  cancel: 6,
  problem: 7,
} as const

/** Names the content of a request that posts several jobs to an edge, and of its answer: joined frames. */
export const jobsType = 'application/vnd.assay.jobs'

/** Lists why a job is refused before it runs; the position plus one is the code on the wire. */
export const refusalReasons = [
  'bad_terms',
  'wrong_price',
  'expired_terms',
  'bad_voucher',
  'insufficient_cover',
  'unknown_context',
  'job_conflict',
  'job_too_old',
  'at_capacity',
  'unknown_model',
  'bad_seal',
  'job_lost',
  'draining',
  'bad_frame',
  'deadline',
  'unfunded',
  'cancelled',
] as const

/** Names why a job was refused before it ran. */
export type RefusalReason = (typeof refusalReasons)[number]

/** Asks for one inference: channel and job, how long the buyer waits, what opens the channel, what covers the price, and the sealed tensors. */
export type JobRequest = {
  ticket: number
  channel: Uint8Array
  job: bigint
  context: Uint8Array
  deadlineMs: number
  opening?: { terms: Terms; enc: Uint8Array }
  voucher?: { cumulative: bigint; signature: Uint8Array }
  body: Uint8Array
}

/** Carries a receipt, its place in a signed batch, and the sealed output. */
export type JobAnswer = {
  ticket: number
  receipt: Receipt
  detail: Detail
  signature: Uint8Array
  proof: MerkleProof
  body: Uint8Array
}

/** Says that a job did not run and why. */
export type JobRefusal = { ticket: number; reason: RefusalReason; detail: string }

/** Reports how many jobs wait at a runner and how many it takes at once. */
export type Load = { queued: number; capacity: number }

/** Asks a runner to let go of a job: nobody waits for it any more. One with a receipt is not touched by it. */
export type Cancel = { channel: Uint8Array; job: bigint }

/** Tells a buyer who posted several jobs at once what one of them met: the members of a problem+json (RFC 9457). */
export type JobProblem = { ticket: number; problem: Record<string, unknown> }

/** Introduces a runner to its mailbox: the models it serves (digests) and how many jobs it takes at once. */
export type Hello = {
  models: string[]
  capacity: number
  /** Models held in memory and not only on disk; all of them unless told. */
  warm?: string[]
  /** Jobs it lets the mailbox have unanswered on the socket; its capacity unless told. */
  credit?: number
  /** Where the provider says the machine stands, in lower-case letters, digits and dashes; nothing proves it. */
  region?: string
}

/** Holds any frame with its kind. */
export type Frame =
  | ({ type: 'jobRequest' } & JobRequest)
  | ({ type: 'jobAnswer' } & JobAnswer)
  | ({ type: 'jobRefusal' } & JobRefusal)
  | ({ type: 'load' } & Load)
  | ({ type: 'hello' } & Hello)
  | ({ type: 'cancel' } & Cancel)
  | ({ type: 'problem' } & JobProblem)

const openingFlag = 1
const voucherFlag = 2
const requestHeaderLength = 1 + 4 + 1 + 32 + 8 + 8 + 4
const answerHeaderLength = 5 + receiptLength + detailLength + 65 + 4 + 4 + 1

function expectLength(bytes: Uint8Array, size: number, what: string): void {
  if (bytes.length !== size) throw new EncodingError(`${what} takes ${size} bytes, got ${bytes.length}.`)
}

/** Writes a job request. Throws EncodingError when a field has the wrong width. */
export function encodeJobRequest(request: JobRequest): Uint8Array<ArrayBuffer> {
  const { opening, voucher } = request
  expectLength(request.channel, 32, 'channel')
  expectLength(request.context, 8, 'context')
  if (opening) expectLength(opening.enc, 32, 'enc')
  if (voucher && voucher.signature.length > 0xffff)
    throw new EncodingError('A voucher signature takes at most 65,535 bytes.')
  const length =
    requestHeaderLength +
    (opening ? termsLength + 32 : 0) +
    (voucher ? 16 + 2 + voucher.signature.length : 0) +
    request.body.length
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)
  bytes[0] = frameType.jobRequest
  view.setUint32(1, request.ticket)
  bytes[5] = (opening ? openingFlag : 0) | (voucher ? voucherFlag : 0)
  bytes.set(request.channel, 6)
  view.setBigUint64(38, request.job)
  bytes.set(request.context, 46)
  view.setUint32(54, request.deadlineMs)
  let offset = requestHeaderLength
  if (opening) {
    bytes.set(encodeTerms(opening.terms), offset)
    bytes.set(opening.enc, offset + termsLength)
    offset += termsLength + 32
  }
  if (voucher) {
    if (voucher.cumulative >> 128n !== 0n) throw new EncodingError('A voucher amount does not fit in 16 bytes.')
    view.setBigUint64(offset, voucher.cumulative >> 64n)
    view.setBigUint64(offset + 8, voucher.cumulative & 0xffff_ffff_ffff_ffffn)
    view.setUint16(offset + 16, voucher.signature.length)
    bytes.set(voucher.signature, offset + 18)
    offset += 18 + voucher.signature.length
  }
  bytes.set(request.body, offset)
  return bytes
}

function readJobRequest(reader: Reader): { type: 'jobRequest' } & JobRequest {
  const ticket = reader.u32()
  const flags = reader.u8()
  if (flags & ~(openingFlag | voucherFlag)) throw new EncodingError(`Unknown flags ${flags} in a job request.`)
  const request: { type: 'jobRequest' } & JobRequest = {
    type: 'jobRequest',
    ticket,
    channel: reader.take(32),
    job: reader.u64(),
    context: reader.take(8),
    deadlineMs: reader.u32(),
    body: reader.bytes,
  }
  if (flags & openingFlag) request.opening = { terms: decodeTerms(reader.take(termsLength)), enc: reader.take(32) }
  if (flags & voucherFlag) {
    const cumulative = reader.u128()
    request.voucher = { cumulative, signature: reader.take(reader.u16()) }
  }
  request.body = reader.rest()
  return request
}

const jobAnswerLength = ({ proof, body }: JobAnswer) => answerHeaderLength + proof.path.length * 32 + body.length

/** Writes a job answer. Throws EncodingError when a field has the wrong width. */
export function encodeJobAnswer(answer: JobAnswer): Uint8Array<ArrayBuffer> {
  return encodeJobAnswers([answer])[0]!
}

/** Writes job answers behind one another, as views of the same bytes: one piece of memory however many. Throws EncodingError when a field has the wrong width. */
export function encodeJobAnswers(answers: readonly JobAnswer[]): Uint8Array<ArrayBuffer>[] {
  let length = 0
  for (const answer of answers) length += jobAnswerLength(answer)
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)
  let at = 0
  return answers.map((answer) => {
    const start = at
    at = writeJobAnswer(bytes, view, start, answer)
    return bytes.subarray(start, at)
  })
}

/** Writes a job answer at a place and gives where it ends. */
function writeJobAnswer(bytes: Uint8Array, view: DataView, at: number, answer: JobAnswer): number {
  const { path, index, count } = answer.proof
  expectLength(answer.signature, 65, 'signature')
  bytes[at] = frameType.jobAnswer
  view.setUint32(at + 1, answer.ticket)
  setReceipt(bytes, view, at + 5, answer.receipt)
  setDetail(bytes, view, at + 102, answer.detail)
  bytes.set(answer.signature, at + 214)
  view.setUint32(at + 279, index)
  view.setUint32(at + 283, count)
  bytes[at + 287] = path.length
  let offset = at + answerHeaderLength
  for (const sibling of path) {
    expectLength(sibling, 32, 'proof node')
    bytes.set(sibling, offset)
    offset += 32
  }
  bytes.set(answer.body, offset)
  return offset + answer.body.length
}

function readJobAnswer(reader: Reader): { type: 'jobAnswer' } & JobAnswer {
  const ticket = reader.u32()
  const receipt = decodeReceipt(reader.take(receiptLength))
  const detail = decodeDetail(reader.take(detailLength))
  const signature = reader.take(65)
  const index = reader.u32()
  const count = reader.u32()
  const path: Uint8Array[] = []
  for (let depth = reader.u8(); depth > 0; depth--) path.push(reader.take(32))
  return { type: 'jobAnswer', ticket, receipt, detail, signature, proof: { index, count, path }, body: reader.rest() }
}

/** Writes a refusal. */
export function encodeJobRefusal({ ticket, reason, detail }: JobRefusal): Uint8Array<ArrayBuffer> {
  const text = utf8(detail)
  const bytes = new Uint8Array(6 + text.length)
  bytes[0] = frameType.jobRefusal
  new DataView(bytes.buffer).setUint32(1, ticket)
  bytes[5] = refusalReasons.indexOf(reason) + 1
  bytes.set(text, 6)
  return bytes
}

function readJobRefusal(reader: Reader): JobRefusal {
  const ticket = reader.u32()
  const code = reader.u8()
  const reason = refusalReasons[code - 1]
  if (!reason) throw new EncodingError(`Unknown refusal code ${code}.`)
  return { ticket, reason, detail: fromUtf8(reader.rest()) }
}

/** Writes a load report. */
export function encodeLoad({ queued, capacity }: Load): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(9)
  bytes[0] = frameType.load
  const view = new DataView(bytes.buffer)
  view.setUint32(1, queued)
  view.setUint32(5, capacity)
  return bytes
}

/** Writes what asks a runner to let go of a job. Throws EncodingError when the channel has the wrong width. */
export function encodeCancel({ channel, job }: Cancel): Uint8Array<ArrayBuffer> {
  expectLength(channel, 32, 'channel')
  const bytes = new Uint8Array(41)
  bytes[0] = frameType.cancel
  bytes.set(channel, 1)
  new DataView(bytes.buffer).setBigUint64(33, job)
  return bytes
}

/** Writes what one of several jobs met. */
export function encodeJobProblem({ ticket, problem }: JobProblem): Uint8Array<ArrayBuffer> {
  const text = utf8(JSON.stringify(problem))
  const bytes = new Uint8Array(5 + text.length)
  bytes[0] = frameType.problem
  new DataView(bytes.buffer).setUint32(1, ticket)
  bytes.set(text, 5)
  return bytes
}

/** Reads JSON to the end, or gives undefined where it is none. */
function readJson(reader: Reader): unknown {
  const text = fromUtf8(reader.rest())
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function readJobProblem(reader: Reader): JobProblem {
  const ticket = reader.u32()
  const problem = readJson(reader)
  if (typeof problem !== 'object' || problem === null || Array.isArray(problem))
    throw new EncodingError('A problem frame carries a JSON object.')
  return { ticket, problem: problem as Record<string, unknown> }
}

/** Writes a runner's introduction. */
export function encodeHello(hello: Hello): Uint8Array<ArrayBuffer> {
  const text = utf8(JSON.stringify(hello))
  const bytes = new Uint8Array(1 + text.length)
  bytes[0] = frameType.hello
  bytes.set(text, 1)
  return bytes
}

function readHello(reader: Reader): Hello {
  const json = readJson(reader)
  if (json === undefined) throw new EncodingError('A hello frame carries JSON.')
  const { models, capacity, warm, credit, region } = (json ?? {}) as Record<string, unknown>
  const digests = (value: unknown) =>
    Array.isArray(value) && value.every((each) => typeof each === 'string' && /^0x[0-9a-f]{64}$/.test(each))
  const positive = (value: unknown) => Number.isSafeInteger(value) && (value as number) > 0
  const wellFormed =
    digests(models) &&
    positive(capacity) &&
    (warm === undefined || digests(warm)) &&
    (credit === undefined || positive(credit)) &&
    (region === undefined || (typeof region === 'string' && /^[a-z0-9-]{1,32}$/.test(region)))
  if (!wellFormed)
    throw new EncodingError(
      'A hello frame carries { models: [digest], capacity: whole number, warm?: [digest], credit?: whole number, region?: name }.',
    )
  return {
    models: models as string[],
    capacity: capacity as number,
    ...(warm === undefined ? {} : { warm: warm as string[] }),
    ...(credit === undefined ? {} : { credit: credit as number }),
    ...(region === undefined ? {} : { region: region as string }),
  }
}

/** Reads one frame. Views into `bytes` are kept, nothing is copied. Throws EncodingError on anything malformed. */
export function decodeFrame(bytes: Uint8Array): Frame {
  const reader = new Reader(bytes)
  const type = reader.u8()
  switch (type) {
    case frameType.jobRequest:
      return readJobRequest(reader)
    case frameType.jobAnswer:
      return readJobAnswer(reader)
    case frameType.jobRefusal:
      return { type: 'jobRefusal', ...readJobRefusal(reader) }
    case frameType.load: {
      const load = { queued: reader.u32(), capacity: reader.u32() }
      reader.end()
      return { type: 'load', ...load }
    }
    case frameType.hello:
      return { type: 'hello', ...readHello(reader) }
    case frameType.cancel: {
      const cancel = { channel: reader.take(32), job: reader.u64() }
      reader.end()
      return { type: 'cancel', ...cancel }
    }
    case frameType.problem:
      return { type: 'problem', ...readJobProblem(reader) }
    default:
      throw new EncodingError(`Unknown frame type ${type}.`)
  }
}

/** Reads the ticket of a job frame, or gives null for another frame; the rest of the frame may be malformed. */
export function ticketOf(frame: Uint8Array): number | null {
  const type = frame[0]
  const ofJob = type === frameType.jobRequest || type === frameType.jobAnswer || type === frameType.jobRefusal
  return ofJob && frame.length >= 5 ? new DataView(frame.buffer, frame.byteOffset, frame.byteLength).getUint32(1) : null
}

/** Changes the ticket of a job frame in place, so that a mailbox relays a body without rebuilding it. */
export function setTicket(frame: Uint8Array, ticket: number): void {
  new DataView(frame.buffer, frame.byteOffset, frame.byteLength).setUint32(1, ticket)
}

/** Changes how long a job request may still take, in milliseconds, in place: what it waited in a mailbox is gone. */
export function setDeadline(frame: Uint8Array, deadlineMs: number): void {
  new DataView(frame.buffer, frame.byteOffset, frame.byteLength).setUint32(54, deadlineMs)
}

/** Joins frames into one socket message, each behind its u32 length. Where `tickets` has one for a job frame, the message carries that and the frame stays as it is. */
export function joinFrames(
  frames: readonly Uint8Array[],
  tickets: readonly (number | undefined)[] = [],
): Uint8Array<ArrayBuffer> {
  let length = 0
  for (const frame of frames) length += 4 + frame.length
  const message = new Uint8Array(length)
  const view = new DataView(message.buffer)
  let offset = 0
  for (let index = 0; index < frames.length; index++) {
    const frame = frames[index]!
    view.setUint32(offset, frame.length)
    message.set(frame, offset + 4)
    const ticket = tickets[index]
    if (ticket !== undefined) view.setUint32(offset + 5, ticket)
    offset += 4 + frame.length
  }
  return message
}

/** Splits a socket message into its frames, as views. Throws EncodingError when a frame is cut off. */
export function splitFrames(message: Uint8Array): Uint8Array[] {
  const reader = new Reader(message)
  const frames: Uint8Array[] = []
  while (reader.offset < message.length) frames.push(reader.take(reader.u32()))
  return frames
}
