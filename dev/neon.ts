import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import pg from 'pg'

type Query = { query: string; params?: unknown[] }

/** Largest request taken, in bytes. */
const maxBodyBytes = 64 * 1024 * 1024
const levels: Record<string, string> = {
  ReadUncommitted: 'READ UNCOMMITTED',
  ReadCommitted: 'READ COMMITTED',
  RepeatableRead: 'REPEATABLE READ',
  Serializable: 'SERIALIZABLE',
}
/** Neon answers in PostgreSQL's text form; the driver parses it by type. */
const rawText = { getTypeParser: () => (value: unknown) => value }

async function execute(client: pg.ClientBase, { query, params = [] }: Query, arrayMode: boolean) {
  const result = await client.query({ text: query, values: params, rowMode: 'array', types: rawText as never })
  const fields = (result.fields ?? []).map(
    ({ name, tableID, columnID, dataTypeID, dataTypeSize, dataTypeModifier, format }) => ({
      name,
      tableID,
      columnID,
      dataTypeID,
      dataTypeSize,
      dataTypeModifier,
      format,
    }),
  )
  const rows = arrayMode
    ? result.rows
    : (result.rows as unknown[][]).map((row) => Object.fromEntries(row.map((value, i) => [fields[i]!.name, value])))
  return { command: result.command, rowCount: result.rowCount, rows, fields, rowAsArray: arrayMode }
}

async function answer(pool: pg.Pool, headers: IncomingHttpHeaders, body: Query | { queries: Query[] }) {
  const arrayMode = headers['neon-array-mode'] === 'true'
  const client = await pool.connect()
  let broken = false
  try {
    if (!('queries' in body)) return await execute(client, body, arrayMode)
    const level = levels[String(headers['neon-batch-isolation-level'] ?? 'ReadCommitted')] ?? 'READ COMMITTED'
    const access = headers['neon-batch-read-only'] === 'true' ? 'READ ONLY' : 'READ WRITE'
    const deferrable = headers['neon-batch-deferrable'] === 'true' ? ' DEFERRABLE' : ''
    await client.query(`BEGIN ISOLATION LEVEL ${level} ${access}${deferrable}`)
    try {
      const results = []
      for (const each of body.queries) results.push(await execute(client, each, arrayMode))
      await client.query('COMMIT')
      return { results }
    } catch (error) {
      await client.query('ROLLBACK').catch(() => {
        broken = true
      })
      throw error
    }
  } finally {
    client.release(broken)
  }
}

/** Speaks the Neon serverless driver's HTTP protocol in front of a PostgreSQL, at 127.0.0.1. */
export async function startNeon({ databaseUrl, port = 0 }: { databaseUrl: string; port?: number }) {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 10 })
  // An idle connection whose server went away; the next query reports it.
  pool.on('error', () => {})
  // One in use between two of its queries would otherwise end the process with its own end.
  pool.on('connect', (client) => client.on('error', () => {}))
  const server = createServer(async (request, response) => {
    const reply = (status: number, body: unknown) =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    if (request.method !== 'POST' || request.url !== '/sql')
      return reply(404, { message: 'POST /sql is all there is.' })
    try {
      const chunks: Buffer[] = []
      let size = 0
      for await (const chunk of request as AsyncIterable<Buffer>) {
        size += chunk.length
        if (size > maxBodyBytes) return reply(413, { message: 'The request is too large.' })
        chunks.push(chunk)
      }
      reply(200, await answer(pool, request.headers, JSON.parse(Buffer.concat(chunks).toString())))
    } catch (error) {
      if (error instanceof pg.DatabaseError) return reply(400, { ...error, message: error.message })
      reply(error instanceof SyntaxError ? 400 : 500, { message: (error as Error).message })
    }
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/sql`,
    async dispose() {
      server.closeAllConnections()
      await new Promise<void>((resolve) => server.close(() => resolve()))
      await pool.end()
    },
  }
}
