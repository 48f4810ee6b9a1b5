import { equalBytes } from '../../protocol/bytes.ts'
import type { Execution } from '../../protocol/execution.ts'
import type { Manifest } from '../../protocol/manifest.ts'
import { rowBytes } from '../../protocol/oip.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { joinFeeds } from './batcher.ts'
import { ModelError } from './errors.ts'
import { type RandomBytes, type RowKind, rowKinds, trialRow } from './trialRows.ts'

/** Says what keeps a model from being exact, or its jobs from sharing runs. */
export type Finding =
  | { reason: 'unchecked_input'; detail: string }
  | { reason: 'refuses_trial'; detail: string }
  | { reason: 'not_repeatable'; detail: string }
  | { reason: 'threads_change_bits'; detail: string }
  | { reason: 'rows_depend_on_batch'; detail: string }

/** Tells how a model may be run: its measured class, whether rows of several jobs may share a run, and which numbers of rows a run may then have (ascending; none where they may not, and each job runs as it was sent). */
export type Trial = Pick<Execution, 'class' | 'batch'> & { batchSizes: readonly number[]; findings: readonly Finding[] }

/** Runs the model under trial. */
export type TrialRun = (feeds: Tensor[]) => Promise<Tensor[]>

/** Holds what a trial needs; `budgetMs` bounds it, by the clock `now` in milliseconds. */
export type TrialDeps = {
  manifest: Pick<Manifest, 'inputs' | 'outputs'>
  /** Runs as jobs will be run, what the publisher feeds included. */
  run: TrialRun
  /** Runs under other numbers of threads, by that number. */
  otherThreads: ReadonlyMap<number, TrialRun>
  maxBatch: number
  random: RandomBytes
  now: () => number
  budgetMs?: number
}

/** The sizes that are tried before all others: kernels change path at powers of two and just past them. */
const tellingSizes = [2, 3, 4, 8, 16, 17, 32, 64] as const

/** Rows are run together to see that they are apart even where no run will have more than one. */
const fewestRows = 4

/** Bounds tried for whole numbers, from the full range of their type (0) to indices of a small table. */
const bounds = [0n, 30_000n, 1_000n, 100n, 10n, 2n] as const

/** How often every size is tried, each time with other rows: what differs may do so at one place of a run, for one number. */
const rounds = 9

type Row = { feeds: Tensor[]; kind: RowKind; outputs: Tensor[] }

/** Finds out by running it how a model may be run: rows of adversarial content alone, again, under other numbers of threads, and together with other rows at every number of rows that a run may have. Whatever was not checked is not promised. Throws what `run` throws, but for ModelError. */
export async function tryModel(deps: TrialDeps): Promise<Trial> {
  const unchecked = uncheckable(deps.manifest)
  if (unchecked) return verdictOf([], [{ reason: 'unchecked_input', detail: unchecked }])
  const whole = deps.manifest.inputs.some(({ datatype }) => /INT/.test(datatype))
  let complaint = ''
  for (const bound of whole ? bounds : [0n]) {
    try {
      return await tryWithin(bound, deps)
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
      complaint = error.message
    }
  }
  return verdictOf([], [{ reason: 'refuses_trial', detail: complaint }])
}

/** Tries a model with whole numbers below a bound. Throws ModelError when it does not take them all. */
async function tryWithin(bound: bigint, deps: TrialDeps): Promise<Trial> {
  const { manifest, run, random, now, budgetMs = 20_000 } = deps
  const make: MakeRow = async (kind) => {
    const feeds = trialRow(manifest.inputs, { kind, bound, random })
    return { feeds, kind, outputs: await run(feeds) }
  }
  const findings: Finding[] = []
  const started = now()
  const repeats = await tryAlone(make, deps, { until: started + budgetMs / 4, findings })
  if (!repeats || !canJoin(manifest)) return verdictOf([], findings)
  return verdictOf(await tryTogether(make, deps, { until: started + budgetMs, findings }), findings)
}

const verdictOf = (batchSizes: number[], findings: Finding[]): Trial => ({
  class: findings.length === 0 ? 'exact' : 'tolerant',
  batch: batchSizes.length > 0 ? 'free' : 'single',
  batchSizes,
  findings,
})

const canJoin = ({ inputs, outputs }: TrialDeps['manifest']) =>
  [...inputs, ...outputs].every(({ shape }) => shape[0] === -1)

type Bounds = { until: number; findings: Finding[] }

/** Runs rows alone once more, and under each other number of threads, as often as the time allows. Tells whether they gave the same bits under the same number. */
async function tryAlone(make: MakeRow, { run, otherThreads, now }: TrialDeps, { until, findings }: Bounds) {
  const left = new Map(otherThreads)
  for (let round = 0; round < rounds && (round === 0 || now() < until); round++) {
    const rows = await createPool(make, round).take(rowKinds.length)
    const changed = await findChange(rows, run)
    if (changed) {
      findings.push({ reason: 'not_repeatable', detail: `A ${changed} row gave other bits the second time.` })
      return false
    }
    for (const [threads, other] of left) {
      const kind = await findChange(rows, other)
      if (!kind) continue
      findings.push({ reason: 'threads_change_bits', detail: `A ${kind} row, under ${threads} threads.` })
      left.delete(threads)
    }
  }
  return true
}

