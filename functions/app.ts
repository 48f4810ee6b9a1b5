import { createRoute, type OpenAPIHono } from '@hono/zod-openapi'
import { bodyLimit } from 'hono/body-limit'
import { cors } from 'hono/cors'
import { HTTPException } from 'hono/http-exception'
import type { Context } from './context.ts'
import { AssayError, type ErrorCode, exposedHeaders, problem, problemOf, safeHeaders } from './errors.ts'
import type { ExecutionContext } from './platform.ts'
import { accountRoutes } from './routes/accounts.ts'
import { jobDoor, jobRoutes } from './routes/jobs.ts'
import { matchRoutes } from './routes/matches.ts'
import { modelRoutes } from './routes/models.ts'
import { receiptRoutes } from './routes/receipts.ts'
import { type App, createRouter, hearOut, responses } from './routes/router.ts'
import { runnerRoutes } from './routes/runners.ts'

const maxJsonBytes = 1024 * 1024

/** What the framework refuses by itself: JSON that cannot be read, and a body that does not say that it is JSON. */
const codeOf: Record<number, ErrorCode> = { 400: 'invalid_request', 415: 'unsupported_media_type' }

/** Builds the edge: the door of posted jobs, and the app behind it for everything else. */
export function createEdge(context: Context) {
  const door = jobDoor(context)
  const app = createApp(context)
  return (request: Request, bindings: object, execution: ExecutionContext): Response | Promise<Response> =>
    door(request, execution) ?? app.fetch(request, bindings, execution)
}

function createApp(context: Context): OpenAPIHono<App> {
  const { settings } = context
  const app = createRouter()
  app.use(cors({ origin: '*', exposeHeaders: exposedHeaders }))
  app.use(async (c, next) => {
    c.set('requestId', crypto.randomUUID())
    await next()
    if (c.res.status >= 400) await hearOut(c.req.raw)
    // The response of an upgrade is the socket itself and stays as it is.
    if (c.res.status === 101) return
    c.header('x-request-id', c.var.requestId)
    for (const [name, value] of Object.entries(safeHeaders)) c.header(name, value)
  })
  const limited = bodyLimit({
    maxSize: maxJsonBytes,
    onError: () => {
      throw new AssayError('payload_too_large', `JSON here has at most ${maxJsonBytes} bytes.`)
    },
  })
  for (const path of ['/v1/models', '/v1/runners', '/v1/runners/:signer/totals', '/v1/matches']) app.use(path, limited)
  app.notFound((c) =>
    problem('not_found', `There is no ${c.req.method} ${c.req.path}.`, c.var.requestId, 'See /openapi.json.'),
  )
  app.onError((error, c) => {
    const code = error instanceof HTTPException ? codeOf[error.status] : undefined
    if (code) return problem(code, error.message, c.var.requestId)
    return problemOf(error, c.var.requestId, context.log)
  })

  app.openapi(createRoute({ method: 'get', path: '/health', responses }), async (c) => {
    const [database, chain] = await Promise.all([
      context.database.execute('select 1').then(
        () => true,
        () => false,
      ),
      context.registry.alive().catch(() => false),
    ])
    const word = (up: boolean) => (up ? 'up' : 'down')
    return c.json({
      status: database && chain ? 'ok' : 'degraded',
      database: word(database),
      chain: word(chain),
    }) as never
  })
  app.openapi(
    createRoute({ method: 'get', path: '/v1/network', responses }),
    (c) =>
      c.json({
        chainId: settings.CHAIN_ID,
        escrow: settings.ESCROW,
        registry: settings.REGISTRY,
        policy: settings.POLICY,
        attestedInference: settings.ATTESTED_INFERENCE,
        token: settings.TOKEN,
        stake: settings.STAKE ?? null,
        feeBps: settings.FEE_BPS,
        developmentRoots: context.roots.some(({ kind }) => kind === 'development'),
      }) as never,
  )
  app.route('/', modelRoutes(context))
  app.route('/', runnerRoutes(context))
  app.route('/', accountRoutes(context))
  app.route('/', matchRoutes(context))
  app.route('/', receiptRoutes(context))
  app.route('/', jobRoutes(context))
  app.doc31('/openapi.json', { openapi: '3.1.0', info: { title: 'Assay edge', version: '1' } })
  return app
}
