import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import pg from 'pg'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Applies the migrations a database has not had yet, each in one transaction. */
export async function migrate(databaseUrl: string): Promise<void> {
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const { migrate: apply } = await import('drizzle-orm/node-postgres/migrator')
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1 })
  try {
    await apply(drizzle({ client: pool }), { migrationsFolder: join(root, 'migrations') })
  } finally {
    await pool.end()
  }
}

/** Bundles a Worker's entry as wrangler does: one module for workerd. */
export async function bundleEdge(entry = 'functions/index.development.ts'): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [join(root, entry)],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
    external: ['node:*', 'cloudflare:*'],
    logLevel: 'error',
  })
  return outputFiles[0]!.text
}

/** Starts the edge in workerd at 127.0.0.1, its objects and artifacts kept under `stateDir`; `vars` are the Worker's settings. */
export async function startEdge({
  stateDir,
  port = 0,
  vars,
}: {
  stateDir: string
  port?: number
  vars: Record<string, string>
}): Promise<{
  url: string
  /** Does what the Worker does when its clock says so; `cron` as in wrangler.toml. Throws when that fails. */
  tick(cron: string): Promise<void>
  dispose: () => Promise<void>
}> {
  const toml = await readFile(join(root, 'wrangler.toml'), 'utf8')
  const options = convertV4MiniflareOptions({
    modules: [{ type: 'ESModule', path: 'index.js', contents: await bundleEdge() }],
    compatibilityDate: /compatibility_date = "([^"]+)"/.exec(toml)![1]!,
    compatibilityFlags: ['nodejs_compat'],
    bindings: vars,
    durableObjects: {
      MAILBOX: { className: 'Mailbox', useSQLite: true },
      ACCOUNT: { className: 'Account', useSQLite: true },
    },
    r2Buckets: ['ARTIFACTS'],
    resourcePersistencePath: join(stateDir, 'edge'),
    host: '127.0.0.1',
    port,
    cf: false,
    logRequests: false,
    telemetry: { enabled: false },
  })
  const miniflare = new Miniflare(options)
  const url = await miniflare.ready
  return {
    url: url.origin,
    async tick(cron) {
      const { outcome } = await (await miniflare.getWorker()).scheduled({ cron })
      if (outcome !== 'ok') throw new Error(`The clock's work ended with ${outcome}.`)
    },
    dispose: () => miniflare.dispose(),
  }
}
