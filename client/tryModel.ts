import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { checkExternalPath } from './externalFiles.ts'
import type { ExternalFile } from './publish.ts'

/** Reports a model that onnxruntime does not load, in its own words. */
export class ModelNotLoadableError extends Error {
  override name = 'ModelNotLoadableError'
  readonly code = 'model_not_loadable'
}

// Runs in a process of its own: a hostile graph may crash the runtime, and a publisher's tool should say so and live.
const loader = `
  const ort = require('onnxruntime-node')
  ort.InferenceSession.create(process.argv[1], { logSeverityLevel: 4 }).then(
    () => process.exit(0),
    (error) => { process.stderr.write(String(error.message).slice(0, 2000)); process.exit(3) },
  )
`

/** Loads a model, and the files it keeps data in, in onnxruntime before it is listed, as every runner will. Throws ModelNotLoadableError with the runtime's reason. */
export async function tryModel(graph: Uint8Array, external: readonly ExternalFile[] = []): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'assay-try-'))
  try {
    await writeFile(join(folder, 'model.onnx'), graph)
    for (const { path, data } of external) {
      checkExternalPath(path)
      await mkdir(dirname(join(folder, path)), { recursive: true })
      await writeFile(join(folder, path), data)
    }
    const child = spawn(process.execPath, ['-e', loader, join(folder, 'model.onnx')], {
      cwd: join(import.meta.dirname, '..'),
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: 120_000,
    })
    let reason = ''
    child.stderr.on('data', (chunk: Buffer) => {
      reason = (reason + chunk.toString()).slice(0, 2_000)
    })
    const code = await new Promise<number | null>((resolve) => child.once('exit', resolve))
    if (code === 0) return
    throw new ModelNotLoadableError(
      code === 3 ? `onnxruntime does not load the model: ${reason}` : 'onnxruntime crashed or hung on the model.',
    )
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
