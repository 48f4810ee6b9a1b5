import { join } from 'node:path'
import { build } from 'esbuild'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, test } from 'vitest'

/** Asks a server that gives back what it is asked, both in one Worker, in binary and in JSON. */
const worker = `
  import { createOipClient } from './client/oip.ts'
  import { chooseOutputs, readHeaderLength, readInferRequest, writeInferResponse } from './protocol/oipHttp.ts'

  const echo = async (url, init) => {
    const request = new Request(url, init)
    const body = new Uint8Array(await request.arrayBuffer())
    const asked = readInferRequest(body, readHeaderLength(request.headers.get('inference-header-content-length'), body.length))
    const { bytes, headerLength } = writeInferResponse({ modelName: 'm', parameters: {}, outputs: chooseOutputs(asked, asked.inputs) })
    return new Response(bytes, headerLength === null ? {} : { headers: { 'inference-header-content-length': String(headerLength) } })
  }

  export default {
    async fetch() {
      const client = createOipClient({ baseUrl: 'http://echo.test', fetch: echo })
      const inputs = [
        { name: 'l', shape: [2], data: BigInt64Array.of(-(2n ** 63n), 2n ** 53n + 1n) },
        { name: 'f', shape: [3], data: Float32Array.of(-0, NaN, 0.1) },
        { name: 's', shape: [2], data: ['é', ''] },
        { name: 'b', shape: [1], datatype: 'BOOL', data: Uint8Array.of(1) },
      ]
      const half = { name: 'h', shape: [1], datatype: 'FP16', data: Uint16Array.of(0x3c00) }
      const told = async (binary) => {
        const { outputs } = await client.infer('m', { inputs: binary ? [...inputs, half] : inputs, binary })
        return outputs.map(({ name, datatype, data }) => [name, datatype, Array.from(data, (each) => Object.is(each, -0) ? '-0' : String(each))])
      }
      return Response.json({ binary: await told(true), json: await told(false) })
    },
  }
`

let miniflare: Miniflare
beforeAll(async () => {
  const { outputFiles } = await build({
    stdin: { contents: worker, resolveDir: join(import.meta.dirname, '../..'), loader: 'ts' },
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
    logLevel: 'error',
  })
  miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: [{ type: 'ESModule', path: 'index.js', contents: outputFiles[0]!.text }],
      compatibilityDate: '2026-10-01',
    }),
  )
})
afterAll(async () => {
  await miniflare?.dispose()
})

test('behavior: client and codec do the same in workerd, with nothing of Node, in binary and in JSON', async () => {
  const response = await miniflare.dispatchFetch('http://worker.test/')
  const { binary, json } = (await response.json()) as { binary: unknown[]; json: unknown[] }
  expect(json).toEqual([
    ['l', 'INT64', ['-9223372036854775808', '9007199254740993']],
    ['f', 'FP32', ['-0', 'NaN', String(Math.fround(0.1))]],
    ['s', 'BYTES', ['195,169', '']],
    ['b', 'BOOL', ['1']],
  ])
  expect(binary.slice(0, 4)).toEqual(json)
  // A Float16Array where the platform has one, its bits where it has none.
  expect([['1'], ['15360']]).toContainEqual((binary[4] as unknown[])[2])
})
