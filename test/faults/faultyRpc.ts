import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Names what a node does to one call: its answer lost after it took effect, the call lost before, the call made twice, the answer late. */
export type RpcFault = 'drop_answer' | 'drop_call' | 'repeat' | 'delay'

/** Stands between a client and a real node and spoils calls as it is told. */
export type FaultyRpc = {
  url: string
  /** Chooses the fault of a call; null lets it pass. Called once for each call that arrives. */
  spoil: (method: string, params: unknown[]) => RpcFault | null
  /** Counts the calls that arrived, by method. */
  calls: Map<string, number>
  dispose(): Promise<void>
}

type Call = { method: string; params?: unknown[] }

/** Starts a faulty way to a node; `delayMs` is how late a late answer is. */
export async function openFaultyRpc(target: string, { delayMs = 400 } = {}): Promise<FaultyRpc> {
  const ask = async (body: string) => {
    const response = await fetch(target, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
    return response.text()
  }
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request as AsyncIterable<Buffer>) body += chunk
    const call = JSON.parse(body) as Call
    it.calls.set(call.method, (it.calls.get(call.method) ?? 0) + 1)
    const fault = it.spoil(call.method, call.params ?? [])
    if (fault === 'drop_call') return response.destroy()
    let answer = await ask(body)
    if (fault === 'drop_answer') return response.destroy()
    // A second delivery is answered by what the node says to it.
    if (fault === 'repeat') answer = await ask(body)
    if (fault === 'delay') await sleep(delayMs)
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(answer)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const it: FaultyRpc = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spoil: () => null,
    calls: new Map(),
    async dispose() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return it
}
