import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { listReceipts } from '../services/receipts.ts'
import { type App, createRouter, responses } from './router.ts'
import { Digest, Page, pageOf } from './schemas.ts'

/** Opens the door of a channel's receipts. */
export function receiptRoutes(context: Context): OpenAPIHono<App> {
  return createRouter().openapi(
    createRoute({
      method: 'get',
      path: '/v1/channels/{channel}/receipts',
      request: { params: z.object({ channel: Digest }), query: Page },
      responses,
    }),
    async (c) =>
      c.json(await listReceipts(context, c.req.valid('param').channel, pageOf(c.req.valid('query')))) as never,
  ) as unknown as OpenAPIHono<App>
}
