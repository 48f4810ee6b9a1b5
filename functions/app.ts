import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { bodyLimit } from 'hono/body-limit'
import { cors } from 'hono/cors'
import type { Hex } from '../protocol/bytes.ts'
import type { Context } from './context.ts'
import { AssayError, problem } from './errors.ts'
import { getArtifact, maxArtifactBytes, putArtifact } from './services/artifacts.ts'
import { authorizeSocket } from './services/connect.ts'
import { matchRunner, noteLoad } from './services/match.ts'
import { getModelByDigest, getModelByName, listModels, publishModel } from './services/models.ts'
import { listReceipts } from './services/receipts.ts'
import { getEvidence, getRunner, listRunners, registerRunner } from './services/runners.ts'

type App = { Variables: { requestId: string } }

/** Largest job frame taken, in bytes: a Durable Object takes messages up to 32 MiB. */
const maxJobBytes = 24 * 1024 * 1024
const maxJsonBytes = 1024 * 1024

const address = z
  .string()
  .regex(/^0x[0-9a-fA-F]{40}$/)
  .transform((text) => text.toLowerCase() as Hex)
const digest = z
  .string()
  .regex(/^0x[0-9a-f]{64}$/)
  .transform((text) => text as Hex)
const signature = z
  .string()
  .regex(/^0x[0-9a-f]{130}$/)
  .transform((text) => text as Hex)
const bytes = z
  .string()
  .regex(/^0x([0-9a-fA-F]{2})+$/)
  .max(1_000)
  .transform((text) => text as Hex)
const amount = z.string().regex(/^(0|[1-9][0-9]{0,38})$/)
const uint64 = z.string().regex(/^(0|[1-9][0-9]{0,18})$/)
const page = z.object({
  cursor: z.string().max(64).optional(),
  limit: z.coerce.number().int().min(1).max(100).default(50),
})
const position = (cursor: string | undefined) => {
  if (cursor === undefined) return undefined
  if (!/^[0-9]{1,15}$/.test(cursor)) throw new AssayError('invalid_request', 'The cursor is not one of ours.')
  return Number(cursor)
}

const Listing = z.strictObject({
  model: digest,
  publisher: address,
  payout: address,
  price: amount,
  royaltyBps: z.number().int().min(0).max(10_000),
  unit: z.string().max(64),
  validUntil: uint64,
  nonce: uint64,
})
const Publish = z.strictObject({
  manifest: z.record(z.string(), z.unknown()),
  listing: Listing,
  signature,
  card: z.string().max(64_000).default(''),
})
const Register = z.looseObject({
  statement: bytes,
  evidence: z.record(z.string(), z.unknown()),
  registration: z.strictObject({ provider: address, signature }),
})
const MatchBody = z.strictObject({
  model: digest,
  requirements: z
    .strictObject({
      tee: z.string().max(32).optional(),
      maxPrice: amount.optional(),
      measurement: z.string().max(128).optional(),
      maxAttestationAgeSeconds: z.number().int().min(0).optional(),
      exclude: z.array(address).max(1_000).optional(),
    })
    .default({}),
})

const json = <T extends z.ZodType>(schema: T) => ({
  required: true as const,
  content: { 'application/json': { schema } },
})
const responses = { default: { description: 'The answer of docs/http.md, or an RFC 9457 problem' } }
// Answers of other media types than JSON are passed through as they are.
const passed = (response: unknown) => response as never

/** Reads a body of at most `limit` bytes. Throws `payload_too_large` as soon as it is longer. */
async function readBody(request: Request, limit: number): Promise<ArrayBuffer> {
  const tooLarge = () => new AssayError('payload_too_large', `A body here has at most ${limit} bytes.`)
  if (Number(request.headers.get('content-length') ?? 0) > limit) throw tooLarge()
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  const reader = request.body?.getReader()
  for (let read = await reader?.read(); read && !read.done; read = await reader!.read()) {
    size += read.value.length
    if (size > limit) throw tooLarge()
    chunks.push(read.value as Uint8Array<ArrayBuffer>)
  }
  return new Blob(chunks).arrayBuffer()
}

