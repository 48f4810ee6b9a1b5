import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { tensorsFromJson } from '../protocol/oip.ts'
import { readGraph } from '../protocol/onnx/reader.ts'
import type { Tensor } from '../protocol/tensors.ts'
import { sampleModel } from './sample/model.ts'
import type { Offer } from './story.ts'

/** Reads a file a person named. Throws an error that says what to do when there is nothing to read. */
function readNamed(path: string, option: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    throw new Error(
      `${option} ${path} cannot be read (${(error as { code?: string }).code}). Name a file that is there.`,
    )
  }
}

/** Runs a reading of a file and names the file where it fails. */
function readAs<T>(path: string, what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new Error(`${path} is ${what}: ${(error as Error).message}`)
  }
}

/** Makes what `npm start` sells: the sample, or a model and tensors from files. Throws an error that names the file that is not what it should be. */
export function readOffer(model: string | undefined, input: string | undefined): Offer {
  if (model === undefined || input === undefined) {
    const { graph, example } = sampleModel()
    const pixels: Tensor = {
      name: 'pixels',
      datatype: 'FP32',
      shape: [1, 64],
      data: new Uint8Array(example.pixels.buffer),
    }
    const card = readFileSync(join(import.meta.dirname, 'sample/README.md'), 'utf8')
    return { graph, name: 'digits', card, price: 1_000n, royaltyBps: 1_000, inputs: [pixels] }
  }
  const graph = new Uint8Array(readNamed(model, '--model'))
  readAs(model, 'no ONNX model', () => readGraph(graph))
  const text = readNamed(input, '--input').toString('utf8')
  const inputs = readAs(input, 'no file of tensors', () => tensorsFromJson(JSON.parse(text)))
  const name =
    basename(model, '.onnx')
      .toLowerCase()
      .replace(/[^a-z0-9._-]+/g, '-')
      .replace(/^[^a-z0-9]+/, '') || 'model'
  return { graph, name, card: '', price: 1_000n, royaltyBps: 1_000, inputs }
}
