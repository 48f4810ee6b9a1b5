import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { WebSocket } from 'ws'
import { bundleEdge } from '../dev/edge.ts'
import { createRunnerSigner } from '../gpu-runner/signer.ts'
import { batchDigest } from '../protocol/batch.ts'
import { type Hex, utf8 } from '../protocol/bytes.ts'
import {
  decodeFrame,
  encodeHello,
  encodeJobAnswer,
  encodeJobRequest,
  type JobRequest,
  joinFrames,
  splitFrames,
} from '../protocol/frames.ts'
import { sha256 } from '../protocol/hash.ts'
import { merkleTree } from '../protocol/merkle.ts'
import { detailDigest, receiptLeaf } from '../protocol/receipt.ts'
import { load, post } from './edge/load.ts'
import type { Row } from './main.ts'

const rounds = 7
const roundMs = 1_500
const connections = 32
const loadConnections = 256
const contract = `0x${'5e'.repeat(20)}` as Hex
const domain = { chainId: 31_337, escrow: contract }
const signer = createRunnerSigner(sha256(utf8('test key: runner')))
const path = `/v1/runners/${signer.address}/jobs`

/** The path of workerd's own binary, which its package exports. */
const workerd = (createRequire(import.meta.url)('workerd') as { default: string }).default
const modes = ['hono', 'hand', 'mailbox'] as const

