import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { migrate, startEdge } from '../../dev/edge.ts'
import { startNeon } from '../../dev/neon.ts'
import { startPostgres } from '../../dev/postgres.ts'
import { type Hex, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { createSigner, type Signer } from '../../protocol/secp256k1.ts'

const contract = `0x${'5e'.repeat(20)}` as Hex
/** What signatures are bound to in these tests. */
export const domain = { chainId: 31_337, escrow: contract }
/** A model's digest; the model itself is never looked at. */
export const model = `0x${'a1'.repeat(32)}` as Hex
/** Gives an obviously fake key by name. */
export const keyOf = (name: string): Signer => createSigner(sha256(utf8(`test key: ${name}`)))

/** An edge in workerd over a real PostgreSQL, with nothing behind its chain and collateral addresses. */
export type TestEdge = {
  url: string
  databaseUrl: string
  neonUrl: string
  sql<T extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<T[]>
  /** Puts a runner into the directory as if it had registered. */
  addRunner(signer: Hex, verdict?: object): Promise<void>
  restart(): Promise<void>
  stopDatabase(): Promise<void>
  startDatabase(): Promise<void>
  dispose(): Promise<void>
}

/** Starts an edge for tests. */
export async function openEdge(vars: Record<string, string> = {}): Promise<TestEdge> {
  const stateDir = await mkdtemp(join(tmpdir(), 'assay-edge-'))
  const postgres = await startPostgres({ stateDir })
  await migrate(postgres.url)
  let neon = await startNeon({ databaseUrl: postgres.url })
  const { port } = new URL(neon.url)
  const nobody = 'http://127.0.0.1:1'
  const start = () =>
    startEdge({
      stateDir,
      vars: {
        DATABASE_URL: postgres.url,
        DATABASE_ENDPOINT: neon.url,
        RPC_URL: nobody,
        CHAIN_ID: '31337',
        ESCROW: contract,
        REGISTRY: contract,
        POLICY: contract,
        ATTESTED_INFERENCE: contract,
        TOKEN: contract,
        FEE_BPS: '100',
        COLLATERAL_URL: nobody,
        LOCAL_WEBHOOKS: 'yes',
        // Most tests' channels are made up, and no chain knows them.
        CREDIT_LEASES: 'no',
        ...vars,
      },
    })
  let edge = await start()
  const pool = new pg.Pool({ connectionString: postgres.url, max: 2 })
  // An idle connection whose server is stopped before it.
  pool.on('error', () => {})
  const it: TestEdge = {
    url: edge.url,
    databaseUrl: postgres.url,
    neonUrl: neon.url,
    sql: async <T extends pg.QueryResultRow>(text: string, values: unknown[] = []) =>
      (await pool.query<T>(text, values)).rows,
    async addRunner(signer, verdict = {}) {
      await pool.query(
        `INSERT INTO runners (signer, provider, hpke_key, statement, evidence, collateral, registration, verdict, evidence_digest, verified_at, valid_until)
         VALUES ($1, $1, '0x', '0x', '{}', '{}', '{}', $2, '0x', 0, 9999999999)`,
        [signer, JSON.stringify(verdict)],
      )
    },
    async restart() {
      await edge.dispose()
      edge = await start()
      it.url = edge.url
    },
    stopDatabase: () => neon.dispose(),
    async startDatabase() {
      neon = await startNeon({ databaseUrl: postgres.url, port: Number(port) })
    },
    async dispose() {
      await edge.dispose()
      await pool.end()
      await neon.dispose()
      await postgres.dispose()
      await rm(stateDir, { recursive: true, force: true })
    },
  }
  return it
}

/** Waits until a condition holds; throws after ten seconds. */
export async function until<T>(look: () => Promise<T | null | undefined | false>): Promise<T> {
  for (let left = 200; left > 0; left--) {
    const seen = await look()
    if (seen) return seen
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('It did not happen within ten seconds.')
}
