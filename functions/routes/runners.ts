import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Hex } from '../../protocol/bytes.ts'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { authorizeSocket } from '../services/connect.ts'
import { getEvidence, getRunner, listRunners, registerRunner } from '../services/runners.ts'
import { postTotals } from '../services/totals.ts'
import { type App, createRouter, json, passed, responses } from './router.ts'
import { Address, Page, Register, Totals } from './schemas.ts'

/** Opens the doors of runners. */
export function runnerRoutes(context: Context): OpenAPIHono<App> {
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
        const asked = { upgrade: c.req.header('upgrade'), authorization: c.req.header('authorization') }
        return passed(await openSocket(context, c.req.valid('param').signer, asked))
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
      async (c) =>
        passed(await listClaims(context, c.req.valid('param').signer, c.req.valid('query'), c.var.requestId)),
    ) as unknown as OpenAPIHono<App>
}

/** Opens a runner's socket to its mailbox. Throws `invalid_request` where no upgrade is asked for, `unauthorized` where it is not the runner's to ask. */
async function openSocket(
  context: Context,
  signer: Hex,
  { upgrade, authorization }: { upgrade: string | undefined; authorization: string | undefined },
) {
  if (upgrade?.toLowerCase() !== 'websocket') {
    throw new AssayError('invalid_request', 'This address takes WebSocket upgrades only.')
  }
  await authorizeSocket(context, signer, authorization)
  const { mailbox } = context
  return mailbox
    .get(mailbox.idFromName(signer))
    .fetch(`https://mailbox/socket?runner=${signer}`, { headers: { upgrade: 'websocket' } })
}

/** Asks a runner's mailbox for its claims, a page at a time. Throws `invalid_request` for a cursor that is none. */
async function listClaims(
  { mailbox }: Context,
  signer: Hex,
  { cursor, limit }: z.infer<typeof Page>,
  requestId: string,
) {
  if (cursor !== undefined && !/^[0-9a-f]{64}$/.test(cursor))
    throw new AssayError('invalid_request', 'The cursor is not one of ours.')
  const url = `https://mailbox/claims?runner=${signer}&cursor=${cursor ?? ''}&limit=${limit}`
  return mailbox.get(mailbox.idFromName(signer)).fetch(url, { headers: { 'x-request-id': requestId } })
}
