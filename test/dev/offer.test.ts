import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { readOffer } from '../../dev/offer.ts'

const folder = mkdtempSync(join(tmpdir(), 'assay-offer-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const keep = (name: string, bytes: string | Uint8Array) => {
  writeFileSync(join(folder, name), bytes)
  return join(folder, name)
}

describe('readOffer', () => {
  const { graph } = readOffer(undefined, undefined)
  const model = keep('My Model.onnx', graph)
  const tensors = keep('t.json', '{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1,2],"data":[1,2]}]}')

  test('behavior: a model and tensors from files are sold under the name of the file', () => {
    const offer = readOffer(model, tensors)
    expect([offer.name, offer.graph, offer.inputs.map(({ name, shape }) => [name, shape])]).toEqual([
      'my-model',
      graph,
      [['pixels', [1, 2]]],
    ])
  })

  test.each([
    ['a model that is not there', join(folder, 'none.onnx'), tensors, /--model .*none.onnx cannot be read \(ENOENT\)/],
    ['a folder for a model', folder, tensors, /--model .* cannot be read \(EISDIR\)/],
    ['a model that is none', tensors, tensors, /t.json is no ONNX model: /],
    ['tensors that are not there', model, join(folder, 'none.json'), /--input .*none.json cannot be read/],
    ['tensors that are no JSON', model, keep('a.json', '# Tensors'), /a.json is no file of tensors: /],
    ['JSON that is no tensors', model, keep('b.json', '{}'), /b.json is no file of tensors: Expected \{ "inputs"/],
  ])('refusal: %s', (_, path, input, message) => {
    expect(() => readOffer(path, input)).toThrow(message)
  })
})
