import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { bundleEdge } from '../../dev/edge.ts'
import { freePort, untilReady } from '../../dev/processes.ts'
import { domain } from '../serve/model.ts'

/** The path of workerd's own binary, which its package exports. */
const workerd = (createRequire(import.meta.url)('workerd') as { default: string }).default
/** Names the Workers that stand side by side. */
export const modes = ['hono', 'hand', 'mailbox'] as const

/** Writes workerd's configuration: the three Workers side by side in one process, without the proxy a development server puts in front. */
function configOf(ports: Record<string, number>, databaseUrl: string, stateDir: string): string {
  const nobody = 'http://127.0.0.1:1'
  const contract = domain.escrow
  const vars = {
    DATABASE_URL: 'postgres://nobody:nothing@127.0.0.1:1/none',
    DATABASE_ENDPOINT: databaseUrl,
    RPC_URL: nobody,
    CHAIN_ID: '31337',
    ESCROW: contract,
    REGISTRY: contract,
    POLICY: contract,
    ATTESTED_INFERENCE: contract,
    TOKEN: contract,
    // What a lease costs once in many jobs is not measured here.
    CREDIT_LEASES: 'no',
    FEE_BPS: '100',
    COLLATERAL_URL: nobody,
  }
  const worker = (mode: string) => `(
    modules = [(name = "index.js", esModule = embed "index.js")],
    compatibilityDate = "2026-10-01", compatibilityFlags = ["nodejs_compat"],
    bindings = [(name = "MODE", text = "${mode}"), (name = "MAILBOX", durableObjectNamespace = "Mailbox"),
      ${Object.entries(vars)
        .map(([name, text]) => `(name = "${name}", text = "${text}")`)
        .join(', ')}],
    durableObjectNamespaces = [(className = "Mailbox", uniqueKey = "${mode}", enableSql = true)],
    durableObjectStorage = (localDisk = "disk"))`
  return `using Workerd = import "/workerd/workerd.capnp";
    const config :Workerd.Config = (
      services = [(name = "internet", network = (allow = ["public", "private"])), (name = "disk", disk = (path = "${stateDir}", writable = true)),
        ${modes.map((mode) => `(name = "${mode}", worker = ${worker(mode)})`).join(', ')}],
      sockets = [${modes.map((mode) => `(name = "${mode}", address = "127.0.0.1:${ports[mode]}", http = (), service = "${mode}")`).join(', ')}]);`
}

/** Stands in for the database: takes everything, keeps nothing. What a database costs is not measured here. */
async function startSink() {
  const server = createServer((request, response) => {
    request.resume()
    request.once('end', () => response.end('{"command":"INSERT","rowCount":0,"rows":[],"fields":[],"rowAsArray":true}'))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async dispose() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** Starts workerd with the three Workers, its files under `stateDir`; gives their addresses. */
export async function startWorkerd(stateDir: string) {
  const database = await startSink()

  const ports = { hono: await freePort(), hand: await freePort(), mailbox: await freePort() }
  await writeFile(join(stateDir, 'index.js'), await bundleEdge('bench/edge/worker.ts'))
  await writeFile(join(stateDir, 'config.capnp'), configOf(ports, database.url, stateDir))
  const child = spawn(workerd, ['serve', join(stateDir, 'config.capnp'), '--experimental'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const urlOf = (mode: (typeof modes)[number]) => `http://127.0.0.1:${ports[mode]}`
  await untilReady('workerd', child, 10_000, async () => (await fetch(urlOf('hand'))) !== null)
  return {
    urlOf,
    pid: child.pid,
    /** Reads how much memory workerd holds, in MiB; 0 where the system does not tell. */
    memoryMiB(): number {
      const file = `/proc/${child.pid}/status`
      return existsSync(file) ? Number(/VmRSS:\s+(\d+)/.exec(readFileSync(file, 'utf8'))?.[1]) / 1024 : 0
    },
    async dispose() {
      const ended = once(child, 'exit')
      child.kill('SIGKILL')
      await ended
      await database.dispose()
    },
  }
}
