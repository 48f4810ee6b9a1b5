import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Hex } from '../../protocol/bytes.ts'
import { jobsType } from '../../protocol/frames.ts'
import type { Context } from '../context.ts'
import { AssayError, type ErrorCode, openHeaders, problem, problemOf } from '../errors.ts'
import type { ExecutionContext } from '../platform.ts'
import { nextMatch } from './nextMatch.ts'
import { type App, createRouter, hearOut, passed, readBody, responses } from './router.ts'
import { Address } from './schemas.ts'
import { isSeveral, maxJobsBytes, postJobs } from './severalJobs.ts'

/** Largest job frame taken, in bytes: a Durable Object takes messages up to 32 MiB. */
const maxJobBytes = 24 * 1024 * 1024
const octetStream = 'application/octet-stream'
const JobId = z.string().regex(/^[0-9a-f]{32}$/)
const octets = {
  required: true,
  content: { [octetStream]: { schema: z.string() }, [jobsType]: { schema: z.string() } },
}
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

const postPath = /^https?:\/\/[^/]+\/v1\/runners\/([^/?#]+)\/jobs(?:[?#]|$)/

/** Opens the door of posted jobs, the way of every inference: gives null for a request that is none. It stands before the app, whose framework costs more than all of this, and does by hand what it needs of it. */
export function jobDoor(context: Context) {
  return (request: Request, execution: ExecutionContext): Promise<Response> | null => {
    if (request.method !== 'POST') return null
    const signer = postPath.exec(request.url)?.[1]
    return signer === undefined ? null : answered(context, request, signer.toLowerCase(), execution)
  }
}

async function answered(context: Context, request: Request, signer: string, execution: ExecutionContext) {
  const requestId = crypto.randomUUID()
  try {
    return await postJob(context, { request, signer, requestId, execution })
  } catch (error) {
    await hearOut(request)
    return problemOf(error, requestId, context.log)
  }
}

/** Holds a request that posts to a runner, under its id; `execution` keeps work behind the answer alive. */
export type Posted = { request: Request; signer: string; requestId: string; execution: ExecutionContext }

async function postJob(context: Context, { request, signer, requestId, execution }: Posted): Promise<Response> {
  const { mailbox, carry, directory, now } = context
  if (!/^0x[0-9a-f]{40}$/.test(signer)) throw new AssayError('invalid_request', 'A runner is named by its address.')
  const prefer = request.headers.get('prefer')
  const { respondAsync, waitSeconds } = prefer === null ? waiting : preferencesOf(prefer)
  if (isSeveral(request)) {
    if (respondAsync)
      throw new AssayError('invalid_request', 'Several jobs of one request are answered on the line.', {
        hint: `Post each job that nobody waits for by itself, as ${octetStream}.`,
      })
    return postJobs(context, { request, signer, requestId, execution }, await readBody(request, maxJobsBytes))
  }
  const body = await readBody(request, maxJobBytes)
  if (respondAsync) {
    const headers = new Headers({ 'x-request-id': requestId, 'assay-wait': String(waitSeconds) })
    for (const name of ['assay-webhook-url', 'assay-webhook-secret']) {
      const value = request.headers.get(name)
      if (value !== null) headers.set(name, value)
    }
    const stub = mailbox.get(mailbox.idFromName(signer))
    return passed(
      await stub.fetch(`https://mailbox/async?runner=${signer}`, { method: 'POST', headers: headers as never, body }),
    )
  }
  const keepAlive = (work: Promise<void>) => execution.waitUntil(work)
  const { queued, capacity, frame, problem: met } = await carry(signer, body, keepAlive)
  directory.loads.note(signer, { queued, capacity }, now())
  const headers = { 'x-request-id': requestId, 'assay-load': `${queued}/${capacity}` }
  if (frame) return new Response(frame, { headers: { ...openHeaders, ...headers, 'content-type': octetStream } })
  const { code, message, hint, extra } = met!
  const next = extra?.accepted === false ? await nextMatch(context, signer as Hex, request, execution) : null
  return problem(code as ErrorCode, message, requestId, hint, { ...extra, ...(next ? { next } : {}) }, headers)
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
