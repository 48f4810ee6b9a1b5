import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ExternalFileError, readExternalFiles } from '../../client/externalFiles.ts'
import { ModelNotLoadableError, tryModel } from '../../client/tryModel.ts'
import { writeModel } from '../../dev/sample/onnxWriter.ts'
import { readGraph } from '../../protocol/onnx/reader.ts'

/** Makes a model that multiplies by numbers it keeps in another file. */
const scaler = (path: string) =>
  writeModel({
    name: 'scaler',
    inputs: [{ name: 'x', elementType: 1, shape: ['rows', 4] }],
    outputs: [{ name: 'y', elementType: 1, shape: ['rows', 4] }],
    weights: [{ name: 'w', shape: [4], data: Float32Array.of(1, 2, 3, 4), external: path }],
    nodes: [{ op: 'Mul', inputs: ['x', 'w'], outputs: ['y'] }],
  })
const weights = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer)

let outer: string
let folder: string
beforeEach(() => {
  outer = mkdtempSync(join(tmpdir(), 'assay-external-'))
  folder = join(outer, 'model')
  mkdirSync(folder)
  writeFileSync(join(outer, 'secret'), 'a key of somebody')
})
afterEach(() => rmSync(outer, { recursive: true, force: true }))
const read = (path: string) => readExternalFiles(join(folder, 'model.onnx'), readGraph(scaler(path)).externalData)

describe('files a graph keeps data in', () => {
  test('behavior: are read from beside it, in folders too, and the model loads with them', async () => {
    for (const path of ['weights.bin', 'parts/w-0.bin']) {
      mkdirSync(join(folder, 'parts'), { recursive: true })
      writeFileSync(join(folder, path), weights)
      const external = read(path)
      expect(external).toEqual([{ path, data: weights }])
      await tryModel(scaler(path), external)
    }
    expect(readExternalFiles(join(folder, 'model.onnx'), [])).toEqual([])
  })

  test('refusal: a model without its data, or with less of it, does not load', async () => {
    await expect(tryModel(scaler('weights.bin'))).rejects.toThrow(ModelNotLoadableError)
    await expect(tryModel(scaler('weights.bin'), [{ path: 'weights.bin', data: weights.slice(0, 8) }])).rejects.toThrow(
      ModelNotLoadableError,
    )
    expect(() => read('weights.bin')).toThrow('is not beside it')
  })

  test("attack: a stranger's graph names the publisher's own files", async () => {
    symlinkSync(join(outer, 'secret'), join(folder, 'link.bin'))
    symlinkSync(outer, join(folder, 'up'))
    for (const path of [
      '../secret',
      '/etc/hostname',
      'a/../../secret',
      './weights.bin',
      '~/x',
      'a\\b',
      '',
      'link.bin',
      'up/secret',
    ])
      expect(() => readExternalFiles(join(folder, 'model.onnx'), [path])).toThrow(ExternalFileError)
    await expect(tryModel(scaler('w'), [{ path: '../../escaped', data: weights }])).rejects.toThrow(ExternalFileError)
  })
})
