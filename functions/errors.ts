import type { RefusalReason } from '../protocol/frames.ts'

const refusalStatus: Record<RefusalReason, number> = {
  bad_terms: 422,
  wrong_price: 422,
  expired_terms: 422,
  bad_voucher: 422,
  insufficient_cover: 402,
  unknown_context: 409,
  job_conflict: 409,
  job_too_old: 409,
  at_capacity: 503,
  unknown_model: 404,
  bad_seal: 422,
  job_lost: 410,
  draining: 503,
  bad_frame: 422,
  deadline: 504,
  unfunded: 402,
  cancelled: 409,
}

/** Maps every public code to its HTTP status. */
export const statusOf = {
  invalid_request: 400,
  unauthorized: 401,
  not_found: 404,
  no_match: 404,
  conflict: 409,
  payload_too_large: 413,
  unsupported_media_type: 415,
  digest_mismatch: 422,
  model_invalid: 422,
  listing_invalid: 422,
  evidence_refuted: 422,
  not_registered: 422,
  internal: 500,
  unavailable: 503,
  runner_unreachable: 503,
  ...refusalStatus,
} as const satisfies Record<string, number>

/** Names a public error code. */
export type ErrorCode = keyof typeof statusOf

/** Words the next step for each code; an error that knows better brings its own. */
const hintOf: Record<ErrorCode, string> = {
  invalid_request: 'See /openapi.json for what is expected.',
  unauthorized: 'Sign with the key that is named, with the time of now.',
  not_found: 'Compare what the address names with what GET /v1/models and GET /v1/runners list.',
  no_match: 'Ask for less of the machine, or try again later.',
  conflict: 'Read what is kept now, then decide again.',
  payload_too_large: 'Send less at once.',
  unsupported_media_type: 'Send JSON, with the header content-type: application/json.',
  digest_mismatch: 'Send the bytes the digest was made of.',
  model_invalid: 'Mend what is named, then publish again: docs/guides/publisher.md.',
  listing_invalid: 'Sign a listing of this manifest for this marketplace, with a higher nonce.',
  evidence_refuted: 'docs/attestation.md words each refusal and its remedy.',
  not_registered: 'Register on chain first.',
  internal: 'Report the request id.',
  unavailable: 'Try again in a few seconds; nothing was charged.',
  runner_unreachable: 'Ask POST /v1/matches for another runner.',
  bad_terms: 'Open a channel with the terms of the listing as it is now.',
  wrong_price: 'Read the listing again: its price has changed.',
  expired_terms: 'Open a new channel.',
  bad_voucher: 'Sign a voucher for the running total with the key the terms name.',
  insufficient_cover: 'Sign a voucher for more, or wait until the jobs in work are done.',
  unknown_context: 'Open the sealing context again, in the job itself.',
  job_conflict: 'Number the job anew: another request was sent under this one.',
  job_too_old: 'Number the job anew: its answer is no longer kept.',
  at_capacity: 'Ask POST /v1/matches for another runner, or try again later.',
  unknown_model: 'Ask POST /v1/matches for a runner that serves the model.',
  bad_seal: 'Read the key of the runner again and seal to that.',
  job_lost: 'Send it again under a new number; nothing was charged.',
  draining: 'Ask POST /v1/matches for another runner: this one is about to stop.',
  bad_frame: 'Frames are described in docs/protocol.md; the SDK writes them.',
  deadline: 'Ask again under the same number to hear what came of it, or give it longer.',
  unfunded: 'Deposit into the escrow first.',
  cancelled: 'Send it again under a new number if it is wanted after all.',
}

/** Root of every error the edge throws on purpose; anything else is a defect and becomes a bare 500. `extra` is shown to the caller. */
export class AssayError extends Error {
  override name = 'AssayError'
  readonly code: ErrorCode
  readonly hint: string | undefined
  readonly extra: Record<string, unknown> | undefined
  constructor(
    code: ErrorCode,
    message: string,
    { hint, cause, extra }: { hint?: string; cause?: unknown; extra?: Record<string, unknown> } = {},
  ) {
    super(message, { cause })
    this.code = code
    this.hint = hint
    this.extra = extra
  }
}

/** Reports a dependency that is down; nothing has been charged. */
export class UnavailableError extends AssayError {
  override name = 'UnavailableError'
  constructor(what: string, cause?: unknown) {
    super('unavailable', `The ${what} cannot be reached.`, { cause })
  }
}

/** Names the headers a page of another origin may read. */
export const exposedHeaders = ['x-request-id', 'assay-load', 'location', 'retry-after']
/** Holds the headers every answer carries. */
export const safeHeaders = { 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' }
/** Holds the headers of an answer that no middleware passes over: the safe ones, and leave for any origin to read it. */
export const openHeaders = {
  ...safeHeaders,
  'access-control-allow-origin': '*',
  'access-control-expose-headers': exposedHeaders.join(','),
}

/** Words the members of an RFC 9457 problem, with the code's own next step where no better one is known; `extra` are members of its own. */
export function problemBody(
  code: ErrorCode,
  detail: string,
  requestId: string,
  hint = hintOf[code],
  extra?: Record<string, unknown>,
) {
  return {
    type: `urn:assay:problem:${code}`,
    title: code.replaceAll('_', ' '),
    status: statusOf[code] as number,
    code,
    detail,
    hint,
    requestId,
    ...extra,
  }
}

/** Answers with a problem as RFC 9457 problem+json; `more` are headers. */
export function problem(
  code: ErrorCode,
  detail: string,
  requestId: string,
  hint?: string,
  extra?: Record<string, unknown>,
  more?: Record<string, string>,
): Response {
  const body = problemBody(code, detail, requestId, hint, extra)
  const headers = { ...openHeaders, 'content-type': 'application/problem+json', 'x-request-id': requestId, ...more }
  return new Response(JSON.stringify(body), { status: statusOf[code], headers })
}

type Log = (event: string, fields: Record<string, string>) => void

/** Gives what was thrown on purpose as it is, and anything else as a bare `internal` that `log` hears of. */
export function shownError(error: unknown, requestId: string, log: Log): AssayError {
  if (error instanceof AssayError) return error
  log('defect', { requestId, error: error instanceof Error ? error.name : typeof error })
  return new AssayError('internal', 'The edge failed.')
}

/** Answers with the problem of whatever was thrown. */
export function problemOf(error: unknown, requestId: string, log: Log): Response {
  const { code, message, hint, extra } = shownError(error, requestId, log)
  return problem(code, message, requestId, hint, extra)
}
