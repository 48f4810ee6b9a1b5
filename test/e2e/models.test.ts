import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { localBuyer, settleNow } from '../../dev/story.ts'
import { toHex } from '../../protocol/bytes.ts'
import { readGraph } from '../../protocol/onnx/reader.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { readTensorProto } from '../fixtures/tensorProto.ts'
import { readWav } from '../fixtures/wav.ts'
import { eventually, fund, list, openMarketplace } from './marketplace.ts'

type OrtTensor = { data: ArrayLike<number>; dims: readonly number[] }
const ort = createRequire(import.meta.url)('onnxruntime-node') as {
  Tensor: new (type: string, data: unknown, dims: readonly number[]) => OrtTensor
  InferenceSession: {
    create(bytes: Uint8Array, options?: object): Promise<{ run(feeds: object): Promise<Record<string, OrtTensor>> }>
  }
}

const shared = join(import.meta.dirname, '../../../shared')
const silero = join(shared, 'models/silero_vad_16k_op15.onnx')
const backend = join(shared, 'onnx-backend/pytorch-converted')
const present = existsSync(silero) && existsSync(backend)
if (!present)
  console.warn('skipped: the real models are not beside this checkout (../shared/models, ../shared/onnx-backend)')

const bytesOf = (data: Float32Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
const floats = (data: Uint8Array) => new Float32Array(data.slice().buffer)

describe.skipIf(!present)('real models', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let runner: RunnerProcess
  beforeAll(async () => {
    ;({ marketplace, close } = await openMarketplace())
    runner = await marketplace.startRunner()
    await fund(marketplace, 10_000_000n)
  })
  afterAll(async () => {
    await close?.()
  })

  test('behavior: 60 s of speech through a stateful voice-activity model, frame by frame, bit for bit what onnxruntime gives; one settlement', {
    timeout: 240_000,
  }, async () => {
    const graph = new Uint8Array(readFileSync(silero))
    const { sampleRate, samples } = readWav(new Uint8Array(readFileSync(join(shared, 'models/silero_test.wav'))))
    expect(sampleRate).toBe(16_000)
    const frames = 1_875
    expect(samples.length).toBeGreaterThanOrEqual(frames * 512)
    const buyer = localBuyer(marketplace)
    const digest = await list(buyer, runner, graph, 'silero-vad', 10n)
    const session = await ort.InferenceSession.create(graph, { intraOpNumThreads: 1, interOpNumThreads: 1 })

    const sr: Tensor = {
      name: 'sr',
      datatype: 'INT64',
      shape: [],
      data: new Uint8Array(BigInt64Array.of(16_000n).buffer),
    }
    let state = new Uint8Array(2 * 1 * 128 * 4)
    let directState = new Float32Array(2 * 1 * 128)
    const channels = new Set<string>()
    let speech = 0
    for (let index = 0; index < frames; index++) {
      const frame = new Float32Array(576)
      frame.set(samples.subarray(Math.max(0, index * 512 - 64), index * 512), index === 0 ? 64 : 0)
      frame.set(samples.subarray(index * 512, index * 512 + 512), 64)
      const feeds: Tensor[] = [
        { name: 'input', datatype: 'FP32', shape: [1, 576], data: bytesOf(frame) },
        { name: 'state', datatype: 'FP32', shape: [2, 1, 128], data: state },
        sr,
      ]
      const answer = await eventually(() => buyer.infer(digest, feeds))
      const direct = await session.run({
        input: new ort.Tensor('float32', frame, [1, 576]),
        state: new ort.Tensor('float32', directState, [2, 1, 128]),
        sr: new ort.Tensor('int64', BigInt64Array.of(16_000n), []),
      })
      const output = answer.outputs.find(({ name }) => name === 'output')!
      const next = answer.outputs.find(({ name }) => name === 'stateN')!
      expect(toHex(output.data)).toBe(toHex(bytesOf(direct.output!.data as unknown as Float32Array)))
      state = next.data.slice()
      directState = direct.stateN!.data as unknown as Float32Array<ArrayBuffer>
      if (floats(output.data)[0]! > 0.5) speech++
      channels.add(toHex(answer.receipt.channel))
    }
    // The recording holds speech and pauses; a model that hears only one of them is not running.
    expect(speech).toBeGreaterThan(frames * 0.1)
    expect(speech).toBeLessThan(frames * 0.99)
    expect(channels.size).toBe(1)
    const settlement = await settleNow(runner)
    expect(settlement).toMatchObject({ channels: 1, receipts: frames })
    expect(settlement.transactions).toHaveLength(1)
  })

  test('behavior: every model of the backend suite is sold and matches, or is refused at publishing with a reason', {
    timeout: 240_000,
  }, async () => {
    const buyer = localBuyer(marketplace)
    const sold: string[] = []
    const refused: string[] = []
    for (const name of readdirSync(backend)) {
      const graph = new Uint8Array(readFileSync(join(backend, name, 'model.onnx')))
      const loads = await ort.InferenceSession.create(graph, { logSeverityLevel: 4 }).then(
        () => true,
        () => false,
      )
      const slug = name.toLowerCase()
      if (!loads) {
        await expect(list(buyer, runner, graph, slug)).rejects.toMatchObject({
          code: 'model_not_loadable',
          message: expect.stringContaining('onnxruntime does not load'),
        })
        refused.push(name)
        continue
      }
      const digest = await list(buyer, runner, graph, slug)
      const { inputs, outputs } = readGraph(graph)
      const folder = join(backend, name, 'test_data_set_0')
      const read = (kind: string, index: number) =>
        readTensorProto(new Uint8Array(readFileSync(join(folder, `${kind}_${index}.pb`))))
      const feeds = inputs.map((input, index) => ({ ...read('input', index), name: input.name }))
      const answer = await eventually(() => buyer.infer(digest, feeds))
      outputs.forEach((output, index) => {
        const expected = read('output', index)
        const actual = answer.outputs.find((each) => each.name === output.name)!
        expect(actual.shape, name).toEqual(expected.shape)
        const want = floats(expected.data)
        floats(actual.data).forEach((value, at) => {
          expect(Math.abs(value - want[at]!), `${name} ${at}`).toBeLessThanOrEqual(1e-7 + 1e-3 * Math.abs(want[at]!))
        })
      })
      sold.push(name)
    }
    console.info(`backend suite: ${sold.length} sold, ${refused.length} refused`)
    expect(sold.length + refused.length).toBe(82)
    expect(sold.length).toBeGreaterThan(50)
  })
})
