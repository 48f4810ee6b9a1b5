import { connect } from 'node:net'

type Waiting = { resolve: (response: Response) => void; reject: (error: Error) => void }

/** Speaks HTTP/1.1 to one server over plain sockets that stay open, one request under way on each: as cheap as what asks the server it is compared with. */
export type Transport = { fetch: typeof fetch; close(): void }

/** Makes a transport. What it answers has of a Response what the SDK reads: status, bytes and JSON. */
export function openTransport(url: string): Transport {
  const { hostname, port } = new URL(url)
  const idle: Connection[] = []
  const all = new Set<Connection>()
  const open = (): Connection => {
    const connection = openConnection(hostname, Number(port), () => idle.push(connection))
    all.add(connection)
    return connection
  }
  const ask = (target: unknown, { method, headers, body }: RequestInit = {}): Promise<Response> => {
    const path = String(target).slice(url.length)
    const bytes = body as Uint8Array | undefined
    let head = `${method} ${path} HTTP/1.1\r\nhost: edge\r\ncontent-length: ${bytes?.length ?? 0}\r\n`
    for (const [name, value] of Object.entries(headers as Record<string, string>)) head += `${name}: ${value}\r\n`
    return (idle.pop() ?? open()).ask(`${head}\r\n`, bytes)
  }
  return {
    fetch: ask as typeof fetch,
    close() {
      for (const { end } of all) end()
    },
  }
}

type Connection = { ask(head: string, body: Uint8Array | undefined): Promise<Response>; end(): void }

function openConnection(host: string, port: number, free: () => void): Connection {
  const socket = connect({ host, port, noDelay: true })
  let rest: Buffer = Buffer.alloc(0)
  let waiting: Waiting | null = null
  const fail = (error: Error) => {
    waiting?.reject(error)
    waiting = null
  }
  socket.on('error', fail)
  socket.on('close', () => fail(new Error('The connection was closed before its answer.')))
  socket.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    const end = rest.indexOf('\r\n\r\n')
    if (end === -1 || !waiting) return
    const head = rest.toString('latin1', 0, end)
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1])
    if (Number.isNaN(length)) return socket.destroy(new Error(`An answer without length: ${head}`))
    if (rest.length < end + 4 + length) return
    const { resolve } = waiting
    waiting = null
    const body = rest.subarray(end + 4, end + 4 + length)
    rest = rest.subarray(end + 4 + length)
    free()
    resolve(answerOf(Number(head.slice(9, 12)), body))
  })
  return {
    ask: (head, body) =>
      new Promise((resolve, reject) => {
        waiting = { resolve, reject }
        const bytes = Buffer.allocUnsafe(head.length + (body?.length ?? 0))
        bytes.write(head, 'latin1')
        if (body) bytes.set(body, head.length)
        socket.write(bytes)
      }),
    end: () => socket.destroy(),
  }
}

function answerOf(status: number, body: Buffer): Response {
  const bytes = async () => body.buffer.slice(body.byteOffset, body.byteOffset + body.length)
  const json = async () => JSON.parse(body.toString())
  return { status, ok: status === 200, arrayBuffer: bytes, json } as unknown as Response
}