/** Writes workerd's configuration: the three Workers side by side in one process, without the proxy a development server puts in front. */
function configOf(ports: Record<string, number>, databaseUrl: string, stateDir: string): string {
  const nobody = 'http://127.0.0.1:1'
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

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Starts workerd with the three Workers; gives their addresses. */
async function start(stateDir: string) {
  const database = await startSink()

  const ports = { hono: await freePort(), hand: await freePort(), mailbox: await freePort() }
  await writeFile(join(stateDir, 'index.js'), await bundleEdge('bench/edge/worker.ts'))
  await writeFile(join(stateDir, 'config.capnp'), configOf(ports, database.url, stateDir))
  const child = spawn(workerd, ['serve', join(stateDir, 'config.capnp'), '--experimental'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let errors = ''
  child.stderr.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-2_000)
  })
  const urlOf = (mode: (typeof modes)[number]) => `http://127.0.0.1:${ports[mode]}`
  for (let left = 100; ; left--) {
    const up = await fetch(urlOf('hand')).then(
      () => true,
      () => false,
    )
    if (up) break
    if (left === 0 || child.exitCode !== null) throw new Error(`workerd did not start. ${errors}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return {
    urlOf,
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

/** Connects a runner that computes nothing: what is measured is the way to it and back, with receipts signed as they are. */
async function connectRunner(url: string) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/bench/socket/${signer.address}`, {
    perMessageDeflate: false,
  })
  const seen = { messages: 0, jobs: 0 }
  const detail = { input: new Uint8Array(32), output: new Uint8Array(32), execution: new Uint8Array(32), price: 1n }
  const digest = detailDigest(detail)
  const output = new Uint8Array(300)
  const answerAll = async (requests: JobRequest[]) => {
    const finishedAt = BigInt(Math.floor(Date.now() / 1000))
    const receipts = requests.map(({ channel, job }) => ({
      channel,
      job,
      status: 0,
      cumulative: job,
      finishedAt,
      detail: digest,
    }))
    const { root, proofs } = merkleTree(receipts.map(receiptLeaf))
    const signature = await signer.sign(batchDigest(domain, { root, count: receipts.length }))
    const answers = requests.map(({ ticket }, index) =>
      encodeJobAnswer({ ticket, receipt: receipts[index]!, detail, signature, proof: proofs[index]!, body: output }),
    )
    socket.send(joinFrames(answers))
  }
  socket.on('message', (data: Buffer) => {
    const requests = splitFrames(new Uint8Array(data)).map(
      (bytes) => decodeFrame(bytes) as { type: 'jobRequest' } & JobRequest,
    )
    seen.messages++
    seen.jobs += requests.length
    void answerAll(requests)
  })
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  socket.send(joinFrames([encodeHello({ models: [], capacity: 10_000 })]))
  return { seen, close: () => socket.terminate() }
}

function frameOf(job: bigint): Uint8Array<ArrayBuffer> {
  return encodeJobRequest({
    ticket: 0,
    channel: new Uint8Array(32).fill(7),
    job,
    context: new Uint8Array(8),
    deadlineMs: 30_000,
    body: new Uint8Array(400),
  })
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Compares two servers round by round, each round back to back, so that a noisy neighbour meets both; gives the median of each and of the ratios. */
async function compare(one: () => Promise<number>, other: () => Promise<number>) {
  const values: number[] = []
  const baselines: number[] = []
  for (let round = 0; round < rounds; round++) {
    if (round % 2 === 0) values.push(await one())
    baselines.push(await other())
    if (round % 2 === 1) values.push(await one())
  }
  const ratio = median(values.map((value, index) => value / baselines[index]!))
  return { value: median(values), baseline: median(baselines), ratio }
}

/** Measures the edge in workerd: what the edge's own way costs beside a handler written for the bench, what the hop to a mailbox costs, and how many jobs share a message. */
export async function run(): Promise<Row[]> {
  const stateDir = await mkdtemp(join(tmpdir(), 'assay-bench-edge-'))
  const edge = await start(stateDir)
  const [hono, hand, mailbox] = modes.map(edge.urlOf) as [string, string, string]
  const rows: Row[] = []
  try {
    const same = post(path, frameOf(1n))
    const measure = (url: string) => async () => {
      const { perSecond, failed } = await load(url, { connections, ms: roundMs, next: () => same })
      if (failed > 0) throw new Error(`${failed} requests failed.`)
      return perSecond
    }
    const runner = await connectRunner(mailbox)
    for (const url of [hono, hand, mailbox]) await measure(url)()

    const framework = await compare(measure(hono), measure(hand))
    const bar = (ratio: number, least: number) => ({ bar: least, met: ratio >= least })
    rows.push({
      figure: 'job route; baseline: by hand (ratio at least)',
      unit: 'req/s',
      ...framework,
      ...bar(framework.ratio, 0.93),
    })
    const hop = await compare(measure(mailbox), measure(hono))
    rows.push({
      figure: 'job route with the mailbox hop, answered there; baseline: without (ratio at least)',
      unit: 'req/s',
      ...hop,
      ...bar(hop.ratio, 0.5),
    })

    let job = 1n
    const perMessage: number[] = []
    const memory: number[] = []
    const whole: number[] = []
    for (let round = 0; round < rounds; round++) {
      const before = { ...runner.seen }
      const next = () => post(path, frameOf(++job))
      const { perSecond, failed } = await load(mailbox, { connections: loadConnections, ms: roundMs, next })
      if (failed > 0) throw new Error(`${failed} jobs failed.`)
      perMessage.push((runner.seen.jobs - before.jobs) / (runner.seen.messages - before.messages))
      whole.push(perSecond)
      memory.push(edge.memoryMiB())
    }
    const jobs = median(perMessage)
    rows.push({
      figure: `jobs a mailbox message, ${loadConnections} buyers at once (at least)`,
      value: jobs,
      unit: 'jobs',
      baseline: null,
      ratio: null,
      ...bar(jobs, 32),
    })
    rows.push({
      figure: 'jobs through Worker, mailbox and a runner that only signs, all on this machine',
      value: median(whole),
      unit: 'req/s',
      baseline: null,
      ratio: null,
      bar: null,
      met: null,
    })
    // The first rounds fill the cache of answers; after them nothing should grow.
    const settled = memory[2]!
    rows.push({
      figure: 'memory of workerd after the last round; baseline: after the third',
      value: memory.at(-1)!,
      unit: 'MiB',
      baseline: settled,
      ratio: memory.at(-1)! / settled,
      bar: null,
      met: null,
    })
    runner.close()
  } finally {
    await edge.dispose()
    await rm(stateDir, { recursive: true, force: true })
  }
  return rows
}
