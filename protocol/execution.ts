import { concat, utf8 } from './bytes.ts'
import { canonicalJson } from './canonicalJson.ts'
import { sha256 } from './hash.ts'

/** Says how a job was run: runtime and version, execution provider, graph optimisation level, intra-op threads, exactness class, whether rows of several jobs share a run, and the runner's workload measurement. */
export type Execution = {
  runtime: string
  runtimeVersion: string
  provider: string
  optimization: string
  threads: number
  class: 'exact' | 'tolerant'
  batch: 'free' | 'single'
  measurement: string
}

const tag = utf8('ASY1exec')

/** Computes the digest a receipt's detail carries for an execution. */
export function executionDigest(execution: Execution): Uint8Array {
  return sha256(concat(tag, utf8(canonicalJson(execution))))
}
