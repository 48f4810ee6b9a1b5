import { neon } from '@neondatabase/serverless'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { migrate } from '../../dev/edge.ts'
import { toHex, utf8 } from '../../protocol/bytes.ts'
import { encodeLoad } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { openRunner } from './fakeRunner.ts'

const signer = keyOf('runner')
let edge: TestEdge
beforeAll(async () => {
  edge = await openEdge()
  await edge.addRunner(signer.address)
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

const post = async (path: string, body: unknown) => {
  const response = await fetch(`${edge.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

describe('sockets', () => {
  const open = (by = signer, at = Math.floor(Date.now() / 1000)) =>
    openRunner({ url: edge.url, domain, runner: signer.address, by, at })
  test('attack: a socket signed by another key, or long ago, is refused', async () => {
    await expect(open(keyOf('stranger'))).rejects.toThrow('401')
    await expect(open(signer, Math.floor(Date.now() / 1000) - 400)).rejects.toThrow('401')
  })
  test('refusal: a plain request where a socket belongs', async () => {
    expect((await fetch(`${edge.url}/v1/runners/${signer.address}/socket`)).status).toBe(400)
  })
})

describe('matches', () => {
  const listing = {
    model,
    publisher: signer.address,
    payout: signer.address,
    price: '1000',
    royaltyBps: 100,
    unit: 'job',
    validUntil: '9999999999',
    nonce: '1',
  }
  const addModel = (digest: string, over: object = {}) =>
    edge.sql(
      `INSERT INTO models (digest, owner, name, version, manifest, listing, signature) VALUES ($1, 'o', $1, '1', '{}', $2, '0x')`,
      [digest, JSON.stringify({ ...listing, ...over })],
    )
  const verdict = (over: object = {}) => ({
    tee: 'tdx',
    tcbStatus: 'UpToDate',
    measurement: { workload: `0x${'cc'.repeat(32)}` },
    claims: [],
    ...over,
  })

  test('behavior: finds, filters, explains; answers while the database is away', async () => {
    const machine = keyOf('machine')
    await addModel(model)
    expect(await post('/v1/matches', { model })).toMatchObject({
      status: 404,
      body: { code: 'no_match', reasons: [], runners: 0 },
    })
    await edge.addRunner(machine.address, verdict())
    const hello = { models: [model], capacity: 4, region: 'eu-west' }
    const fake = await openRunner({ url: edge.url, domain, runner: machine.address, by: machine, hello })
    const found = await until(async () => {
      const answer = await post('/v1/matches', { model })
      return answer.status === 200 && answer
    })
    expect(found.body).toMatchObject({
      runner: { signer: machine.address },
      model: { digest: model, price: '1000', royaltyBps: 100, payout: signer.address },
      feeBps: 100,
    })
    const ask = async (requirements: object) => (await post('/v1/matches', { model, requirements })).body
    const good = {
      tee: 'tdx',
      tcbStatus: 'UpToDate',
      region: 'eu-west',
      measurement: `0x${'cc'.repeat(32)}`,
      maxPrice: '1000',
    }
    expect(await ask(good)).toMatchObject({ runner: { signer: machine.address } })
    expect(await ask({ ...good, gpuAttested: true, region: 'us-east' })).toMatchObject({
      code: 'no_match',
      reasons: [
        { reason: 'gpu', count: 1 },
        { reason: 'region', count: 1 },
      ],
      nearest: { signer: machine.address, misses: [{ reason: 'gpu' }, { reason: 'region', has: 'eu-west' }] },
    })
    expect(await ask({ maxPrice: '999' })).toMatchObject({
      code: 'no_match',
      reasons: [{ reason: 'price', count: 1 }],
      nearest: { price: '1000' },
    })
    expect(await ask({ exclude: [machine.address] })).toMatchObject({ reasons: [{ reason: 'excluded', count: 1 }] })

    await edge.stopDatabase()
    await new Promise((resolve) => setTimeout(resolve, 2_200))
    expect(await ask(good)).toMatchObject({ runner: { signer: machine.address } })
    expect((await post('/v1/matches', { model: `0x${'dd'.repeat(32)}` })).status).toBe(503)
    await edge.startDatabase()
    await fake.close()
  }, 20_000)

  test('behavior: mailboxes are asked before a runner is recommended: the loaded one seldom, the one that is away never', async () => {
    const spread = `0x${'e4'.repeat(32)}`
    await addModel(spread)
    const [loaded, idle, away] = ['loaded', 'idle', 'away'].map(keyOf) as [Signer, Signer, Signer]
    const hello = { models: [spread], capacity: 100 }
    const fakes = await Promise.all(
      [loaded, idle].map(async (by) => {
        await edge.addRunner(by.address, verdict())
        return openRunner({ url: edge.url, domain, runner: by.address, by, hello })
      }),
    )
    fakes[0]!.send(encodeLoad({ queued: 90, capacity: 100 }))
    await edge.addRunner(away.address, verdict())
    await edge.sql('UPDATE runners SET online = true, models = $2, capacity = 100 WHERE signer = $1', [
      away.address,
      JSON.stringify([spread]),
    ])
    await until(
      async () =>
        (await edge.sql('SELECT 1 FROM runners WHERE models @> $1 AND online', [JSON.stringify([spread])])).length ===
        3,
    )
    const counts = new Map<string, number>()
    for (let i = 0; i < 150; i++) {
      const { runner } = (await post('/v1/matches', { model: spread })).body as { runner: { signer: string } }
      counts.set(runner.signer, (counts.get(runner.signer) ?? 0) + 1)
    }
    expect(counts.get(away.address)).toBeUndefined()
    expect(counts.get(idle.address)!).toBeGreaterThan(counts.get(loaded.address) ?? 0)
    for (const fake of fakes) await fake.close()
  })

  test('refusal: an unknown model, an expired listing, a model nobody serves', async () => {
    const [expired, unserved] = [`0x${'e1'.repeat(32)}`, `0x${'e2'.repeat(32)}`]
    await addModel(expired, { validUntil: '1' })
    await addModel(unserved)
    const busy = keyOf('serves something else')
    await edge.addRunner(busy.address, verdict())
    await edge.sql('UPDATE runners SET online = true WHERE signer = $1', [busy.address])
    expect(await post('/v1/matches', { model: `0x${'e3'.repeat(32)}` })).toMatchObject({
      status: 404,
      body: { code: 'not_found' },
    })
    expect((await post('/v1/matches', { model: expired })).body).toMatchObject({
      reasons: [{ reason: 'listing_expired' }],
    })
    const { reasons } = (await post('/v1/matches', { model: unserved })).body as {
      reasons: { reason: string; count: number }[]
    }
    expect(reasons[0]).toMatchObject({ reason: 'model_not_served' })
    expect(reasons[0]!.count).toBeGreaterThan(0)
  })
})

describe('listings', () => {
  test('attack: of two listings of one name and nonce the database keeps the first, and the highest nonce is the newest', async () => {
    const add = (digest: string, nonce: string) =>
      edge.sql(
        `INSERT INTO models (digest, owner, name, version, manifest, listing, signature) VALUES ($1, $2, 'raced', '1', '{}', $3, '0x')`,
        [digest, signer.address, JSON.stringify({ nonce })],
      )
    await add('0x01', '10')
    await expect(add('0x02', '10')).rejects.toMatchObject({ code: '23505', constraint: 'models_nonce' })
    await add('0x03', '9')
    const newest = await fetch(`${edge.url}/v1/models/${signer.address}/raced`)
    expect(await newest.json()).toMatchObject({ digest: '0x01' })
  })
  test('migrations apply twice without change', async () => {
    await migrate(edge.databaseUrl)
  })
})

describe('the edge', () => {
  test('refuses bytes under another digest and keeps them under their own', async () => {
    const put = (digest: string) => fetch(`${edge.url}/v1/artifacts/${digest}`, { method: 'PUT', body: 'abc' })
    const own = toHex(sha256(utf8('abc'))).slice(2)
    expect((await put('00'.repeat(32))).status).toBe(422)
    expect((await put(own)).status).toBe(201)
    expect((await put(own)).status).toBe(200)
    expect(await (await fetch(`${edge.url}/v1/artifacts/${own}`)).text()).toBe('abc')
  })

  test('refuses members it does not know, and JSON beyond a mebibyte', async () => {
    expect((await post('/v1/matches', { model, colour: 'red' })).status).toBe(400)
    // A connection closed while a client still writes shows it a broken pipe instead of the refusal.
    for (let again = 0; again < 10; again++) {
      const { status, body } = await post('/v1/matches', { model, colour: 'r'.repeat(8_000_000) })
      expect([status, body.code]).toEqual([413, 'payload_too_large'])
    }
  })

  test('a job beyond 24 MiB is refused in words, not by a broken pipe', async () => {
    const url = `${edge.url}/v1/runners/${signer.address}/jobs`
    const refusal = async (init: RequestInit) => {
      const response = await fetch(url, { method: 'POST', ...init })
      return [response.status, ((await response.json()) as { code: string }).code]
    }
    const body = new Uint8Array(25 * 1024 * 1024)
    expect(await refusal({ body })).toEqual([413, 'payload_too_large'])
    const streamed = { body: new Blob([body]).stream(), duplex: 'half' } as RequestInit
    expect(await refusal(streamed)).toEqual([413, 'payload_too_large'])
  })

  test('refuses what names no runner, and a frame that is none', async () => {
    expect((await fetch(`${edge.url}/v1/runners/0x12/jobs`, { method: 'POST', body: 'x' })).status).toBe(400)
    const response = await fetch(`${edge.url}/v1/runners/${signer.address}/jobs`, { method: 'POST', body: 'x' })
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([422, 'bad_frame'])
  })

  describe('attack: what is malformed is refused in words with a next step', () => {
    const refused = async (path: string, init: RequestInit = {}) => {
      const response = await fetch(`${edge.url}${path}`, init)
      const { code, hint } = (await response.json()) as Record<string, unknown>
      expect(String(hint)).toMatch(/\w{3,}.*\.$|openapi/)
      return [response.status, code]
    }
    const owner = `0x${'ab'.repeat(20)}`
    const door = (path: string) => `${path}/${'cd'.repeat(16)}`

    test.each(['/v1/models', '/v1/runners', '/v1/matches', `/v1/runners/${owner}/totals`])(
      'a body for %s that is no JSON or does not say so',
      async (path) => {
        const send = (body: string, type?: string) =>
          refused(path, { method: 'POST', body: utf8(body), headers: type ? { 'content-type': type } : {} })
        for (const type of [undefined, 'text/plain', 'multipart/form-data', 'application/json, text/plain'])
          expect(await send('{}', type)).toEqual([415, 'unsupported_media_type'])
        for (const body of ['', '{', 'null', '[]', '1e999', '"{}"', '['.repeat(100_000), '{"__proto__":{}}'])
          expect(await send(body, 'application/json')).toEqual([400, 'invalid_request'])
      },
    )

    test.each([
      '/v1/models?name=%00',
      '/v1/models?name=a%00b',
      `/v1/models?name=${'a'.repeat(201)}`,
      '/v1/models?limit=-1',
      '/v1/models?limit=99999999999999999999',
      '/v1/models?limit=1&limit=2',
      '/v1/models?cursor=-1',
      '/v1/models?cursor=9223372036854775808',
      '/v1/models/%zz',
      `/v1/models/${owner}/%00`,
      `/v1/models/${owner}/${'n'.repeat(5_000)}`,
      '/v1/runners?cursor=%00',
      '/v1/runners/-1',
      `/v1/runners/${owner}/claims?cursor=-1`,
      `/v1/runners/${owner}/jobs/-1`,
      '/v1/accounts/%',
      '/v1/channels/0x/receipts',
    ])('%s', async (path) => {
      expect(await refused(path)).toEqual([400, 'invalid_request'])
    })

    test.each([
      '//v1/models',
      '/v1/models/',
      `/v1/models/${owner}/%F0%9F%98%80`,
      `/v1/models/${owner}/%ff`,
      `/v1/runners/${owner}`,
      door(`/v1/runners/${owner}/jobs`),
      `/${'long/'.repeat(3_000)}`,
    ])('nothing is at %s', async (path) => {
      expect(await refused(path)).toEqual([404, 'not_found'])
      for (const method of ['PATCH', 'PUT', 'DELETE']) expect((await refused(path, { method }))[0]).toBe(404)
      expect((await fetch(`${edge.url}${path}`, { method: 'HEAD' })).status).toBe(404)
    })

    test('a job that breaks off is forgotten, and the next is heard', async () => {
      const aborted = new AbortController()
      const drip = new ReadableStream({
        async pull(controller) {
          controller.enqueue(utf8('x'))
          aborted.abort()
        },
      })
      const url = `${edge.url}/v1/runners/${signer.address}/jobs`
      const broken = fetch(url, { method: 'POST', body: drip, duplex: 'half', signal: aborted.signal } as RequestInit)
      await expect(broken).rejects.toThrow('abort')
      expect(await refused(`/v1/runners/${signer.address}/jobs`, { method: 'POST', body: 'x' })).toEqual([
        422,
        'bad_frame',
      ])
    })
  })

  test('openapi.json names every door and every code', async () => {
    const document = (await (await fetch(`${edge.url}/openapi.json`)).json()) as {
      openapi: string
      paths: Record<string, Record<string, unknown>>
      components: { schemas: { Problem: { properties: { code: { enum: string[] } } } } }
    }
    expect(document.openapi).toBe('3.1.0')
    const doors = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method} ${path}`),
    )
    expect(doors).toEqual(
      expect.arrayContaining([
        'get /health',
        'get /v1/network',
        'put /v1/artifacts/{sha256}',
        'post /v1/models',
        'get /v1/models/{owner}/{name}',
        'post /v1/runners',
        'get /v1/runners/{signer}/socket',
        'post /v1/matches',
        'post /v1/runners/{signer}/jobs',
        'get /v1/runners/{signer}/jobs/{id}',
        'delete /v1/runners/{signer}/jobs/{id}',
        'get /v1/runners/{signer}/jobs/{id}/result',
        'get /v1/runners/{signer}/jobs/{id}/events',
        'post /v1/runners/{signer}/jobs/{id}/webhook',
        'get /v1/channels/{channel}/receipts',
      ]),
    )
    const posted = document.paths['/v1/runners/{signer}/jobs']!.post as { requestBody: { content: object } }
    expect(Object.keys(posted.requestBody.content)).toEqual(['application/octet-stream', 'application/vnd.assay.jobs'])
    expect(document.components.schemas.Problem.properties.code.enum).toContain('at_capacity')
  })
})

describe('the local Neon endpoint', () => {
  test('answers the Neon driver: types, transactions and errors', async () => {
    const { neonConfig } = await import('@neondatabase/serverless')
    neonConfig.fetchEndpoint = edge.neonUrl
    const sql = neon(edge.databaseUrl)
    expect(await sql`SELECT 1::int AS n, '{"a":1}'::jsonb AS j, ${'x'}::text AS t`).toEqual([
      { n: 1, j: { a: 1 }, t: 'x' },
    ])
    expect(await sql.transaction([sql`SELECT 1 AS a`, sql`SELECT 2 AS b`])).toEqual([[{ a: 1 }], [{ b: 2 }]])
    await expect(sql`SELECT nothing FROM nowhere`).rejects.toMatchObject({ code: '42P01' })
    await expect(sql.transaction([sql`DELETE FROM models`], { readOnly: true })).rejects.toMatchObject({
      code: '25006',
    })
  })
})