/** Builds the edge's HTTP interface. */
export function createApp(context: Context) {
  const { settings, mailbox } = context
  const app = new OpenAPIHono<App>({
    defaultHook: (result) => {
      if (result.success) return
      const text = result.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ')
      throw new AssayError('invalid_request', text, { hint: 'See /openapi.json for what is expected.' })
    },
  })
  app.use(cors({ origin: '*', exposeHeaders: ['x-request-id', 'assay-load'] }))
  app.use(async (c, next) => {
    c.set('requestId', crypto.randomUUID())
    await next()
    // The response of an upgrade is the socket itself and stays as it is.
    if (c.res.status === 101) return
    c.header('x-request-id', c.var.requestId)
    c.header('x-content-type-options', 'nosniff')
    c.header('referrer-policy', 'no-referrer')
  })
  const limited = bodyLimit({
    maxSize: maxJsonBytes,
    onError: () => {
      throw new AssayError('payload_too_large', `JSON here has at most ${maxJsonBytes} bytes.`)
    },
  })
  for (const path of ['/v1/models', '/v1/runners', '/v1/matches']) app.use(path, limited)
  app.notFound((c) =>
    problem('not_found', `There is no ${c.req.method} ${c.req.path}.`, c.var.requestId, 'See /openapi.json.'),
  )
  app.onError((error, c) => {
    if (error instanceof AssayError) return problem(error.code, error.message, c.var.requestId, error.hint, error.extra)
    if ('status' in error && error.status === 400) return problem('invalid_request', error.message, c.var.requestId)
    context.log('defect', { requestId: c.var.requestId, error: error.name })
    return problem('internal', 'The edge failed.', c.var.requestId, 'Report the request id.')
  })

  app.get('/health', async (c) => {
    const [database, chain] = await Promise.all([
      context.database.execute('select 1').then(
        () => true,
        () => false,
      ),
      context.registry.alive().catch(() => false),
    ])
    const word = (up: boolean) => (up ? 'up' : 'down')
    return c.json({ status: database && chain ? 'ok' : 'degraded', database: word(database), chain: word(chain) })
  })
  app.get('/v1/network', (c) =>
    c.json({
      chainId: settings.CHAIN_ID,
      escrow: settings.ESCROW,
      registry: settings.REGISTRY,
      policy: settings.POLICY,
      attestedInference: settings.ATTESTED_INFERENCE,
      token: settings.TOKEN,
      feeBps: settings.FEE_BPS,
      developmentRoots: context.roots.some(({ kind }) => kind === 'development'),
    }),
  )

  const artifactParams = z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/) })
  app.openapi(
    createRoute({ method: 'put', path: '/v1/artifacts/{sha256}', request: { params: artifactParams }, responses }),
    async (c) => {
      const { sha256 } = c.req.valid('param')
      const body = await readBody(c.req.raw, maxArtifactBytes)
      const { created } = await putArtifact(context, sha256, body)
      return c.json({ sha256, size: body.byteLength }, created ? 201 : 200)
    },
  )
  app.openapi(
    createRoute({ method: 'get', path: '/v1/artifacts/{sha256}', request: { params: artifactParams }, responses }),
    async (c) => {
      const object = await getArtifact(context, c.req.valid('param').sha256)
      return c.body(object.body as unknown as ReadableStream, 200, {
        'content-type': 'application/octet-stream',
        'cache-control': 'public, max-age=31536000, immutable',
      })
    },
  )

  app.openapi(
    createRoute({ method: 'post', path: '/v1/models', request: { body: json(Publish) }, responses }),
    async (c) => c.json(await publishModel(context, c.req.valid('json')), 201),
  )
  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/models',
      request: { query: page.extend({ name: z.string().max(200).optional() }) },
      responses,
    }),
    async (c) => {
      const { cursor, ...rest } = c.req.valid('query')
      return c.json(await listModels(context, { ...rest, cursor: position(cursor) }))
    },
  )
  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/models/{digest}',
      request: { params: z.object({ digest }) },
      responses,
    }),
    async (c) => c.json(await getModelByDigest(context, c.req.valid('param').digest)),
  )
  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/models/{owner}/{name}',
      request: { params: z.object({ owner: address, name: z.string().max(200) }) },
      responses,
    }),
    async (c) => {
      const { owner, name } = c.req.valid('param')
      return c.json(await getModelByName(context, owner, name))
    },
  )

  app.openapi(
    createRoute({ method: 'post', path: '/v1/runners', request: { body: json(Register) }, responses }),
    async (c) => c.json(await registerRunner(context, c.req.valid('json')), 201),
  )
  app.openapi(createRoute({ method: 'get', path: '/v1/runners', request: { query: page }, responses }), async (c) =>
    c.json(await listRunners(context, c.req.valid('query'))),
  )
  const runnerParams = z.object({ signer: address })
  app.openapi(
    createRoute({ method: 'get', path: '/v1/runners/{signer}', request: { params: runnerParams }, responses }),
    async (c) => c.json(await getRunner(context, c.req.valid('param').signer)),
  )
  app.openapi(
    createRoute({ method: 'get', path: '/v1/runners/{signer}/evidence', request: { params: runnerParams }, responses }),
    async (c) => c.json(await getEvidence(context, c.req.valid('param').signer)),
  )
  app.openapi(
    createRoute({ method: 'post', path: '/v1/matches', request: { body: json(MatchBody) }, responses }),
    async (c) => c.json(await matchRunner(context, c.req.valid('json'))),
  )
  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/channels/{channel}/receipts',
      request: { params: z.object({ channel: digest }), query: page },
      responses,
    }),
    async (c) => {
      const { cursor, limit } = c.req.valid('query')
      return c.json(await listReceipts(context, c.req.valid('param').channel, { cursor: position(cursor), limit }))
    },
  )

  const stubOf = (signer: string) => mailbox.get(mailbox.idFromName(signer))
  app.openapi(
    createRoute({ method: 'post', path: '/v1/runners/{signer}/jobs', request: { params: runnerParams }, responses }),
    async (c) => {
      const { signer } = c.req.valid('param')
      const body = await readBody(c.req.raw, maxJobBytes)
      const response = await stubOf(signer).fetch('https://mailbox/jobs', {
        method: 'POST',
        headers: { 'x-request-id': c.var.requestId },
        body,
      })
      const load = response.headers.get('assay-load')
      if (load) noteLoad(context, signer, Number(load))
      return passed(
        new Response(response.body as unknown as ReadableStream, {
          status: response.status,
          headers: [...response.headers] as [string, string][],
        }),
      )
    },
  )
  app.openapi(
    createRoute({ method: 'get', path: '/v1/runners/{signer}/socket', request: { params: runnerParams }, responses }),
    async (c) => {
      const { signer } = c.req.valid('param')
      if (c.req.header('upgrade')?.toLowerCase() !== 'websocket') {
        throw new AssayError('invalid_request', 'This address takes WebSocket upgrades only.')
      }
      await authorizeSocket(context, signer, c.req.header('authorization'))
      const response = await stubOf(signer).fetch(`https://mailbox/socket?runner=${signer}`, {
        headers: { upgrade: 'websocket' },
      })
      return passed(response)
    },
  )

  app.doc31('/openapi.json', { openapi: '3.1.0', info: { title: 'Assay edge', version: '1' } })
  return app
}
