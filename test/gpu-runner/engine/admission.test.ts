import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sampleModel } from '../../../dev/sample/model.ts'
import { type Trial, type TrialRun, tryModel } from '../../../gpu-runner/engine/admission.ts'
import { joinFeeds } from '../../../gpu-runner/engine/batcher.ts'
import { createExecutor, type Executor } from '../../../gpu-runner/engine/executor.ts'
import { rowKinds, trialRow } from '../../../gpu-runner/engine/trialRows.ts'
import { equalBytes, toHex } from '../../../protocol/bytes.ts'
import { sha256 } from '../../../protocol/hash.ts'
import { readGraph } from '../../../protocol/onnx/reader.ts'
import type { Tensor } from '../../../protocol/tensors.ts'
import * as graphs from './graphs.ts'
import { freeRows } from './rewriteModel.ts'

const threadCounts = [1, 2, 4] as const
const long = process.env.LONG === '1'
/** Rows run alone and together, over all models and numbers of threads. */
const totalRows = long ? 1_000_000 : 20_000

const suite = join(import.meta.dirname, '../../../../shared/onnx-backend/pytorch-converted')
const hasSuite = existsSync(suite)
if (!hasSuite) console.warn(`Skipped: the ONNX backend models are not at ${suite}.`)

describe('tryModel', () => {
  const executors = new Map<number, Executor>()
  beforeAll(() => {
    for (const threads of threadCounts) executors.set(threads, createExecutor({ threads, spare: false }))
  })
  afterAll(async () => {
    await Promise.all([...executors.values()].map((executor) => executor.stop()))
  })

  async function load(graph: Uint8Array, fixed: Tensor[] = []) {
    const digest = toHex(sha256(graph))
    const runs = new Map<number, TrialRun>()
    for (const [threads, executor] of executors) {
      await executor.load({ digest, graph, external: [], fixed })
      runs.set(threads, (feeds) => executor.run(digest, feeds, 60_000))
    }
    return { manifest: readGraph(graph), runs }
  }

  async function trial(
    graph: Uint8Array,
    { maxBatch = 64, fixed = [] as Tensor[], budgetMs = 20_000, now = () => performance.now() } = {},
  ): Promise<Trial> {
    const { manifest, runs } = await load(graph, fixed)
    const names = new Set(fixed.map(({ name }) => name))
    const inputs = manifest.inputs.filter(({ name }) => !names.has(name))
    const run = runs.get(1)!
    runs.delete(1)
    return tryModel({
      manifest: { ...manifest, inputs },
      run,
      otherThreads: runs,
      maxBatch,
      random: randomBytes,
      now,
      budgetMs,
    })
  }

  const every = (most: number) => Array.from({ length: most }, (_, index) => index + 1)
  const exact = (most: number) => ({ class: 'exact', batch: 'free', batchSizes: every(most), findings: [] })

  test.each([
    ['a perceptron', graphs.mlp(64, 128, 64, 10)],
    ['a perceptron of odd widths', graphs.mlp(7, 13, 5, 3)],
    ['a convolutional net', graphs.convolutional()],
    ['a table of tokens', graphs.embedding(50)],
    ['a table of one token short of a round number', graphs.embedding(999, 1)],
  ])('behavior: %s is exact, and its rows may share runs of any size tried', async (_, graph) => {
    expect(await trial(graph)).toEqual(exact(64))
  })

  test.each([
    ['a mean over the sequence', graphs.attention(), 'rows_depend_on_batch'],
    ['a softmax across the batch', graphs.elementwise('Softmax', 5, { axis: 0 }), 'rows_depend_on_batch'],
    ['a tail that rounds otherwise', graphs.elementwise('Log', 3), 'rows_depend_on_batch'],
    ['a tail that keeps a signalling NaN', graphs.elementwise('Floor', 5), 'rows_depend_on_batch'],
    ['noise', graphs.elementwise('RandomNormalLike', 8), 'not_repeatable'],
    ['rows that end in one', graphs.total(5), 'unchecked_input'],
    ['a length nobody can try in full', graphs.freeLength(), 'unchecked_input'],
  ])('attack: a model with %s is tolerant and runs one job at a time', async (_, graph, reason) => {
    const { findings, ...found } = await trial(graph)
    expect(found).toEqual({ class: 'tolerant', batch: 'single', batchSizes: [] })
    expect(findings[0]?.reason).toBe(reason)
  })

  test('behavior: what the publisher feeds is fed once to a run, however many rows it has', async () => {
    const scale = new Uint8Array(Float32Array.from({ length: 5 }, (_, index) => 1.1 ** index).buffer)
    const fixed: Tensor[] = [{ name: 'scale', datatype: 'FP32', shape: [1, 5], data: scale }]
    expect(await trial(graphs.scaled(5), { fixed })).toEqual(exact(64))
  })

  test('behavior: a size there was no time to try is not one that is used', async () => {
    let clock = 0
    const { batchSizes, ...rest } = await trial(graphs.mlp(8, 4), { budgetMs: 4, now: () => clock++ })
    expect(rest).toEqual({ class: 'exact', batch: 'free', findings: [] })
    expect(batchSizes).toEqual([1, 2, 3, 4])
  })

  test('behavior: where a run has one row, rows are still tried together', async () => {
    expect(await trial(graphs.mlp(8, 4), { maxBatch: 1 })).toEqual(exact(1))
    expect(await trial(graphs.attention(16, 32), { maxBatch: 1 })).toMatchObject({ class: 'tolerant', batchSizes: [] })
  })

  test('attack: threads that change bits cost the class, rows that do not may still share runs', async () => {
    const { manifest, runs } = await load(graphs.mlp(8, 4))
    const run = runs.get(1)!
    const other: TrialRun = async (feeds) =>
      (await run(feeds)).map((tensor) => ({
        ...tensor,
        data: tensor.data.map((byte, at) => (at === 0 ? byte ^ 1 : byte)),
      }))
    const found = await tryModel({
      manifest,
      run,
      otherThreads: new Map([[2, other]]),
      maxBatch: 8,
      random: randomBytes,
      now: () => performance.now(),
    })
    expect(found).toMatchObject({ class: 'tolerant', batch: 'free', batchSizes: every(8) })
    expect(new Set(found.findings.map(({ reason }) => reason))).toEqual(new Set(['threads_change_bits']))
  })

  test('invariant: no model is called exact whose rows differ, alone and together, under 1, 2 and 4 threads', {
    timeout: long ? 3_600_000 : 120_000,
  }, async () => {
    const suiteModels = (hasSuite ? readdirSync(suite) : []).filter((_, index) => long || index % 8 === 5)
    const models: [string, Uint8Array][] = [
      ['sample', sampleModel().graph],
      ['perceptron', graphs.mlp(64, 128, 64, 10)],
      ['odd perceptron', graphs.mlp(7, 13, 5, 3)],
      ['convolution', graphs.convolutional()],
      ['attention', graphs.attention(16, 32)],
      ['tokens', graphs.embedding(50)],
      ...['Relu', 'Exp', 'Tanh', 'Sigmoid', 'Log', 'Sin', 'Elu', 'Floor', 'Softmax'].map((op): [string, Uint8Array] => [
        op,
        graphs.elementwise(op, 5),
      ]),
      ...suiteModels.map((name): [string, Uint8Array] => [
        name,
        freeRows(readFileSync(join(suite, name, 'model.onnx'))),
      ]),
    ]
    const tally = { exact: 0, tolerant: 0, refused: 0, rows: 0, falseExact: [] as string[] }
    for (const [name, graph] of models) {
      const loaded = await load(graph).catch(() => null)
      // Operators older than the runtime supports: a runner refuses the model, and nobody is promised anything.
      if (!loaded) {
        tally.refused++
        continue
      }
      const size = loaded.manifest.inputs.reduce((sum, { shape }) => sum + shape.slice(1).reduce((a, b) => a * b, 1), 0)
      if (!long && size > 10_000) continue
      const found = await trial(graph)
      tally[found.class]++
      if (found.class !== 'exact' || found.batch !== 'free') continue
      const rows = Math.ceil(totalRows / (size > 100_000 ? 1_000 : 50))
      const different = await countDifferences(loaded, found.batchSizes, rows)
      tally.rows += rows
      if (different > 0) tally.falseExact.push(`${name}: ${different} of ${rows}`)
    }
    console.info('bit-exactness', tally)
    expect(tally.falseExact).toEqual([])
    expect(tally.exact).toBeGreaterThan(5)
    expect(tally.tolerant).toBeGreaterThan(3)
    expect(tally.rows).toBeGreaterThan(1_000)
  })

  /** Runs rows alone and in runs of sizes that were tried, and counts those whose bits differ. */
  async function countDifferences(
    { manifest, runs }: Awaited<ReturnType<typeof load>>,
    sizes: readonly number[],
    count: number,
  ): Promise<number> {
    let different = 0
    const whole = manifest.inputs.some(({ datatype }) => datatype.startsWith('INT'))
    for (let done = 0, turn = 0; done < count; turn++) {
      const size = sizes[(turn * 37) % sizes.length]!
      const rows = Array.from({ length: size }, (_, index) =>
        trialRow(manifest.inputs, {
          kind: rowKinds[(turn + index) % rowKinds.length]!,
          bound: whole ? 2n : 0n,
          random: randomBytes,
        }),
      )
      const threads = threadCounts[turn % threadCounts.length]!
      const together = await runs.get(threads)!(joinFeeds(rows))
      for (const [index, row] of rows.entries()) {
        const alone = await runs.get(1)!(row)
        const same = alone.every(({ data }, at) =>
          equalBytes(data, together[at]!.data.subarray(index * data.length, (index + 1) * data.length)),
        )
        if (!same) different++
      }
      done += size
    }
    return different
  }
})
