import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { type App, createRouter, passed, readBody, responses } from './router.ts'
import { Address } from './schemas.ts'

/** Largest job frame taken, in bytes: a Durable Object takes messages up to 32 MiB. */
const maxJobBytes = 24 * 1024 * 1024
const JobId = z.string().regex(/^[0-9a-f]{32}$/)
const octets = { required: true, content: { 'application/octet-stream': { schema: z.string() } } }
const headers = z.object({
  prefer: z.string().optional().openapi({ description: '`respond-async`: answer 202 at once (RFC 7240).' }),
  'assay-webhook-url': z.string().optional().openapi({ description: 'Where the end of the job is announced.' }),
  'assay-webhook-secret': z.string().optional().openapi({ description: 'What webhooks are signed with: whsec_…' }),
})

/** Tells whether a Prefer header asks not to wait on the line (RFC 7240 section 4.1). */
const prefersAsync = (header: string | undefined) =>
  header?.split(',').some((each) => each.split(';')[0]!.trim().toLowerCase() === 'respond-async') ?? false

/** Opens the doors of jobs. */
export function jobRoutes(context: Context): OpenAPIHono<App> {
  const { mailbox, directory, now } = context
  const router = createRouter()
  const ask = (
    signer: string,
    path: string,
    init: { method: string; headers: Record<string, string>; body?: ArrayBuffer },
  ) => mailbox.get(mailbox.idFromName(signer)).fetch(`https://mailbox${path}?runner=${signer}`, init)

  router.openAPIRegistry.registerPath(
    createRoute({
      method: 'post',
      path: '/v1/runners/{signer}/jobs',
      request: { params: z.object({ signer: Address }), headers, body: octets },
      responses,
    }),
  )
  // The way of every inference: checked by hand, since parsing one parameter by schema costs more than all else here.
  router.post('/v1/runners/:signer/jobs', async (c) => {
    const signer = c.req.param('signer').toLowerCase()
    if (!/^0x[0-9a-f]{40}$/.test(signer)) throw new AssayError('invalid_request', 'A runner is named by its address.')
    const body = await readBody(c.req.raw, maxJobBytes)
    const requestId = { 'x-request-id': c.var.requestId }
    if (prefersAsync(c.req.header('prefer'))) {
      const webhook: Record<string, string> = {}
      for (const name of ['assay-webhook-url', 'assay-webhook-secret']) {
        const value = c.req.header(name)
        if (value !== undefined) webhook[name] = value
      }
      return passed(await ask(signer, '/async', { method: 'POST', headers: { ...requestId, ...webhook }, body }))
    }
    const response = await ask(signer, '/jobs', { method: 'POST', headers: requestId, body })
    const [queued, capacity] = (response.headers.get('assay-load') ?? '').split('/')
    if (capacity !== undefined)
      directory.loads.note(signer, { queued: Number(queued), capacity: Number(capacity) }, now())
    return passed(response)
  })

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
      return passed(await ask(signer, `/async/${id}${what}`, { method: method.toUpperCase(), headers }))
    })
  }
  return router
}
