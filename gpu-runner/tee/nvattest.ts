import { execFile } from 'node:child_process'
import { fromBase64, fromUtf8, toHex } from '../../protocol/bytes.ts'
import type { GpuEvidence } from '../../protocol/evidence/gpu.ts'
import { TeeUnavailableError } from './configfsTsm.ts'

const timeoutMs = 10_000
const maxOutputBytes = 16 * 1024 * 1024

type Collected = { evidences?: unknown; result_code?: unknown }
type Entry = { arch: string; nonce: string; evidence: string; certificate: string }

const isEntry = (value: unknown): value is Entry => {
  const entry = (value ?? {}) as Record<string, unknown>
  return ['arch', 'nonce', 'evidence', 'certificate'].every((field) => typeof entry[field] === 'string')
}

/** Collects the evidence of every GPU of this machine for a nonce (32 bytes) through NVIDIA's tool (`nvattest collect-evidence`). Throws TeeUnavailableError saying what to do; a GPU that answered another nonce is not passed on. */
export async function collectGpuEvidence(
  nonce: Uint8Array,
  { path = 'nvattest' }: { path?: string } = {},
): Promise<GpuEvidence[]> {
  const hex = toHex(nonce).slice(2)
  const output = await new Promise<string>((resolve, reject) => {
    const words = ['collect-evidence', '--device', 'gpu', '--nonce', hex, '--format', 'json']
    execFile(path, words, { timeout: timeoutMs, maxBuffer: maxOutputBytes, killSignal: 'SIGKILL' }, (error, stdout) => {
      if (!error) return resolve(stdout)
      const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
      const detail = missing
        ? `${path} is not installed: install NVIDIA's attestation SDK, or name its path.`
        : error.killed
          ? `${path} gave no evidence within ${timeoutMs / 1000} s.`
          : `${path} failed with exit code ${error.code}: is the GPU in confidential-computing mode?`
      reject(new TeeUnavailableError(detail))
    })
  })
  let collected: Collected
  try {
    collected = JSON.parse(output) as Collected
  } catch {
    throw new TeeUnavailableError(`${path} printed something other than JSON.`)
  }
  const { evidences, result_code: code } = collected
  if (code !== 0) throw new TeeUnavailableError(`${path} reports result code ${String(code).slice(0, 16)}.`)
  if (!Array.isArray(evidences) || evidences.length === 0 || !evidences.every(isEntry))
    throw new TeeUnavailableError(`${path} printed no evidence of any GPU.`)
  return evidences.map(({ arch, nonce: answered, evidence, certificate }) => {
    if (answered.toLowerCase().replace(/^0x/, '') !== hex)
      throw new TeeUnavailableError(`${path} printed evidence for another nonce.`)
    try {
      return { arch, evidence: fromBase64(evidence), certificates: fromUtf8(fromBase64(certificate)) }
    } catch (cause) {
      throw new TeeUnavailableError(`${path} printed evidence that is not base64.`, { cause })
    }
  })
}
