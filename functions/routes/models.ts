import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from '../context.ts'
import { getArtifact, maxArtifactBytes, putArtifact } from '../services/artifacts.ts'
import { getModelByDigest, getModelByName, listModels, publishModel } from '../services/models.ts'
import { type App, createRouter, json, readBody, responses } from './router.ts'
import { Address, Digest, Page, Publish, pageOf, Sha256, Text } from './schemas.ts'

/** Opens the doors of artifacts and models. */
export function modelRoutes(context: Context): OpenAPIHono<App> {
  const artifact = { params: z.object({ sha256: Sha256 }) }
  return createRouter()
    .openapi(
      createRoute({ method: 'put', path: '/v1/artifacts/{sha256}', request: artifact, responses }),
      async (c) => {
        const { sha256 } = c.req.valid('param')
        const body = await readBody(c.req.raw, maxArtifactBytes)
        const { created } = await putArtifact(context, sha256, body)
        return c.json({ sha256, size: body.byteLength }, created ? 201 : 200) as never
      },
    )
    .openapi(
      createRoute({ method: 'get', path: '/v1/artifacts/{sha256}', request: artifact, responses }),
      async (c) => {
        const object = await getArtifact(context, c.req.valid('param').sha256)
        return c.body(object.body as unknown as ReadableStream, 200, {
          'content-type': 'application/octet-stream',
          'cache-control': 'public, max-age=31536000, immutable',
        }) as never
      },
    )
    .openapi(
      createRoute({ method: 'post', path: '/v1/models', request: { body: json(Publish) }, responses }),
      async (c) => c.json(await publishModel(context, c.req.valid('json')), 201) as never,
    )
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/models',
        request: { query: Page.extend({ name: Text(200).optional() }) },
        responses,
      }),
      async (c) => c.json(await listModels(context, pageOf(c.req.valid('query')))) as never,
    )
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/models/{digest}',
        request: { params: z.object({ digest: Digest }) },
        responses,
      }),
      async (c) => c.json(await getModelByDigest(context, c.req.valid('param').digest)) as never,
    )
    .openapi(
      createRoute({
        method: 'get',
        path: '/v1/models/{owner}/{name}',
        request: { params: z.object({ owner: Address, name: Text(200) }) },
        responses,
      }),
      async (c) => {
        const { owner, name } = c.req.valid('param')
        return c.json(await getModelByName(context, owner, name)) as never
      },
    ) as unknown as OpenAPIHono<App>
}
