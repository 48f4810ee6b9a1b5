import { createServer, type Server } from 'node:http'
import type { Log } from './log.ts'

/** Says whether a runner can take a job now, and if not why not. */
export type Readiness = { ready: boolean; reasons: string[] }

/** Holds what an operator can ask of a runner on its own machine. */
export type ControlDeps = {
  status: () => object
  readiness: () => Readiness
  metrics: () => string
  settle: () => Promise<object>
  admit: () => Promise<object>
  /** Stops taking jobs; those accepted are finished. Gives how many those are. */
  drain: () => { inFlight: number }
  log: Log
}

type Reply = { status: number; type?: string; body: string }

const json = (status: number, body: object): Reply => ({ status, body: JSON.stringify(body) })

/** Decides about readiness: every reason against is named, none is guessed. Times in unix seconds. */
export function readinessOf(state: {
  draining: boolean
  connected: boolean
  models: number
  validUntil: number
  now: number
  journalFailing: boolean
}): Readiness {
  const reasons: string[] = []
  if (state.draining) reasons.push('draining')
  if (!state.connected) reasons.push('not connected to the edge')
  if (state.models === 0) reasons.push('serves no model')
  if (state.validUntil <= state.now) reasons.push('its attestation has run out')
  if (state.journalFailing) reasons.push('its journal cannot be written')
  return { ready: reasons.length === 0, reasons }
}

/** Makes the control server: for the machine's own operator, so it listens on the loopback address only. */
export function createControl(deps: ControlDeps): Server {
  const routes: Record<string, () => Reply | Promise<Reply>> = {
    'GET /status': () => json(200, deps.status()),
    'GET /live': () => json(200, { live: true }),
    'GET /ready': () => {
      const readiness = deps.readiness()
      return json(readiness.ready ? 200 : 503, readiness)
    },
    'GET /metrics': () => ({ status: 200, type: 'text/plain; version=0.0.4; charset=utf-8', body: deps.metrics() }),
    'POST /settle': async () => json(200, await deps.settle()),
    'POST /models': async () => json(200, await deps.admit()),
    'POST /drain': () => json(202, { draining: true, ...deps.drain() }),
  }
  return createServer(async (request, response) => {
    let reply: Reply
    try {
      const route = routes[`${request.method} ${request.url}`]
      reply = route ? await route() : json(404, { error: `Not here. Try ${Object.keys(routes).join(', ')}.` })
    } catch (error) {
      const message = error instanceof Error ? error.message : 'unknown'
      deps.log('control_failed', { message })
      reply = json(500, { error: message })
    }
    response.writeHead(reply.status, { 'content-type': reply.type ?? 'application/json' })
    response.end(reply.body)
  })
}
