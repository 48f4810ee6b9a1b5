import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { getAccount, listPayments } from '../services/accounts.ts'
import { type App, createRouter, responses } from './router.ts'
import { Address, Page, pageOf } from './schemas.ts'

/** Opens the doors of accounts and of what was paid to them. */
export function accountRoutes(context: Context): OpenAPIHono<App> {
  return createRouter()
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/accounts/{address}',
        request: { params: z.object({ address: Address }) },
        responses,
      }),
      async (c) => c.json(await getAccount(context, c.req.valid('param').address)) as never,
    )
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/accounts/{address}/payments',
        request: { params: z.object({ address: Address }), query: Page },
        responses,
      }),
      async (c) =>
        c.json(await listPayments(context, c.req.valid('param').address, pageOf(c.req.valid('query')))) as never,
    ) as unknown as OpenAPIHono<App>
}
