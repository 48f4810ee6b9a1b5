import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context as HonoContext } from 'hono'
import type { Hex } from '../../protocol/bytes.ts'
import type { Context } from '../context.ts'
import { AssayError, type ErrorCode, openHeaders, problem } from '../errors.ts'
import { type Match, matchRunner } from '../services/match.ts'
import { type App, createRouter, passed, readBody, responses } from './router.ts'
import { Address, FindMatch } from './schemas.ts'

/** Largest job frame taken, in bytes: a Durable Object takes messages up to 32 MiB. */
const maxJobBytes = 24 * 1024 * 1024
const octetStream = 'application/octet-stream'
const JobId = z.string().regex(/^[0-9a-f]{32}$/)
const octets = { required: true, content: { [octetStream]: { schema: z.string() } } }
const headers = z.object({
  prefer: z
    .string()
    .optional()
    .openapi({ description: '`respond-async[, wait=seconds]`: answer 202, after waiting at most so long (RFC 7240).' }),
  'assay-match': z
    .string()
    .optional()
    .openapi({ description: 'The body of the match, as JSON: a refusal then carries `next`, another runner.' }),
  'assay-webhook-url': z.string().optional().openapi({ description: 'Where the end of the job is announced.' }),
  'assay-webhook-secret': z.string().optional().openapi({ description: 'What webhooks are signed with: whsec_…' }),
})

const waiting = { respondAsync: false, waitSeconds: 0 }

/** Reads a Prefer header (RFC 7240 sections 4.1 and 4.3): whether not to wait on the line, and how many seconds to wait before. */
function preferencesOf(header: string): { respondAsync: boolean; waitSeconds: number } {
  const preferences = header.split(',').map((each) => each.split(';')[0]!.trim().toLowerCase())
  const wait = preferences
    .map((each) => /^wait\s*=\s*"?(\d{1,4})"?$/.exec(each)?.[1])
    .find((each) => each !== undefined)
  return { respondAsync: preferences.includes('respond-async'), waitSeconds: Number(wait ?? 0) }
}

/** Answers a posted job: the way of every inference. It stands before the app's middleware, and what it needs of it is done here by hand, since each layer costs more than all of this. */
export function postJob(context: Context) {
  const { mailbox, directory, now } = context
  return async (c: HonoContext<App>): Promise<Response> => {
    const requestId = crypto.randomUUID()
    c.set('requestId', requestId)
    const signer = c.req.param('signer')!.toLowerCase() as Hex
    if (!/^0x[0-9a-f]{40}$/.test(signer)) throw new AssayError('invalid_request', 'A runner is named by its address.')
    const request = c.req.raw
    const body = await readBody(request, maxJobBytes)
    const stub = mailbox.get(mailbox.idFromName(signer))
    const prefer = request.headers.get('prefer')
    const { respondAsync, waitSeconds } = prefer === null ? waiting : preferencesOf(prefer)
    if (respondAsync) {
      const headers = new Headers({ 'x-request-id': requestId, 'assay-wait': String(waitSeconds) })
      for (const name of ['assay-webhook-url', 'assay-webhook-secret']) {
        const value = request.headers.get(name)
        if (value !== null) headers.set(name, value)
      }
      return passed(
        await stub.fetch(`https://mailbox/async?runner=${signer}`, { method: 'POST', headers: headers as never, body }),
      )
    }
    const { queued, capacity, frame, problem: met } = await stub.job(signer, body)
    directory.loads.note(signer, { queued, capacity }, now())
    const headers = { 'x-request-id': requestId, 'assay-load': `${queued}/${capacity}` }
    if (frame) return new Response(frame, { headers: { ...openHeaders, ...headers, 'content-type': octetStream } })
    const { code, message, hint, extra } = met!
    const next = extra?.accepted === false ? await nextMatch(context, signer, c) : null
    return problem(code as ErrorCode, message, requestId, hint, { ...extra, ...(next ? { next } : {}) }, headers)
  }
}

/** Finds another runner for a job that this one did not take, under the requirements its buyer sent along: a sealed job cannot move by itself, but its buyer is spared a question. */
async function nextMatch(context: Context, refusedBy: Hex, c: HonoContext<App>): Promise<Match | null> {
  const header = c.req.raw.headers.get('assay-match')
  if (header === null) return null
  try {
    const { model, requirements } = FindMatch.parse(JSON.parse(header))
    const exclude = [...(requirements.exclude ?? []), refusedBy]
    return await matchRunner(context, { model, requirements: { ...requirements, exclude } }, (work) =>
      c.executionCtx.waitUntil(work),
    )
  } catch {
    // The refusal is the answer; a match beside it is a courtesy.
    return null
  }
}

/** Opens the doors of jobs that are looked after by id. */
export function jobRoutes({ mailbox }: Context): OpenAPIHono<App> {
  const router = createRouter()
  router.openAPIRegistry.registerPath(
    createRoute({
      method: 'post',
      path: '/v1/runners/{signer}/jobs',
      request: { params: z.object({ signer: Address }), headers, body: octets },
      responses,
    }),
  )

  const one = { params: z.object({ signer: Address, id: JobId }) }
  const job = '/v1/runners/{signer}/jobs/{id}'
  const doors = [
    ['get', job, ''],
    ['delete', job, ''],
    ['get', `${job}/result`, '/result'],
    ['get', `${job}/events`, '/events'],
    ['post', `${job}/webhook`, '/webhook'],
  ] as const
  for (const [method, path, what] of doors) {
    router.openapi(createRoute({ method, path, request: one, responses }), async (c) => {
      const { signer, id } = c.req.valid('param')
      const headers = { 'x-request-id': c.var.requestId }
      const url = `https://mailbox/async/${id}${what}?runner=${signer}`
      return passed(await mailbox.get(mailbox.idFromName(signer)).fetch(url, { method: method.toUpperCase(), headers }))
    })
  }
  return router
}
