import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { type App, createRouter, readBody, responses } from './router.ts'
import { Address } from './schemas.ts'

/** Largest job frame taken, in bytes: a Durable Object takes messages up to 32 MiB. */
const maxJobBytes = 24 * 1024 * 1024

/** Opens the doors of jobs. */
export function jobRoutes(context: Context): OpenAPIHono<App> {
  const { mailbox, directory, now } = context
  const router = createRouter()
  const stubOf = (signer: string) => mailbox.get(mailbox.idFromName(signer))

  router.openAPIRegistry.registerPath(
    createRoute({
      method: 'post',
      path: '/v1/runners/{signer}/jobs',
      request: {
        params: z.object({ signer: Address }),
        body: { required: true, content: { 'application/octet-stream': { schema: z.string() } } },
      },
      responses,
    }),
  )
  // The way of every inference: checked by hand, since parsing one parameter by schema costs more than all else here.
  router.post('/v1/runners/:signer/jobs', async (c) => {
    const signer = c.req.param('signer').toLowerCase()
    if (!/^0x[0-9a-f]{40}$/.test(signer)) throw new AssayError('invalid_request', 'A runner is named by its address.')
    const body = await readBody(c.req.raw, maxJobBytes)
    const response = await stubOf(signer).fetch('https://mailbox/jobs', {
      method: 'POST',
      headers: { 'x-request-id': c.var.requestId },
      body,
    })
    const [queued, capacity] = (response.headers.get('assay-load') ?? '').split('/')
    if (capacity !== undefined)
      directory.loads.note(signer, { queued: Number(queued), capacity: Number(capacity) }, now())
    return new Response(response.body as unknown as ReadableStream, {
      status: response.status,
      headers: [...response.headers] as [string, string][],
    })
  })
  return router
}
