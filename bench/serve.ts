import { createRunnerSigner } from '../gpu-runner/signer.ts'
import { batchDigest } from '../protocol/batch.ts'
import { utf8 } from '../protocol/bytes.ts'
import { sha256 } from '../protocol/hash.ts'
import { merkleTree } from '../protocol/merkle.ts'
import { type Detail, detailDigest, type Receipt, receiptLeaf } from '../protocol/receipt.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import type { Row } from './main.ts'
import { type Batch, startAsked } from './serve/asker.ts'
import { missingPython, startFastApi } from './serve/fastapi.ts'
import { domain, type ModelName } from './serve/model.ts'
import { median, sideBySide } from './sideBySide.ts'

const rounds = 5
/** Jobs of a round of the small model. */
const smallJobs = 20_000
/** Jobs before the first round: a runner serves for days and compiles its code once. */
const warmJobs = 20_000
const inFlight = 64

/** Measures contenders round by round, back to back and in turning order, so that a noisy neighbour meets all of them; gives rates and, for each, the median of its ratios to the last. */
async function compare(contenders: (() => Promise<number>)[]): Promise<{ rates: number[]; ratios: number[] }> {
  const rates: number[][] = contenders.map(() => [])
  for (let round = -1; round < rounds; round++) {
    for (let step = 0; step < contenders.length; step++) {
      const at = (step + round + contenders.length) % contenders.length
      const rate = await contenders[at]!()
      if (round >= 0) rates[at]!.push(rate)
    }
  }
  const last = rates.at(-1)!
  const ratios = rates.map((own) => median(own.map((rate, round) => rate / last[round]!)))
  return { rates: rates.map((own) => median(own.slice())), ratios }
}

async function throughput(
  model: ModelName,
  { jobs, batch = 'free', bars }: { jobs: number; batch?: Batch; bars: { signed: number; full: number } },
): Promise<Row[]> {
  const asked = await Promise.all(
    (['signed', 'full', 'bare'] as const).map((mode) => startAsked(mode, model, { batch })),
  )
  try {
    for (const { ask } of asked) await ask(batch === 'free' ? warmJobs : 2 * jobs, inFlight)
    const { rates, ratios } = await compare(
      asked.map(
        ({ ask }) =>
          async () =>
            jobs / (await ask(jobs, inFlight)),
      ),
    )
    const row = (what: string, at: number, bar: number): Row => ({
      figure: `${what} / the same server with all off, ${model} model${batch === 'single' ? ' with a run for each job' : ''}, ${inFlight} in flight of one buyer (at least)`,
      value: rates[at]!,
      unit: 'requests/s',
      baseline: rates[2]!,
      ratio: ratios[at]!,
      bar,
      met: ratios[at]! >= bar,
    })
    return [row('signed', 0, bars.signed), row('signed, sealed and journalled', 1, bars.full)]
  } finally {
    for (const { stop } of asked) await stop()
  }
}

/** Compares a runner over its link with the usual Python stack, which signs nothing and batches nothing. */
async function besidePython(jobs: number): Promise<Row> {
  const figure = `signed / FastAPI, uvicorn and onnxruntime, small model, ${inFlight} in flight (at least)`
  const missing = missingPython()
  if (missing) {
    const skipped = { value: 0, unit: 'requests/s', baseline: null, ratio: null, bar: 10, met: null }
    return { figure: `${figure}: skipped, ${missing}`, ...skipped }
  }
  const signed = await startAsked('signed', 'small')
  const python = await startFastApi('small')
  try {
    await signed.ask(warmJobs, inFlight)
    const { rates, ratios } = await compare([
      async () => jobs / (await signed.ask(jobs, inFlight)),
      () => python.rate(1_000, inFlight),
    ])
    const [value, baseline] = rates as [number, number]
    return { figure, value, unit: 'requests/s', baseline, ratio: ratios[0]!, bar: 10, met: ratios[0]! >= 10 }
  } finally {
    await signed.stop()
    await python.stop()
  }
}

/** Compares what a receipt costs in a batch of 64 under one native signature with one portable signature each. */
async function receiptCost(): Promise<Row> {
  const key = sha256(utf8('test key: runner'))
  const native = createRunnerSigner(key)
  const portable = createSigner(key)
  const bytes = (label: number) => sha256(new Uint8Array([label]))
  const detail: Detail = { input: bytes(1), output: bytes(2), execution: bytes(3), price: 10n }
  const channel = bytes(4)
  const receiptOf = (job: number): Receipt => ({
    channel,
    job: BigInt(job),
    status: 0,
    cumulative: BigInt(job) * 10n,
    finishedAt: 1_800_000_000n,
    detail: detailDigest(detail),
  })
  const batch = async () => {
    const { root, proofs } = merkleTree(Array.from({ length: 64 }, (_, job) => receiptLeaf(receiptOf(job))))
    await native.sign(batchDigest(domain, { root, count: proofs.length }))
  }
  const digest = bytes(5)
  const { ours, each } = await sideBySide({ ours: batch, each: () => portable.sign(digest) }, { repeat: 30 })
  const ratio = ours / 64 / each
  return {
    figure: 'a receipt in a batch of 64 / one pure-JavaScript signature each',
    value: (ours / 64) * 1_000,
    unit: 'us',
    baseline: each * 1_000,
    ratio,
    bar: 0.01,
    met: ratio <= 0.01,
  }
}

/** Measures what it costs a runner to be verifiable: the same link, batcher and executor with and without vouchers, receipts, seals and a journal. */
export async function run(): Promise<Row[]> {
  return [
    await receiptCost(),
    ...(await throughput('small', { jobs: smallJobs, bars: { signed: 0.95, full: 0.75 } })),
    // Together its rows cost a tenth of a millisecond each, alone a whole one: the bar is held to both.
    ...(await throughput('millisecond', { jobs: 4_000, bars: { signed: 0.99, full: 0.99 } })),
    ...(await throughput('millisecond', { jobs: 1_000, batch: 'single', bars: { signed: 0.99, full: 0.99 } })),
    await besidePython(smallJobs),
  ]
}
