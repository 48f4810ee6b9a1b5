import { type RefusalReason, refusalReasons } from '../protocol/frames.ts'

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
    super('unavailable', `The ${what} cannot be reached.`, {
      hint: 'Try again in a few seconds; nothing was charged.',
      cause,
    })
  }
}

/** Tells whether a text names a refusal of a runner. */
export function isRefusal(text: string): text is RefusalReason {
  return (refusalReasons as readonly string[]).includes(text)
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

/** Words a problem as RFC 9457 problem+json; `extra` are members of its own, `more` are headers. */
export function problem(
  code: ErrorCode,
  detail: string,
  requestId: string,
  hint?: string,
  extra?: Record<string, unknown>,
  more?: Record<string, string>,
): Response {
  const status = statusOf[code]
  const body = {
    type: `urn:assay:problem:${code}`,
    title: code.replaceAll('_', ' '),
    status,
    code,
    detail,
    ...(hint ? { hint } : {}),
    requestId,
    ...extra,
  }
  const headers = { ...openHeaders, 'content-type': 'application/problem+json', 'x-request-id': requestId, ...more }
  return new Response(JSON.stringify(body), { status, headers })
}

/** Words whatever was thrown: what was thrown on purpose as its problem, anything else as a bare 500 that `log` hears of. */
export function problemOf(
  error: unknown,
  requestId: string,
  log: (event: string, fields: Record<string, string>) => void,
): Response {
  if (error instanceof AssayError) return problem(error.code, error.message, requestId, error.hint, error.extra)
  log('defect', { requestId, error: error instanceof Error ? error.name : typeof error })
  return problem('internal', 'The edge failed.', requestId, 'Report the request id.')
}
