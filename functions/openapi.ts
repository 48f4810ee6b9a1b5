import { z } from 'zod'
import { statusOf } from './errors.ts'
import { FindMatch, PublishModel, RegisterRunner } from './routes/schemas.ts'

type Operation = {
  method: string
  path: string
  summary: string
  body?: z.ZodType
  binary?: boolean
  answers: Record<number, string>
}

/** Lists every door of the edge; a test holds it against the routes the app really has. */
export const operations: readonly Operation[] = [
  {
    method: 'get',
    path: '/health',
    summary: 'Tells whether the edge and what it stands on are up.',
    answers: { 200: 'state of each dependency', 503: 'a dependency is down' },
  },
  { method: 'get', path: '/openapi.json', summary: 'Gives this document.', answers: { 200: 'OpenAPI 3.1' } },
  {
    method: 'get',
    path: '/v1/network',
    summary: 'Names the chain and contracts that signatures are bound to.',
    answers: { 200: 'network' },
  },
  {
    method: 'put',
    path: '/v1/artifacts/{sha256}',
    summary: 'Stores bytes under their SHA-256.',
    binary: true,
    answers: { 200: 'already there', 201: 'stored', 422: 'other bytes' },
  },
  {
    method: 'get',
    path: '/v1/artifacts/{sha256}',
    summary: 'Gives the bytes of an artifact.',
    answers: { 200: 'bytes', 404: 'unknown' },
  },
  {
    method: 'post',
    path: '/v1/models',
    summary: 'Lists a model under a signed listing.',
    body: PublishModel,
    answers: { 201: 'the model', 409: 'nonce too low', 422: 'why not' },
  },
  { method: 'get', path: '/v1/models', summary: 'Lists models, newest first.', answers: { 200: 'a page' } },
  {
    method: 'get',
    path: '/v1/models/{digest}',
    summary: 'Gives one version of a model.',
    answers: { 200: 'the model', 404: 'unknown' },
  },
  {
    method: 'get',
    path: '/v1/models/{owner}/{name}',
    summary: "Gives the newest version of a publisher's model.",
    answers: { 200: 'the model', 404: 'unknown' },
  },
  {
    method: 'post',
    path: '/v1/runners',
    summary: 'Registers a runner on its evidence.',
    body: RegisterRunner,
    answers: { 201: 'verdict', 422: 'why not' },
  },
  { method: 'get', path: '/v1/runners', summary: 'Lists runners.', answers: { 200: 'a page' } },
  {
    method: 'get',
    path: '/v1/runners/{signer}',
    summary: 'Gives one runner.',
    answers: { 200: 'the runner', 404: 'unknown' },
  },
  {
    method: 'get',
    path: '/v1/runners/{signer}/evidence',
    summary: 'Gives all that is needed to verify a runner again.',
    answers: { 200: 'evidence', 404: 'unknown' },
  },
  {
    method: 'get',
    path: '/v1/runners/{signer}/socket',
    summary: "Opens a runner's mailbox socket.",
    answers: { 101: 'switching', 401: 'not its key' },
  },
  {
    method: 'post',
    path: '/v1/runners/{signer}/jobs',
    summary: 'Relays one sealed job and answers with its receipt.',
    binary: true,
    answers: { 200: 'JobAnswer frame', 402: 'not covered', 503: 'try another' },
  },
  {
    method: 'post',
    path: '/v1/matches',
    summary: 'Finds a runner for a model.',
    body: FindMatch,
    answers: { 200: 'a match', 404: 'none, with reasons', 503: 'directory down' },
  },
  {
    method: 'get',
    path: '/v1/channels/{channel}/receipts',
    summary: 'Lists receipts relayed for a channel.',
    answers: { 200: 'a page' },
  },
]

/** Builds the OpenAPI 3.1 document from the same schemas that check requests. */
export function openApiDocument(): object {
  const paths: Record<string, Record<string, object>> = {}
  for (const { method, path, summary, body, binary, answers } of operations) {
    const parameters = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
      name,
      in: 'path',
      required: true,
      schema: { type: 'string' },
    }))
    const responses = Object.fromEntries(
      Object.entries(answers).map(([status, description]) => [
        status,
        Number(status) >= 400
          ? {
              description,
              content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
            }
          : { description },
      ]),
    )
    const content = body
      ? { 'application/json': { schema: z.toJSONSchema(body, { io: 'input' }) } }
      : binary
        ? { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } }
        : null
    paths[path] ??= {}
    paths[path][method] = {
      summary,
      parameters,
      responses,
      ...(content ? { requestBody: { required: true, content } } : {}),
    }
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Assay edge', version: '1', description: 'A marketplace for AI inference that proves itself.' },
    paths,
    components: {
      schemas: {
        Problem: {
          type: 'object',
          required: ['type', 'title', 'status', 'code', 'detail', 'requestId'],
          properties: {
            type: { type: 'string' },
            title: { type: 'string' },
            status: { type: 'integer' },
            code: { type: 'string', enum: Object.keys(statusOf) },
            detail: { type: 'string' },
            hint: { type: 'string' },
            requestId: { type: 'string' },
          },
        },
      },
    },
  }
}
