import { request } from 'node:http'
import { EncodingError, fromHex, toHex } from '../../protocol/bytes.ts'
import { TeeUnavailableError } from './configfsTsm.ts'
import type { Tee } from './tee.ts'

const timeoutMs = 10_000
const maxAnswerBytes = 4 * 1024 * 1024

/** Asks the guest agent over its unix socket and reads the whole answer. */
function ask(socketPath: string, method: string, body: object): Promise<string> {
  return new Promise((resolve, reject) => {
    const unavailable = (detail: string, cause?: unknown) =>
      reject(new TeeUnavailableError(`dstack's guest agent at ${socketPath} ${detail}`, { cause }))
    const asked = request(
      {
        socketPath,
        path: `/${method}`,
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        timeout: timeoutMs,
      },
      (response) => {
        const chunks: Buffer[] = []
        let length = 0
        response.on('data', (chunk: Buffer) => {
          length += chunk.length
          if (length > maxAnswerBytes) asked.destroy(new Error('too long'))
          else chunks.push(chunk)
        })
        response.on('end', () => {
          if (response.statusCode !== 200) return unavailable(`answered ${response.statusCode} to ${method}.`)
          resolve(Buffer.concat(chunks).toString('utf8'))
        })
        response.on('error', (error) => unavailable('broke off its answer.', error))
      },
    )
    asked.on('timeout', () => asked.destroy(new Error('timeout')))
    asked.on('error', (error) => unavailable('does not answer: is the socket mounted into this container?', error))
    asked.end(JSON.stringify(body))
  })
}

/** Takes TDX quotes from dstack's guest agent (dstack guest API, GetQuote), which shares one TD among containers. */
export function dstack(socketPath = '/var/run/dstack.sock'): Tee {
  return {
    root: 'vendor',
    async evidence(reportData) {
      const answer = await ask(socketPath, 'GetQuote', { report_data: toHex(reportData).slice(2) })
      try {
        const { quote } = JSON.parse(answer) as { quote?: unknown }
        if (typeof quote !== 'string') throw new EncodingError('no quote')
        return { format: 'tdx', quote: fromHex(quote.startsWith('0x') ? quote : `0x${quote}`) }
      } catch (cause) {
        throw new TeeUnavailableError(`dstack's guest agent at ${socketPath} answered without a quote.`, { cause })
      }
    },
  }
}
