import { connect } from 'node:net'

/** Counts what a round of load got back. */
export type Round = { perSecond: number; answered: number; failed: number }

/** Keeps `connections` requests under way for `ms` milliseconds over plain sockets, so that the generator costs little beside what it measures. `next` gives the bytes of each request. */
export async function load(
  url: string,
  { connections, ms, next }: { connections: number; ms: number; next: () => Uint8Array },
): Promise<Round> {
  const { hostname, port } = new URL(url)
  let answered = 0
  let failed = 0
  const started = performance.now()
  const until = started + ms
  const one = () =>
    new Promise<void>((resolve, reject) => {
      const socket = connect({ host: hostname, port: Number(port), noDelay: true })
      let rest: Buffer = Buffer.alloc(0)
      const send = () => (performance.now() < until ? void socket.write(next()) : socket.end(() => resolve()))
      socket.on('connect', send)
      socket.on('error', reject)
      socket.on('close', () => reject(new Error('The connection was closed before its answer.')))
      socket.on('data', (chunk: Buffer) => {
        rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
        const head = rest.indexOf('\r\n\r\n')
        if (head === -1) return
        const header = rest.toString('latin1', 0, head)
        const length = Number(/\r\ncontent-length: (\d+)/i.exec(header)?.[1])
        if (Number.isNaN(length)) return socket.destroy(new Error(`An answer without length: ${header}`))
        if (rest.length < head + 4 + length) return
        if (header.startsWith('HTTP/1.1 200')) answered++
        else failed++
        rest = rest.subarray(head + 4 + length)
        send()
      })
    })
  await Promise.all(Array.from({ length: connections }, one))
  return { perSecond: (answered * 1_000) / (performance.now() - started), answered, failed }
}

/** Writes one HTTP/1.1 POST. */
export function post(path: string, body: Uint8Array): Buffer {
  const head = `POST ${path} HTTP/1.1\r\nHost: edge\r\nContent-Type: application/octet-stream\r\nContent-Length: ${body.length}\r\n\r\n`
  return Buffer.concat([Buffer.from(head, 'latin1'), body])
}