/** Runs rows together, at as many sizes and as often as the time allows, and gives the sizes at which no row changed: none as soon as one did. */
async function tryTogether(make: MakeRow, deps: TrialDeps, { until, findings }: Bounds): Promise<number[]> {
  const { run, maxBatch, now } = deps
  const otherThreads = new Map(deps.otherThreads)
  const clean = new Set([1])
  for (let round = 0; round < rounds; round++) {
    const pool = createPool(make, round)
    for (const size of trialSizes(Math.max(maxBatch, fewestRows))) {
      if (now() > until) break
      const group = await pool.take(size)
      const found = await findDependence(group, run)
      if (found) {
        findings.push({ reason: 'rows_depend_on_batch', detail: `${found}, in a run of ${size} rows.` })
        return []
      }
      for (const [threads, other] of isTelling(size, maxBatch) ? otherThreads : []) {
        const changed = await findDependence(group, other)
        if (!changed) continue
        const detail = `${changed}, in a run of ${size} rows under ${threads} threads.`
        findings.push({ reason: 'threads_change_bits', detail })
        otherThreads.delete(threads)
      }
      clean.add(size)
    }
  }
  return [...clean].filter((size) => size <= maxBatch).sort((a, b) => a - b)
}

const isTelling = (size: number, maxBatch: number) =>
  (tellingSizes as readonly number[]).includes(size) || size === maxBatch

/** Lists the numbers of rows to try, the telling ones and the largest first. */
function trialSizes(maxBatch: number): number[] {
  const all = Array.from({ length: maxBatch - 1 }, (_, index) => index + 2)
  return [...all.filter((size) => isTelling(size, maxBatch)), ...all.filter((size) => !isTelling(size, maxBatch))]
}

/** Names what makes an input impossible to try in full; null when nothing does. */
function uncheckable(manifest: TrialDeps['manifest']): string | null {
  const { inputs } = manifest
  if (inputs.length === 0) return 'The model takes no input.'
  for (const { name, datatype, shape } of inputs) {
    if (datatype === 'BYTES') return `"${name}" takes BYTES, which can hold anything.`
    // Kernels change path with any dimension, so one size that went well says nothing of the next.
    if (shape.slice(1).includes(-1)) return `"${name}" has a free dimension besides the first.`
  }
  if (inputs.some(({ shape }) => shape[0] === -1) && !canJoin(manifest))
    return 'The number of rows is free, and not every input and output follows it.'
  return null
}

/** Makes a row of a kind that the model takes, with its outputs when run alone. */
type MakeRow = (kind: RowKind) => Promise<Row>

/** Makes rows as they are needed. Each time they are taken another comes first, so that every kind stands at every place: kernels treat the tail of a batch apart. */
function createPool(make: MakeRow, round: number): { take(count: number): Promise<Row[]> } {
  const rows: Row[] = []
  let start = round
  return {
    async take(count) {
      while (rows.length < count) rows.push(await make(rowKinds[rows.length % rowKinds.length]!))
      start++
      return Array.from({ length: count }, (_, index) => rows[(start + index) % rows.length]!)
    },
  }
}

const sameTensors = (a: readonly Tensor[], b: readonly Tensor[]) =>
  a.length === b.length &&
  a.every(
    ({ name, shape, data }, at) =>
      b[at]!.name === name && shape.join() === b[at]!.shape.join() && equalBytes(data, b[at]!.data),
  )

/** Runs rows alone and names the kind of the first whose bits differ from what they were; null when none do. */
async function findChange(rows: readonly Row[], run: TrialRun): Promise<RowKind | null> {
  for (const { feeds, kind, outputs } of rows) {
    if (!sameTensors(await run(feeds), outputs)) return kind
  }
  return null
}

/** Runs rows together and says which differs from the same row alone; null when none does. A run that fails counts as a difference. */
async function findDependence(rows: readonly Row[], run: TrialRun): Promise<string | null> {
  let together: Tensor[]
  try {
    together = await run(joinFeeds(rows.map(({ feeds }) => feeds)))
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    return `The run failed (${error.message})`
  }
  for (const [at, joined] of together.entries()) {
    const width = rowBytes(joined)
    if (width === null || joined.shape[0] !== rows.length) return `Output "${joined.name}" does not follow the rows`
    for (const [index, { outputs, kind }] of rows.entries()) {
      const alone = outputs[at]!
      const part = joined.data.subarray(index * width, (index + 1) * width)
      if (!equalBytes(part, alone.data)) return `Row ${index} (${kind}) has other bits in output "${joined.name}"`
    }
  }
  return null
}
