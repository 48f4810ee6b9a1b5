/** Names the parts of the Workers runtime the edge uses, so that one type check covers Worker and Node code alike. */
export type {
  DurableObjectState,
  ExecutionContext,
  R2Bucket,
  R2ObjectBody,
  SqlStorage,
  WebSocket as WorkerSocket,
} from '@cloudflare/workers-types'

import type { DurableObjectStub, WebSocket as WorkerSocket } from '@cloudflare/workers-types'
import type { Hex } from '../protocol/bytes.ts'
import type { LeaseAnswer, LeaseRequest, Returned } from './services/credit.ts'
import type { Vouched } from './services/vouching.ts'

/** What becomes of a posted job: the answer's frame, or the problem it met; and the runner's load either way. */
export type Relayed = {
  queued: number
  capacity: number
  frame?: Uint8Array<ArrayBuffer>
  problem?: { code: string; message: string; hint: string | undefined; extra: Record<string, unknown> | undefined }
}

/** What becomes of several jobs of one call, each at its place: the frames of those answered, joined and empty for the others; the problems of those that met one. A job with neither has not ended yet. */
export type RelayedTogether = {
  load: { queued: number; capacity: number }
  answers: ArrayBuffer
  problems: (Relayed['problem'] | null)[]
}

/** Reaches one runner's mailbox: jobs by a call, which costs less than a request, and the rest by requests. */
export type MailboxStub = Pick<DurableObjectStub, 'fetch'> & {
  job(runner: string, body: ArrayBuffer): Promise<Relayed>
  jobs(runner: string, bodies: ArrayBuffer): Promise<RelayedTogether>
  load(runner: string): Promise<{ queued: number; capacity: number; connected: boolean }>
  recall(buyer: Hex): Promise<Returned>
}

/** Reaches the mailboxes by their runners' addresses. */
export type MailboxNamespace = { idFromName(name: string): unknown; get(id: unknown): MailboxStub }

/** Reaches one buyer's account. */
export type AccountStub = {
  lease(buyer: Hex, request: LeaseRequest): Promise<LeaseAnswer>
  vouched(voucher: Vouched): Promise<boolean>
  view(buyer: Hex): Promise<{ deposit: bigint; owed: bigint; leased: bigint; available: bigint }>
}

/** Reaches the accounts by their buyers' addresses. */
export type AccountNamespace = { idFromName(name: string): unknown; get(id: unknown): AccountStub }

type Runtime = {
  WebSocketPair: new () => { 0: WorkerSocket; 1: WorkerSocket }
  WebSocketRequestResponsePair: new (request: string, response: string) => never
}

/** Reaches the runtime's own constructors, which Node does not have. */
export const runtime = globalThis as unknown as Runtime
