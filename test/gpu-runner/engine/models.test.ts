import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Node, writeModel } from '../../../dev/sample/onnxWriter.ts'
import { createExecutor } from '../../../gpu-runner/engine/executor.ts'
import { fetchModel, type ModelJson } from '../../../gpu-runner/engine/models.ts'
import type { Hex } from '../../../protocol/bytes.ts'
import { type Manifest, modelDigest } from '../../../protocol/manifest.ts'
import { readGraph } from '../../../protocol/onnx/reader.ts'

const owner: Hex = `0x${'11'.repeat(20)}`
const shaOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const double: Node = { op: 'Mul', inputs: ['x', 'scale'], outputs: ['y'] }
const graph = writeModel({
  name: 'scaled',
  inputs: [
    { name: 'x', elementType: 1, shape: ['batch', 2] },
    { name: 'scale', elementType: 1, shape: [1, 2] },
  ],
  outputs: [{ name: 'y', elementType: 1, shape: ['batch', 2] }],
  weights: [],
  nodes: [double],
})
const scale = new Uint8Array(Float32Array.of(2, 3).buffer)

function listed(files: Record<string, Uint8Array> = { 'model.onnx': graph, 'scale.bin': scale }): ModelJson {
  const info = readGraph(graph)
  const manifest: Manifest = {
    name: 'scaled',
    version: '1',
    licence: 'none',
    files: Object.entries(files).map(([path, bytes]) => ({ path, size: bytes.length, sha256: shaOf(bytes) })),
    inputs: info.inputs.filter(({ name }) => name === 'x'),
    outputs: info.outputs,
    fixedInputs: [{ name: 'scale', path: 'scale.bin', datatype: 'FP32', shape: [1, 2] }],
    execution: { class: 'exact' },
    opsets: info.opsets,
  }
  const digest = modelDigest(manifest)
  const listing = {
    model: digest,
    publisher: owner,
    payout: owner,
    price: '1',
    royaltyBps: 0,
    unit: 'x',
    validUntil: '9',
    nonce: '1',
  }
  return { digest, manifest, listing, signature: '0x' }
}

describe('fetchModel', () => {
  let cacheDir: string
  let asked: string[]
  beforeEach(() => {
    cacheDir = mkdtempSync(join(tmpdir(), 'assay-models-'))
    asked = []
  })
  afterEach(() => rmSync(cacheDir, { recursive: true, force: true }))

  /** An edge that sends files in pieces, as `change` would have them. */
  const store = (change: (bytes: Uint8Array) => Uint8Array = (bytes) => bytes, pieces = 7) => ({
    cacheDir,
    fetchArtifact: async (sha256: string) => {
      asked.push(sha256)
      const bytes = change([graph, scale].find((file) => shaOf(file) === sha256)!)
      return (async function* () {
        for (let at = 0; at < bytes.length; at += pieces) yield bytes.subarray(at, at + pieces)
      })()
    },
  })

  test('behavior: files come once, are kept by digest, and are read again from there', async () => {
    const { loadable, reread } = await fetchModel(listed(), store())
    expect(Buffer.from(graph).equals(loadable.graph)).toBe(true)
    expect(asked.sort()).toEqual([shaOf(graph), shaOf(scale)].sort())
    expect(readdirSync(cacheDir).sort()).toEqual([shaOf(graph), shaOf(scale)].sort())
    expect(await reread()).toEqual(loadable)
    expect(await fetchModel(listed(), store())).toMatchObject({ loadable: { digest: listed().digest } })
    expect(asked).toHaveLength(2)
  })

  test('attack: a disk that rots is noticed, and the file fetched again', async () => {
    const { reread } = await fetchModel(listed(), store())
    writeFileSync(
      join(cacheDir, shaOf(scale)),
      scale.map((byte) => byte ^ 1),
    )
    const again = await reread()
    expect(Buffer.from(again.fixed![0]!.data).equals(scale)).toBe(true)
    expect(asked).toHaveLength(3)
    expect(readFileSync(join(cacheDir, shaOf(scale))).equals(scale)).toBe(true)
  })

  test.each([
    ['other bytes', (bytes: Uint8Array) => bytes.map((byte, at) => (at === 3 ? byte ^ 1 : byte)), /do not match/],
    ['fewer bytes', (bytes: Uint8Array) => bytes.subarray(0, bytes.length - 1), /ended after/],
    ['more bytes', (bytes: Uint8Array) => new Uint8Array([...bytes, 0]), /longer than/],
    ['no bytes', () => new Uint8Array(0), /ended after 0/],
  ])('attack: an edge that sends %s leaves nothing behind and may be asked again', async (_, change, reason) => {
    await expect(fetchModel(listed(), store(change))).rejects.toMatchObject({ name: 'DownloadError', message: reason })
    expect(readdirSync(cacheDir)).toEqual([])
    expect((await fetchModel(listed(), store())).digest).toBe(listed().digest)
  })

  test('attack: an edge that never stops sending is left as soon as it sends too much', async () => {
    let sent = 0
    const endless = async () =>
      (async function* () {
        for (;;) {
          sent += 1_024
          yield new Uint8Array(1_024)
        }
      })()
    await expect(fetchModel(listed(), { cacheDir, fetchArtifact: endless })).rejects.toThrow(/longer than/)
    expect(sent).toBeLessThanOrEqual(graph.length + 1_024)
  })

  test('attack: a connection that breaks is another try, not the end of the model', async () => {
    const broken = async () =>
      (async function* () {
        yield graph.subarray(0, 10)
        throw new TypeError('terminated')
      })()
    await expect(fetchModel(listed(), { cacheDir, fetchArtifact: broken })).rejects.toThrow('terminated')
    expect(readdirSync(cacheDir)).toEqual([])
  })

  test('refusal: a manifest of another digest', async () => {
    await expect(fetchModel({ ...listed(), digest: `0x${'22'.repeat(32)}` }, store())).rejects.toMatchObject({
      name: 'ModelRefusedError',
    })
  })

  test('behavior: what the publisher feeds is loaded with the model and fed to every run', async () => {
    const executor = createExecutor({ threads: 1, spare: false })
    try {
      const { loadable, reread, digest } = await fetchModel(listed(), store())
      await executor.load(loadable, reread)
      const x = {
        name: 'x',
        datatype: 'FP32' as const,
        shape: [2, 2],
        data: new Uint8Array(Float32Array.of(1, 1, 5, 7).buffer),
      }
      for (let turn = 0; turn < 3; turn++) {
        const [y] = await executor.run(digest, [x], 10_000)
        expect([...new Float32Array(y!.data.slice().buffer)]).toEqual([2, 3, 10, 21])
      }
    } finally {
      await executor.stop()
    }
  })
})
