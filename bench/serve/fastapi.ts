import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../dev/processes.ts'
import { load, post } from '../edge/load.ts'
import { buildModel, type ModelName, models } from './model.ts'

/** Tells why the Python stack cannot be measured here; null when it can. */
export function missingPython(): string | null {
  const { status } = spawnSync('python3', ['-c', 'import fastapi, uvicorn, onnxruntime, numpy'], { stdio: 'ignore' })
  return status === 0 ? null : 'python3 with fastapi, uvicorn, onnxruntime and numpy is not installed'
}

/** Starts FastAPI on uvicorn with onnxruntime and the same model. `rate` keeps so many requests in flight for a while and gives how many were answered a second. */
export async function startFastApi(
  model: ModelName,
): Promise<{ rate(ms: number, inFlight: number): Promise<number>; stop(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), 'assay-bench-fastapi-'))
  writeFileSync(join(folder, 'model.onnx'), buildModel(model).graph)
  const port = await freePort()
  const child = spawn(
    'python3',
    ['-m', 'uvicorn', 'fastapi_app:app', '--port', String(port), '--log-level', 'critical', '--no-access-log'],
    { cwd: import.meta.dirname, env: { ...process.env, MODEL: join(folder, 'model.onnx') }, stdio: 'ignore' },
  )
  const url = `http://127.0.0.1:${port}`
  const stop = async () => {
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    if (child.exitCode === null) await ended
    rmSync(folder, { recursive: true, force: true })
  }
  for (let left = 150; ; left--) {
    const up = await fetch(`${url}/openapi.json`).then(
      ({ ok }) => ok,
      () => false,
    )
    if (up) break
    if (left === 0 || child.exitCode !== null) {
      await stop()
      throw new Error('The Python server did not start.')
    }
    await sleep(200)
  }
  const body = new Uint8Array(new Float32Array(models[model][0]).fill(0.5).buffer)
  const request = post('/infer', body)
  return {
    async rate(ms, inFlight) {
      const { perSecond, failed } = await load(url, { connections: inFlight, ms, next: () => request })
      if (failed > 0) throw new Error(`The Python server failed ${failed} requests.`)
      return perSecond
    },
    stop,
  }
}
