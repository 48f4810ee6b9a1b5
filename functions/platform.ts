/** Names the parts of the Workers runtime the edge uses, so that one type check covers Worker and Node code alike. */
export type {
  DurableObjectNamespace,
  DurableObjectState,
  ExecutionContext,
  R2Bucket,
  R2ObjectBody,
  SqlStorage,
  WebSocket as WorkerSocket,
} from '@cloudflare/workers-types'

import type { WebSocket as WorkerSocket } from '@cloudflare/workers-types'

type Runtime = {
  WebSocketPair: new () => { 0: WorkerSocket; 1: WorkerSocket }
  WebSocketRequestResponsePair: new (request: string, response: string) => never
}

/** Reaches the runtime's own constructors, which Node does not have. */
export const runtime = globalThis as unknown as Runtime
