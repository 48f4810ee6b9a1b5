import type { Tensor } from '../../protocol/tensors.ts'

/** Asks an executor process for something; answered under the same id. */
export type ExecutorRequest =
  | {
      id: number
      op: 'load'
      model: string
      graph: Uint8Array
      external: { path: string; data: Uint8Array }[]
      threads: number
    }
  | { id: number; op: 'run'; model: string; feeds: Tensor[] }

/** Answers a request: outputs of a run, nothing for a load, or why it failed. */
export type ExecutorResponse = { id: number; outputs: Tensor[] } | { id: number; error: string }
