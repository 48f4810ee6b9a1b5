import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { dstack } from '../../../gpu-runner/tee/dstack.ts'

const cleanups: (() => void)[] = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

/** Stands in for dstack's guest agent: a unix socket that speaks its JSON. */
async function agent(handle: RequestListener): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'assay-dstack-'))
  const path = join(folder, 'dstack.sock')
  const server = createServer(handle)
  await new Promise<void>((resolve) => server.listen(path, resolve))
  cleanups.push(() => {
    server.closeAllConnections()
    server.close()
    rmSync(folder, { recursive: true })
  })
  return path
}

const quoting: RequestListener = async (request, response) => {
  let body = ''
  for await (const chunk of request) body += chunk
  if (request.method !== 'POST' || request.url !== '/GetQuote') return void response.writeHead(404).end()
  const { report_data: reportData } = JSON.parse(body)
  response.end(JSON.stringify({ quote: `0400${reportData}`, event_log: '[]', vm_config: '{}' }))
}

describe('dstack', () => {
  const reportData = new Uint8Array(64).fill(3)

  test('behavior: asks for the report data and gives the quote', async () => {
    const evidence = await dstack(await agent(quoting)).evidence(reportData)
    expect(evidence).toEqual({ format: 'tdx', quote: Uint8Array.from([4, 0, ...reportData]) })
  })

  test.each<[string, RequestListener, RegExp]>([
    ['an error', (_, response) => response.writeHead(500).end('no TDX here'), /answered 500/],
    ['something other than JSON', (_, response) => response.end('<html>'), /without a quote/],
    ['an answer without a quote', (_, response) => response.end('{"event_log":"[]"}'), /without a quote/],
    ['a quote that is not hexadecimal', (_, response) => response.end('{"quote":"zz"}'), /without a quote/],
    ['a connection broken off', (request) => request.socket.destroy(), /does not answer|broke off/],
    [
      'an endless answer',
      (_, response) => {
        for (let i = 0; i < 80; i++) response.write('x'.repeat(65_536))
        response.end()
      },
      /does not answer|broke off/,
    ],
  ])('refusal: %s', async (_, handle, why) => {
    await expect(dstack(await agent(handle)).evidence(reportData)).rejects.toThrow(why)
  })

  test('refusal: no agent', async () => {
    await expect(dstack('/nowhere/dstack.sock').evidence(reportData)).rejects.toThrow('is the socket mounted')
  })
})
