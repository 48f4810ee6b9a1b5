import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { WebSocket } from 'ws'
import { createRunnerSigner } from '../gpu-runner/signer.ts'
import { batchDigest } from '../protocol/batch.ts'
import { utf8 } from '../protocol/bytes.ts'
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
import { openBuyers, startRunner } from './edge/purchases.ts'
import { modes, startWorkerd } from './edge/workerd.ts'
import type { Row } from './main.ts'
import { missingPython, startFastApi } from './serve/fastapi.ts'
import { domain } from './serve/model.ts'

const rounds = 7
const roundMs = 1_500
const connections = 32
const loadConnections = 256
const buyers = 16
const inFlight = 64
const purchaseRounds = 5
const purchaseMs = 2_000
/** Rounds before the first that counts: workerd and a runner serve for days and compile their code once. */
const warmRounds = 5
const signer = createRunnerSigner(sha256(utf8('test key: runner')))
const path = `/v1/runners/${signer.address}/jobs`

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
async function compare(one: () => Promise<number>, other: () => Promise<number>, turns = rounds) {
  const values: number[] = []
  const baselines: number[] = []
  for (let round = 0; round < turns; round++) {
    if (round % 2 === 0) values.push(await one())
    baselines.push(await other())
    if (round % 2 === 1) values.push(await one())
  }
  const ratio = median(values.map((value, index) => value / baselines[index]!))
  return { value: median(values), baseline: median(baselines), ratio }
}

/** Compares the whole way of a purchase with the usual Python stack, which is paid by nobody and proves nothing: the SDK's own clients, Worker, mailbox, and a runner process with journal and executor. All of them share this machine's cores. */
async function besidePython(mailbox: string, clients: number): Promise<Row> {
  const of = clients === 1 ? 'one client' : `${clients} clients in one process`
  const figure = `verified purchases a second through Worker, mailbox and runner, ${inFlight} in flight of ${of}; baseline: FastAPI, uvicorn and onnxruntime with the same small model (at least)`
  const bar = 1
  const missing = missingPython()
  if (missing) {
    const skipped = { value: 0, unit: 'purchases/s', baseline: null, ratio: null, bar, met: null }
    return { figure: `${figure}: skipped, ${missing}`, ...skipped }
  }
  const runner = await startRunner(mailbox, 'small')
  const sold = await openBuyers(mailbox, { runner, model: 'small', buyers: clients })
  const python = await startFastApi('small')
  try {
    const ours = () => sold.rate(purchaseMs, inFlight)
    const theirs = () => python.rate(purchaseMs, inFlight)
    await theirs()
    for (let round = 0; round < warmRounds; round++) await ours()
    const compared = await compare(ours, theirs, purchaseRounds)
    return { figure, unit: 'purchases/s', ...compared, bar, met: compared.ratio >= bar }
  } finally {
    sold.close()
    await python.stop()
    await runner.stop()
  }
}

/** Measures the edge in workerd: what the edge's own way costs beside a handler written for the bench, what the hop to a mailbox costs, and how many jobs share a message. */
export async function run(): Promise<Row[]> {
  const stateDir = await mkdtemp(join(tmpdir(), 'assay-bench-edge-'))
  const edge = await startWorkerd(stateDir)
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
    for (const clients of [1, buyers]) rows.push(await besidePython(mailbox, clients))
  } finally {
    await edge.dispose()
    await rm(stateDir, { recursive: true, force: true })
  }
  return rows
}
