import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'

/** Holds a server that listens. */
export type Listening = { url: string; port: number; close(): Promise<void> }

/** Serves a handler over HTTP/1.1 at an address of this machine; port 0 takes a free one. Throws when the port is taken. */
export async function serve(
  handler: (request: Request) => Promise<Response>,
  { host = '127.0.0.1', port }: { host?: string; port: number },
): Promise<Listening> {
  const server = createServer(async (incoming, outgoing) => {
    try {
      await send(outgoing, await handler(toRequest(incoming)))
    } catch {
      // What cannot even be read as a request: a Host header that is none, a path that is a whole URL.
      if (!outgoing.headersSent) outgoing.writeHead(400, { 'content-type': 'application/json' })
      outgoing.end(unreadable(400))
    }
  })
  // The parser's own refusals, which Node answers without a body.
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (!socket.writable) return
    const status = statusOfParser[error.code ?? ''] ?? 400
    const body = unreadable(status)
    socket.end(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  const actual = (server.address() as AddressInfo).port
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${actual}`,
    port: actual,
    async close() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeIdleConnections()
      })
    },
  }
}

const statusOfParser: Record<string, number> = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }

/** Words what is wrong with bytes that are no request this server can read, and what to send in their place. */
function unreadable(status: number): string {
  const words: Record<number, string> = {
    408: 'The request did not come to its end in time. Send it again, faster.',
    431: 'The headers or the path are too long. Send shorter ones.',
  }
  const other =
    'This is not a request that can be read. It takes HTTP/1.1, a known method, a path such as /v2, one Host and the true length of the body.'
  return JSON.stringify({ error: words[status] ?? other })
}

function toRequest(incoming: IncomingMessage): Request {
  const headers = new Headers()
  for (let at = 0; at < incoming.rawHeaders.length; at += 2)
    headers.append(incoming.rawHeaders[at]!, incoming.rawHeaders[at + 1]!)
  const method = incoming.method ?? 'GET'
  const body = method === 'GET' || method === 'HEAD' ? undefined : bodyOf(incoming)
  // The path as it came: a whole URL in its place (RFC 9112 section 3.2.2) would name another host.
  const url = new URL(`http://${incoming.headers.host}`)
  if (!incoming.url?.startsWith('/')) throw new Error('The request names no path.')
  return new Request(`${url.origin}${incoming.url}`, {
    method,
    headers,
    ...(body ? { body, duplex: 'half' } : {}),
  } as RequestInit)
}

/** Gives a body that may be left unread: the connection lives on, so that the refusal arrives. */
function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  const chunks = incoming.iterator({ destroyOnReturn: false })
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next()
      if (done) controller.close()
      else controller.enqueue(value)
    },
    async cancel() {
      await chunks.return?.()
    },
  })
}

async function send(outgoing: ServerResponse, response: Response): Promise<void> {
  const body = new Uint8Array(await response.arrayBuffer())
  outgoing.writeHead(response.status, { ...Object.fromEntries(response.headers), 'content-length': body.length })
  outgoing.end(body)
}
