import { randomMlp, writeMlp } from '../../dev/sample/model.ts'
import type { ServedModel } from '../../gpu-runner/service.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { type Manifest, modelDigest } from '../../protocol/manifest.ts'
import { readGraph } from '../../protocol/onnx/reader.ts'

/** Lists the models measured: one of microseconds, where everything around it shows, and one of a millisecond. */
export const models = {
  small: [64, 128, 64, 10],
  millisecond: [64, 2_048, 2_048, 2_048, 10],
} as const

/** Names a measured model. */
export type ModelName = keyof typeof models

export const domain = { chainId: 31_337, escrow: `0x${'22'.repeat(20)}` as Hex }
export const price = 10n
export const payout: Hex = `0x${'33'.repeat(20)}`

/** Writes a model's graph, and what a runner must know to serve it. */
export function buildModel(name: ModelName): { graph: Uint8Array; served: Omit<ServedModel, 'run'> } {
  const graph = writeMlp(name, randomMlp(models[name]))
  const { inputs, outputs, opsets } = readGraph(graph)
  const manifest: Manifest = {
    name,
    version: '1',
    licence: 'none',
    files: [{ path: 'model.onnx', size: graph.length, sha256: toHex(sha256(graph)).slice(2) }],
    inputs,
    outputs,
    fixedInputs: [],
    execution: { class: 'exact' },
    opsets,
  }
  const digest = modelDigest(manifest)
  return {
    graph,
    served: {
      digest,
      manifest,
      listing: {
        model: digest,
        publisher: payout,
        payout,
        price,
        royaltyBps: 500,
        unit: 'inference',
        validUntil: 2n ** 40n,
        nonce: 1n,
      },
      fixed: [],
      batchSizes: Array.from({ length: 64 }, (_, index) => index + 1),
      execution: {
        runtime: 'onnxruntime-node',
        runtimeVersion: 'bench',
        provider: 'cpu',
        optimization: 'all',
        threads: 1,
        class: 'exact',
        batch: 'free',
        measurement: `0x${'00'.repeat(32)}`,
      },
    },
  }
}
