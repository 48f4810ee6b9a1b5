import { createRoute, type OpenAPIHono } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { matchRunner } from '../services/match.ts'
import { type App, createRouter, json, responses } from './router.ts'
import { FindMatch } from './schemas.ts'

/** Opens the door of matches. */
export function matchRoutes(context: Context): OpenAPIHono<App> {
  return createRouter().openapi(
    createRoute({ method: 'post', path: '/v1/matches', request: { body: json(FindMatch) }, responses }),
    async (c) => {
      const match = await matchRunner(context, c.req.valid('json'), (work) => c.executionCtx.waitUntil(work))
      return c.json(match) as never
    },
  ) as unknown as OpenAPIHono<App>
}
