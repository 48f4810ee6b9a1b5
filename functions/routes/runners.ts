import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { getAccount, listPayments } from '../services/accounts.ts'
import { authorizeSocket } from '../services/connect.ts'
import { matchRunner } from '../services/match.ts'
import { listReceipts } from '../services/receipts.ts'
import { getEvidence, getRunner, listRunners, registerRunner } from '../services/runners.ts'
import { postTotals } from '../services/totals.ts'
import { type App, createRouter, json, passed, responses } from './router.ts'
import { Address, Digest, FindMatch, Page, positionOf, Register, Totals } from './schemas.ts'

/** Opens the doors of runners, matches and receipts. */
export function runnerRoutes(context: Context): OpenAPIHono<App> {
  const { mailbox } = context
  const one = { params: z.object({ signer: Address }) }
  return createRouter()
    .openapi(
      createRoute({ method: 'post', path: '/v1/runners', request: { body: json(Register) }, responses }),
      async (c) => c.json(await registerRunner(context, c.req.valid('json')), 201) as never,
    )
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/runners',
        request: { query: Page.extend({ provider: Address.optional() }) },
        responses,
      }),
      async (c) => c.json(await listRunners(context, c.req.valid('query'))) as never,
    )
    .openapi(
      createRoute({ method: 'get', path: '/v1/runners/{signer}', request: one, responses }),
      async (c) => c.json(await getRunner(context, c.req.valid('param').signer)) as never,
    )
    .openapi(
      createRoute({ method: 'get', path: '/v1/runners/{signer}/evidence', request: one, responses }),
      async (c) => c.json(await getEvidence(context, c.req.valid('param').signer)) as never,
    )
    .openapi(
      createRoute({ method: 'get', path: '/v1/runners/{signer}/socket', request: one, responses }),
      async (c) => {
        const { signer } = c.req.valid('param')
        if (c.req.header('upgrade')?.toLowerCase() !== 'websocket') {
          throw new AssayError('invalid_request', 'This address takes WebSocket upgrades only.')
        }
        await authorizeSocket(context, signer, c.req.header('authorization'))
        const response = await mailbox
          .get(mailbox.idFromName(signer))
          .fetch(`https://mailbox/socket?runner=${signer}`, { headers: { upgrade: 'websocket' } })
        return passed(response)
      },
    )
    .openapi(
      createRoute({
        method: 'post',
        path: '/v1/runners/{signer}/totals',
        request: { ...one, body: json(Totals) },
        responses,
      }),
      async (c) => c.json(await postTotals(context, c.req.valid('param').signer, c.req.valid('json'))) as never,
    )
    .openapi(
      createRoute({ method: 'get', path: '/v1/runners/{signer}/claims', request: { ...one, query: Page }, responses }),
      async (c) => {
        const { cursor, limit } = c.req.valid('query')
        if (cursor !== undefined && !/^[0-9a-f]{64}$/.test(cursor))
          throw new AssayError('invalid_request', 'The cursor is not one of ours.')
        const { signer } = c.req.valid('param')
        const url = `https://mailbox/claims?runner=${signer}&cursor=${cursor ?? ''}&limit=${limit}`
        const headers = { 'x-request-id': c.var.requestId }
        return passed(await mailbox.get(mailbox.idFromName(signer)).fetch(url, { headers }))
      },
    )
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
      async (c) => {
        const { cursor, limit } = c.req.valid('query')
        return c.json(
          await listPayments(context, c.req.valid('param').address, { cursor: positionOf(cursor), limit }),
        ) as never
      },
    )
    .openapi(
      createRoute({ method: 'post', path: '/v1/matches', request: { body: json(FindMatch) }, responses }),
      async (c) => {
        const match = await matchRunner(context, c.req.valid('json'), (work) => c.executionCtx.waitUntil(work))
        return c.json(match) as never
      },
    )
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/channels/{channel}/receipts',
        request: { params: z.object({ channel: Digest }), query: Page },
        responses,
      }),
      async (c) => {
        const { cursor, limit } = c.req.valid('query')
        return c.json(
          await listReceipts(context, c.req.valid('param').channel, { cursor: positionOf(cursor), limit }),
        ) as never
      },
    ) as unknown as OpenAPIHono<App>
}
