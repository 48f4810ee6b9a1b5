import { randomBytes } from 'node:crypto'
import { equalBytes } from '../../protocol/bytes.ts'
import type { Manifest } from '../../protocol/manifest.ts'
import { elementCount, elementSize, type Tensor } from '../../protocol/tensors.ts'
import { joinFeeds } from './batcher.ts'

/** Makes one row of input: numbers in (-1, 1) for floats, small values otherwise. */
function randomRow({ name, datatype, shape }: Manifest['inputs'][number]): Tensor | null {
  const size = elementSize(datatype)
  // A second free dimension has no size to try, and FP16 bits at random are mostly no number anyone sends.
  if (size === null || datatype === 'FP16' || shape.slice(1).includes(-1)) return null
  const row = [1, ...shape.slice(1)]
  const count = elementCount(row)
  const bytes = randomBytes(count)
  const data = new Uint8Array(count * size)
  const view = new DataView(data.buffer)
  for (let i = 0; i < count; i++) {
    if (datatype === 'FP32') view.setFloat32(i * 4, bytes[i]! / 128 - 1, true)
    else if (datatype === 'FP64') view.setFloat64(i * 8, bytes[i]! / 128 - 1, true)
    else data[i * size] = bytes[i]! & 1
  }
  return { name, datatype, shape: row, data }
}

/** Finds out whether jobs of a model can share a run without changing a bit of anyone's answer: rows run together are compared with the same rows run alone, at several batch sizes. */
export async function canShareRuns(
  manifest: Manifest,
  run: (feeds: Tensor[]) => Promise<Tensor[]>,
  sizes: readonly number[] = [2, 3, 8, 64],
): Promise<boolean> {
  const rowsFree = [...manifest.inputs, ...manifest.outputs].every(({ shape }) => shape[0] === -1)
  if (!rowsFree || manifest.inputs.length === 0 || manifest.fixedInputs.length > 0) return false
  try {
    for (const size of sizes) {
      const rows: Tensor[][] = []
      for (let i = 0; i < size; i++) {
        const row = manifest.inputs.map(randomRow)
        if (row.includes(null)) return false
        rows.push(row as Tensor[])
      }
      const together = await run(joinFeeds(rows))
      for (const [index, row] of rows.entries()) {
        const alone = await run(row)
        for (const [at, output] of alone.entries()) {
          const joined = together[at]!
          const width = output.data.length
          const isRow = joined.shape[0] === size && joined.data.length === width * size
          if (!isRow || !equalBytes(joined.data.subarray(index * width, (index + 1) * width), output.data)) return false
        }
      }
    }
    return true
  } catch {
    return false
  }
}
