import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { neon } from '@neondatabase/serverless'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { migrate, startEdge } from '../../dev/edge.ts'
import { startNeon } from '../../dev/neon.ts'
import { startPostgres } from '../../dev/postgres.ts'
import { type Hex, toBase64, toHex, utf8 } from '../../protocol/bytes.ts'
import {
  decodeFrame,
  encodeHello,
  encodeJobRefusal,
  encodeJobRequest,
  joinFrames,
  splitFrames,
} from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { connectDigest } from '../../protocol/registration.ts'
import { createSigner } from '../../protocol/secp256k1.ts'

const contract = `0x${'5e'.repeat(20)}` as Hex
const domain = { chainId: 31_337, escrow: contract }
const signer = createSigner(sha256(utf8('test key: runner')))
const stranger = createSigner(sha256(utf8('test key: stranger')))
const model = `0x${'a1'.repeat(32)}`
const disposers: (() => Promise<unknown>)[] = []
let url: string
let neonUrl: string
let databaseUrl: string

beforeAll(async () => {
  const stateDir = await mkdtemp(join(tmpdir(), 'assay-edge-'))
  disposers.push(() => rm(stateDir, { recursive: true, force: true }))
  const postgres = await startPostgres({ stateDir })
  disposers.push(postgres.dispose)
  databaseUrl = postgres.url
  await migrate(databaseUrl)
  await migrate(databaseUrl)
  const database = await startNeon({ databaseUrl })
  disposers.push(database.dispose)
  neonUrl = database.url
  const nobody = 'http://127.0.0.1:1'
  const edge = await startEdge({
    stateDir,
    vars: {
      DATABASE_URL: databaseUrl,
      DATABASE_ENDPOINT: neonUrl,
      RPC_URL: nobody,
      CHAIN_ID: '31337',
      ESCROW: contract,
      REGISTRY: contract,
      POLICY: contract,
      ATTESTED_INFERENCE: contract,
      TOKEN: contract,
      FEE_BPS: '100',
      COLLATERAL_URL: nobody,
    },
  })
  disposers.push(edge.dispose)
  url = edge.url
  const client = new pg.Client({ connectionString: databaseUrl })
  await client.connect()
  await client.query(
    `INSERT INTO runners (signer, provider, hpke_key, statement, evidence, collateral, registration, verdict, evidence_digest, verified_at, valid_until)
     VALUES ($1, $1, '0x', '0x', '{}', '{}', '{}', '{}', '0x', 0, 9999999999)`,
    [signer.address],
  )
  await client.end()
}, 60_000)
afterAll(async () => {
  for (const dispose of disposers.reverse()) await dispose()
}, 30_000)

async function open(by = signer, at = Math.floor(Date.now() / 1000)): Promise<WebSocket> {
  const signature = toHex(await by.sign(connectDigest(domain, { runner: signer.address, at: BigInt(at) })))
  const proof = JSON.stringify({ runner: signer.address, at: String(at), signature })
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/runners/${signer.address}/socket`, {
    headers: { authorization: `Assay ${toBase64(utf8(proof))}` },
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve)
    socket.once('unexpected-response', (_, response) => reject(new Error(String(response.statusCode))))
    socket.once('error', reject)
  })
  return socket
}

const ask = async (job: bigint, body: string) => {
  const frame = encodeJobRequest({
    ticket: 0,
    channel: new Uint8Array(32).fill(7),
    job,
    context: new Uint8Array(8),
    deadlineMs: 5_000,
    body: utf8(body),
  } as Parameters<typeof encodeJobRequest>[0])
  const response = await fetch(`${url}/v1/runners/${signer.address}/jobs`, { method: 'POST', body: frame })
  return { status: response.status, code: ((await response.json()) as { code: string }).code }
}

describe('the mailbox', () => {
  test('a job for a runner that is not connected is refused, retryable', async () => {
    expect(await ask(1n, 'x')).toEqual({ status: 503, code: 'runner_unreachable' })
  })

  test('a socket signed by another key, or long ago, is refused', async () => {
    await expect(open(stranger)).rejects.toThrow('401')
    await expect(open(signer, Math.floor(Date.now() / 1000) - 400)).rejects.toThrow('401')
  })

  test('relays a job, gives the refusal its status, joins the same body and refuses another', async () => {
    const socket = await open()
    let seen = 0
    socket.on('message', (data: Buffer) => {
      for (const bytes of splitFrames(new Uint8Array(data))) {
        const frame = decodeFrame(bytes)
        if (frame.type !== 'jobRequest') continue
        seen++
        const answer = encodeJobRefusal({ ticket: frame.ticket, reason: 'unfunded', detail: 'no deposit' })
        setTimeout(() => socket.send(joinFrames([answer])), 300)
      }
    })
    socket.send(joinFrames([encodeHello({ models: [model], capacity: 4 })]))
    const answers = await Promise.all([ask(2n, 'same'), ask(2n, 'same'), ask(2n, 'other')])
    expect(answers.map(({ code }) => code).filter((code) => code === 'job_conflict').length).toBeGreaterThan(0)
    expect(seen).toBe(1)
    const shown = (await (await fetch(`${url}/v1/runners/${signer.address}`)).json()) as Record<string, unknown>
    expect(shown).toMatchObject({ online: true, models: [model], capacity: 4 })

    const lost = ask(3n, 'x')
    socket.removeAllListeners('message')
    await new Promise((resolve) => setTimeout(resolve, 200))
    const newer = await open()
    expect(await lost).toEqual({ status: 503, code: 'runner_unreachable' })
    newer.close()
  }, 20_000)
})

describe('the edge', () => {
  test('refuses bytes under another digest and keeps them under their own', async () => {
    const put = (digest: string) => fetch(`${url}/v1/artifacts/${digest}`, { method: 'PUT', body: 'abc' })
    const own = toHex(sha256(utf8('abc'))).slice(2)
    expect((await put('00'.repeat(32))).status).toBe(422)
    expect((await put(own)).status).toBe(201)
    expect((await put(own)).status).toBe(200)
    expect(await (await fetch(`${url}/v1/artifacts/${own}`)).text()).toBe('abc')
  })

  test('refuses members it does not know', async () => {
    const response = await fetch(`${url}/v1/matches`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model, colour: 'red' }),
    })
    expect(response.status).toBe(400)
  })
})

describe('limits', () => {
  test('refuses JSON beyond a mebibyte', async () => {
    const response = await fetch(`${url}/v1/matches`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model, colour: 'r'.repeat(1_100_000) }),
    })
    expect(response.status).toBe(413)
  })
})

describe('the local Neon endpoint', () => {
  test('answers the Neon driver: types, transactions and errors', async () => {
    const { neonConfig } = await import('@neondatabase/serverless')
    neonConfig.fetchEndpoint = neonUrl
    const sql = neon(databaseUrl)
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
