import { createEdge } from '../../functions/app.ts'
import type { Context } from '../../functions/context.ts'
import { readSettings } from '../../functions/env.ts'
import { openHeaders } from '../../functions/errors.ts'
import { Carrier, type Carry } from '../../functions/mailbox/carrier.ts'
import { Directory } from '../../functions/match/directory.ts'
import { Loads } from '../../functions/match/loads.ts'
import type { ExecutionContext, MailboxNamespace } from '../../functions/platform.ts'

export { Mailbox } from '../../functions/mailbox.ts'

/** The Worker the edge bench measures: the edge's own app over a mailbox that answers on the spot (`hono`), a handler that does the same by hand (`hand`), and the app over the real mailbox (`mailbox`). */

type Bindings = Record<string, unknown> & { MODE: 'hono' | 'hand' | 'mailbox'; MAILBOX: MailboxNamespace }

const answer = new Uint8Array(600)
answer[0] = 2
/** Stands in for the mailboxes: the answer is there at once. */
const onTheSpot: Carry = async () => ({ queued: 0, capacity: 1_000, frame: answer })

function after(ms: number, run: () => void): () => void {
  const timer = setTimeout(run, ms)
  return () => clearTimeout(timer)
}

function contextOf(bindings: Bindings): Context {
  const now = () => Date.now()
  const unused = () => Promise.reject(new Error('The bench asks for jobs only.'))
  return {
    settings: readSettings(bindings),
    database: null as never,
    directory: new Directory(
      { runnersOf: unused, listingOf: unused, countOnline: unused },
      { now, sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)) },
    ),
    artifacts: null as never,
    account: null,
    mailbox: bindings.MAILBOX,
    carry: bindings.MODE === 'hono' ? onTheSpot : new Carrier({ mailbox: bindings.MAILBOX, now, after }).carry,
    registry: null as never,
    domain: null as never,
    roots: [],
    policy: null as never,
    fetch: unused,
    now,
    random: Math.random,
    log: () => {},
  }
}

const loads = new Loads()
const unheard = () => {}

/** Does what the job's door does with no framework: the same checks, the same headers. */
async function byHand(request: Request): Promise<Response> {
  const requestId = crypto.randomUUID()
  const { pathname } = new URL(request.url)
  const signer = /^\/v1\/runners\/(0x[0-9a-fA-F]{40})\/jobs$/.exec(pathname)?.[1]?.toLowerCase()
  if (request.method !== 'POST' || !signer) return new Response('{}', { status: 404 })
  if (Number(request.headers.get('content-length')) > 24 * 1024 * 1024) return new Response('{}', { status: 413 })
  const body = await request.arrayBuffer()
  if (request.headers.get('prefer') !== null || body.byteLength === 0) return new Response('{}', { status: 501 })
  const { queued, capacity, frame } = await onTheSpot(signer, body, unheard)
  loads.note(signer, { queued, capacity }, Date.now())
  return new Response(frame, {
    headers: {
      ...openHeaders,
      'x-request-id': requestId,
      'assay-load': `${queued}/${capacity}`,
      'content-type': 'application/octet-stream',
    },
  })
}

let edge: ReturnType<typeof createEdge> | undefined

export default {
  async fetch(request: Request, bindings: Bindings, execution: ExecutionContext): Promise<Response> {
    if (bindings.MODE === 'hand') return byHand(request)
    const socket =
      request.method === 'GET' && /^\/bench\/socket\/(0x[0-9a-f]{40})$/.exec(new URL(request.url).pathname)?.[1]
    if (socket) {
      const stub = bindings.MAILBOX.get(bindings.MAILBOX.idFromName(socket))
      const upgrade = { headers: { upgrade: 'websocket' } }
      return (await stub.fetch(`https://mailbox/socket?runner=${socket}`, upgrade)) as unknown as Response
    }
    edge ??= createEdge(contextOf(bindings))
    return edge(request, bindings, execution)
  },
}
