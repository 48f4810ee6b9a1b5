import { connect } from 'node:net'

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

/** Reads answers, with a length or in chunks, and gives each as soon as its head is there. */
function openConnection(host: string, port: number, free: () => void): Connection {
  const socket = connect({ host, port, noDelay: true })
  let rest: Buffer = Buffer.alloc(0)
  let waiting: { resolve: (response: Response) => void; reject: (error: Error) => void } | null = null
  let body: Body | null = null
  /** Bytes of the body still to come, or null where they come in chunks. */
  let left: number | null = null
  const fail = (error: Error) => {
    waiting?.reject(error)
    body?.fail(error)
    waiting = null
    body = null
  }
  const take = (length: number, skipped = 0) => {
    if (length > 0) body!.push(rest.subarray(0, length))
    rest = rest.subarray(length + skipped)
  }
  const end = () => {
    body!.end()
    body = null
    free()
  }
  const readHead = (): boolean => {
    const length = rest.indexOf('\r\n\r\n')
    if (length === -1 || !waiting) return false
    const head = rest.toString('latin1', 0, length)
    rest = rest.subarray(length + 4)
    const stated = /\r\ncontent-length: (\d+)/i.exec(head)?.[1]
    if (stated === undefined && !/\r\ntransfer-encoding: chunked/i.test(head)) throw new Error(`No length: ${head}`)
    left = stated === undefined ? null : Number(stated)
    body = openBody()
    waiting.resolve(answerOf(Number(head.slice(9, 12)), body))
    waiting = null
    return true
  }
  const readBody = (known: number): boolean => {
    const length = Math.min(known, rest.length)
    left = known - length
    take(length)
    if (left > 0) return false
    end()
    return true
  }
  const readChunk = (): boolean => {
    const line = rest.indexOf('\r\n')
    const length = line === -1 ? 0 : Number.parseInt(rest.toString('latin1', 0, line), 16)
    if (line === -1 || rest.length < line + 2 + length + 2) return false
    rest = rest.subarray(line + 2)
    take(length, 2)
    if (length === 0) end()
    return true
  }
  const read = () => (body === null ? readHead() : left === null ? readChunk() : readBody(left))
  socket.on('error', fail)
  socket.on('close', () => fail(new Error('The connection was closed before its answer.')))
  socket.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    try {
      while (read());
    } catch (error) {
      socket.destroy(error as Error)
    }
  })
  return {
    ask: (head, bytes) =>
      new Promise((resolve, reject) => {
        waiting = { resolve, reject }
        const message = Buffer.allocUnsafe(head.length + (bytes?.length ?? 0))
        message.write(head, 'latin1')
        if (bytes) message.set(bytes, head.length)
        socket.write(message)
      }),
    end: () => socket.destroy(),
  }
}

type Body = ReturnType<typeof openBody>

/** Holds the bytes of an answer that have come and were not read. */
function openBody() {
  const chunks: Buffer[] = []
  let ended = false
  let failed: Error | null = null
  let wake = () => {}
  return {
    push(chunk: Buffer) {
      chunks.push(chunk)
      wake()
    },
    end() {
      ended = true
      wake()
    },
    fail(error: Error) {
      failed = error
      wake()
    },
    async read(): Promise<{ done: boolean; value: Buffer | undefined }> {
      while (chunks.length === 0 && !ended) {
        if (failed) throw failed
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      return { done: chunks.length === 0, value: chunks.shift() }
    },
  }
}

function answerOf(status: number, body: Body): Response {
  const all = async () => {
    const chunks: Buffer[] = []
    for (let { value } = await body.read(); value; { value } = await body.read()) chunks.push(value)
    return Buffer.concat(chunks)
  }
  return {
    status,
    ok: status === 200,
    arrayBuffer: async () => new Uint8Array(await all()).buffer,
    json: async () => JSON.parse((await all()).toString()),
    body: { getReader: () => ({ read: body.read }) },
  } as unknown as Response
}
