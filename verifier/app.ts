import { Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { registrationFromJson } from '../protocol/attestRegistration.ts'
import { EncodingError } from '../protocol/bytes.ts'
import { CollateralUnavailableError } from '../protocol/evidence/collateral.ts'
import type { Refusal } from '../protocol/evidence/index.ts'
import { UnsupportedQuoteError } from '../protocol/evidence/quote.ts'
import { remedyFor } from '../protocol/evidence/remedies.ts'
import type { PublishedVerdict } from '../protocol/publishedVerdict.ts'
import { retryAfterSeconds, SourceUnavailableError } from './unavailable.ts'
import { type VerifyDeps, verifyRegistration } from './verify.ts'

/** Keeps published verdicts by the digest of their evidence. */
export type VerdictStore = {
  put(digest: string, verdict: PublishedVerdict): Promise<void>
  get(digest: string): Promise<PublishedVerdict | null>
}

/** Holds what a verifier needs. */
export type VerifierDeps = VerifyDeps & {
  store: VerdictStore
  log: (event: string, fields?: Record<string, string | number | boolean>) => void
}

/** Largest registration taken, in bytes: sixteen GPUs with their certificates fit. */
const maxBodyBytes = 1024 * 1024

const titles = {
  invalid_request: 400,
  not_found: 404,
  payload_too_large: 413,
  evidence_refuted: 422,
  unavailable: 503,
  internal: 500,
} as const

/** Words the next step for each code; a caller that knows better brings its own. */
const hints: Record<keyof typeof titles, string> = {
  invalid_request: 'Post what a runner posts to the edge, as JSON, and nonceBlock: docs/attestation.md.',
  not_found: 'Verdicts are at /v1/verdicts/{evidenceDigest}; this verifier is described at /v1/verifier.',
  payload_too_large: 'Leave out what is no part of the registration.',
  evidence_refuted: 'docs/attestation.md words each refusal and its remedy.',
  unavailable: `Nothing was signed. Post the same registration again in ${retryAfterSeconds} seconds.`,
  internal: 'Report it to whoever runs this verifier, and ask another.',
}

function problem(
  code: keyof typeof titles,
  detail: string,
  extra: Record<string, unknown> = {},
  headers: Record<string, string> = {},
): Response {
  const status = titles[code]
  const body = {
    type: `urn:assay:problem:${code}`,
    title: code.replaceAll('_', ' '),
    status,
    code,
    detail,
    hint: hints[code],
    ...extra,
  }
  return new Response(JSON.stringify(body), {
    status,
    headers: { ...headers, 'content-type': 'application/problem+json' },
  })
}

/** Words that something is away: what to do is the same whatever it is. */
const away = (detail: string) => problem('unavailable', detail, {}, { 'retry-after': String(retryAfterSeconds) })

function nonceBlockOf(json: unknown): bigint {
  const { nonceBlock } = (json ?? {}) as { nonceBlock?: unknown }
  if (typeof nonceBlock !== 'string' || !/^\d{1,20}$/.test(nonceBlock))
    throw new EncodingError('nonceBlock must be the number of the block whose hash is the nonce, as decimal text.')
  return BigInt(nonceBlock)
}

/** Serves a verifier: judges registrations, signs verdicts, and publishes what each one rests on. */
export function createVerifier(deps: VerifierDeps): Hono {
  const { signer, domain, policy, roots, store, log } = deps
  const app = new Hono()
  app.onError((error) => {
    if (error instanceof CollateralUnavailableError || error instanceof SourceUnavailableError) {
      log('unavailable', { source: error instanceof SourceUnavailableError ? error.source : 'collateral service' })
      return away(error.message)
    }
    log('defect', { error: error.name })
    return problem('internal', 'The verifier failed; nothing was signed.')
  })
  app.notFound((c) => problem('not_found', `There is no ${c.req.method} ${c.req.path}.`))

  app.get('/health', (c) => c.json({ status: 'ok' }))
  app.get('/v1/verifier', (c) =>
    c.json({
      address: signer.address,
      ...domain,
      policy: policy.version,
      developmentRoots: roots.some(({ kind }) => kind === 'development'),
    }),
  )
  app.post(
    '/v1/verdicts',
    bodyLimit({
      maxSize: maxBodyBytes,
      onError: () => problem('payload_too_large', `A registration here has at most ${maxBodyBytes} bytes.`),
    }),
    async (c) => {
      let claim: ReturnType<typeof registrationFromJson>
      let nonceBlock: bigint
      try {
        const json: unknown = await c.req.json()
        nonceBlock = nonceBlockOf(json)
        claim = registrationFromJson(json)
      } catch (error) {
        return problem('invalid_request', error instanceof EncodingError ? error.message : 'The body is not JSON.')
      }
      let verified: Awaited<ReturnType<typeof verifyRegistration>>
      try {
        verified = await verifyRegistration(deps, claim, nonceBlock)
      } catch (error) {
        if (error instanceof EncodingError || error instanceof UnsupportedQuoteError)
          return problem('evidence_refuted', error.message)
        throw error
      }
      if (!verified.ok) {
        const [{ reason, detail }] = verified.refusals as [Refusal]
        log('refused', { reason })
        return problem('evidence_refuted', detail, { hint: remedyFor(reason), refusals: verified.refusals })
      }
      const { attested, signature } = verified.published
      // Published before it is handed out: a verdict whose evidence nobody can see must not reach the chain.
      await store.put(attested.evidenceDigest, verified.published)
      log('signed', { runner: attested.signer, evidence: attested.evidenceDigest })
      return c.json({ attested, signature, verifier: signer.address })
    },
  )
  app.get('/v1/verdicts/:digest', async (c) => {
    const digest = c.req.param('digest').toLowerCase()
    if (!/^0x[0-9a-f]{64}$/.test(digest)) return problem('invalid_request', 'Name a digest: 0x and 64 hex digits.')
    const published = await store.get(digest)
    return published ? c.json(published) : problem('not_found', 'No verdict of this verifier rests on such evidence.')
  })
  return app
}
