import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Assay } from '../../client/assay.ts'
import { createOipClient, OipError } from '../../client/oip.ts'
import { bundleName, createProxy } from '../../client/proxy.ts'
import { type Listening, serve } from '../../client/proxyServer.ts'
import { developmentKey } from '../../dev/keys.ts'
import { createRandom, drawDigit } from '../../dev/sample/glyphs.ts'
import { sampleModel } from '../../dev/sample/model.ts'
import { localBuyer } from '../../dev/story.ts'
import { type Bundle, verifyBundle } from '../../protocol/bundle.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { defaultPolicy } from '../../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../../protocol/evidence/roots.development.ts'
import { TensorError } from '../../protocol/oip.ts'
import { eventually, fund, list, openMarketplace } from '../e2e/marketplace.ts'

describe('createOipClient', () => {
  /** Answers with what a server of another make would send, and writes down what it was asked. */
  const against = (answer: (request: Request) => Response | Promise<Response>) => {
    const asked: Request[] = []
    const client = createOipClient({
      baseUrl: 'http://triton.test/',
      headers: { authorization: 'Bearer t' },
      fetch: async (input, init) => {
        const request = new Request(input as string, init)
        asked.push(request.clone())
        return answer(request)
      },
    })
    return { client, asked }
  }
  const json = (value: unknown) => Response.json(value)

  test('behavior: an input of every kind goes out as the bytes the protocol names', async () => {
    const { client, asked } = against(() => json({ model_name: 'm', outputs: [] }))
    const inputs = [
      { name: 'f', shape: [2], data: Float32Array.of(1, -0) },
      { name: 'l', shape: [1], data: BigInt64Array.of(-1n) },
      { name: 'b', shape: [3], datatype: 'BOOL' as const, data: Uint8Array.of(1, 0, 1) },
      { name: 'h', shape: [1], datatype: 'FP16' as const, data: Uint16Array.of(0x3c00) },
      { name: 's', shape: [2], data: ['é', ''] },
    ]
    await client.infer('owner/m', { id: '9', inputs, outputs: ['y'], version: '1 a', binary: true })
    const [request] = asked
    expect(request!.url).toBe('http://triton.test/v2/models/owner%2Fm/versions/1%20a/infer')
    expect(request!.headers.get('authorization')).toBe('Bearer t')
    const length = Number(request!.headers.get('inference-header-content-length'))
    const body = new Uint8Array(await request!.arrayBuffer())
    const named = (name: string, datatype: string, shape: number[], size: number) => ({
      name,
      datatype,
      shape,
      parameters: { binary_data_size: size },
    })
    expect(JSON.parse(new TextDecoder().decode(body.subarray(0, length)))).toEqual({
      id: '9',
      inputs: [
        named('f', 'FP32', [2], 8),
        named('l', 'INT64', [1], 8),
        named('b', 'BOOL', [3], 3),
        named('h', 'FP16', [1], 2),
        named('s', 'BYTES', [2], 10),
      ],
      outputs: [{ name: 'y', parameters: { binary_data: true } }],
    })
    expect(Buffer.from(body.subarray(length)).toString('hex')).toBe(
      `${'0000803f00000080'}${'ff'.repeat(8)}010001003c02000000c3a900000000`,
    )
  })

  test('behavior: an answer with raw tensors at odd offsets is read into typed arrays', async () => {
    const header = JSON.stringify(
      {
        model_name: 'm',
        model_version: '3',
        id: null,
        outputs: [
          { name: 'flag', datatype: 'BOOL', shape: [1], parameters: { binary_data_size: 1 } },
          { name: 'f', datatype: 'FP64', shape: [1], parameters: { binary_data_size: 8 } },
          { name: 'h', datatype: 'FP16', shape: [1], parameters: { binary_data_size: 2 } },
          { name: 'text', datatype: 'BYTES', shape: [1], data: ['ja'] },
          { name: 'big', datatype: 'UINT64', shape: [1], data: [18446744073709551615n] },
        ],
      },
      (_, value) =>
        typeof value === 'bigint'
          ? (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(String(value))
          : value,
    )
    const raw = Buffer.concat([
      Buffer.from(header),
      Buffer.of(1),
      Buffer.from(new Float64Array([0.1]).buffer),
      Buffer.of(0, 0x3c),
    ])
    const { client } = against(
      () => new Response(raw, { headers: { 'inference-header-content-length': String(header.length), 'x-own': '1' } }),
    )
    const answer = await client.infer('m', { inputs: [], binary: true })
    expect(answer).toMatchObject({ modelName: 'm', modelVersion: '3' })
    expect(answer.headers.get('x-own')).toBe('1')
    expect(answer.output('flag').data).toEqual(Uint8Array.of(1))
    expect(answer.output('f').data).toEqual(Float64Array.of(0.1))
    expect([...(answer.output('h').data as Float32Array)]).toEqual([1])
    expect(new TextDecoder().decode(answer.output('text').data[0] as Uint8Array)).toBe('ja')
    expect(answer.output('big').data).toEqual(BigUint64Array.of(2n ** 64n - 1n))
    expect(() => answer.output('none')).toThrow(TensorError)
  })

  test('behavior: raw tensors where the server says it takes them, asked once; JSON where it does not say', async () => {
    const input = { name: 'x', shape: [1], data: Float32Array.of(1) }
    for (const [extensions, binary] of [
      [['binary_tensor_data'], true],
      [[], false],
      [undefined, false],
    ] as const) {
      const { client, asked } = against(({ url }) =>
        url.endsWith('/v2') ? json({ name: 's', extensions }) : json({ model_name: 'm', outputs: [] }),
      )
      await client.infer('m', { inputs: [input] })
      await client.infer('m', { inputs: [input] })
      expect(asked.filter(({ method }) => method === 'GET')).toHaveLength(1)
      const posted = asked.filter(({ method }) => method === 'POST')
      expect(posted.map(({ headers }) => headers.has('inference-header-content-length'))).toEqual([binary, binary])
    }
    let down = true
    const { client, asked } = against(({ url }) =>
      url.endsWith('/v2')
        ? down
          ? new Response('', { status: 503 })
          : json({ extensions: ['binary_tensor_data'] })
        : json({ model_name: 'm', outputs: [] }),
    )
    await client.infer('m', { inputs: [input] })
    down = false
    await client.infer('m', { inputs: [input] })
    const posted = asked.filter(({ method }) => method === 'POST')
    expect(posted.map(({ headers }) => headers.has('inference-header-content-length'))).toEqual([false, true])
  })

  test('refusal: what a server says no to keeps its words, and what it says wrongly is named', async () => {
    const no = against(() => Response.json({ error: 'unknown model' }, { status: 404 }))
    await expect(no.client.infer('m', { inputs: [] })).rejects.toMatchObject({
      name: 'OipError',
      status: 404,
      message: 'unknown model',
    })
    expect(await no.client.ready()).toBe(false)
    const fastApi = against(() => Response.json({ detail: [{ type: 'missing', loc: ['body'] }] }, { status: 422 }))
    await expect(fastApi.client.infer('m', { inputs: [] })).rejects.toThrow('"missing"')
    const gateway = against(() => new Response('<html>', { status: 502 }))
    await expect(gateway.client.model('m')).rejects.toBeInstanceOf(OipError)
    const cut = against(() => new Response('{}', { headers: { 'inference-header-content-length': '90' } }))
    await expect(cut.client.infer('m', { inputs: [] })).rejects.toThrow('the body has 2 bytes')
  })

  test('refusal: an input that is not what it says, before anything is sent', async () => {
    const { client, asked } = against(() => json({}))
    const cases = [
      { name: 'x', shape: [3], data: Float32Array.of(1, 2) },
      { name: 'x', shape: [2], datatype: 'INT32' as const, data: Float32Array.of(1, 2) },
      { name: 'x', shape: [1], datatype: 'FP32' as const, data: ['1'] },
      { name: 'x', shape: [1], data: new DataView(new ArrayBuffer(4)) as unknown as Uint8Array },
    ]
    for (const input of cases) await expect(client.infer('m', { inputs: [input] })).rejects.toThrow(TensorError)
    await expect(
      client.infer('m', {
        inputs: [{ name: 'x', shape: [1], datatype: 'FP16', data: Uint16Array.of(0) }],
        binary: false,
      }),
    ).rejects.toThrow('FP16 has no JSON form')
    expect(asked).toHaveLength(0)
  })
})

const python = process.env.ASSAY_TEST_PYTHON ?? 'python3'
const hasTriton = spawnSync(python, ['-c', 'import tritonclient.http']).status === 0
if (!hasTriton) console.warn(`skipped: ${python} has no tritonclient; name one that has in ASSAY_TEST_PYTHON`)

describe('assay proxy, on a real marketplace', () => {
  let close: () => Promise<void>
  let listening: Listening
  let buyer: Assay
  let digest: Hex
  let owner: Hex
  const bundles = new Map<string, Bundle>()
  let development: string
  let edge: string
  const pixels = (digit: number) => drawDigit(digit, createRandom(digit + 1))

  beforeAll(async () => {
    const opened = await openMarketplace()
    close = opened.close
    development = opened.marketplace.developmentRoot
    edge = opened.marketplace.edgeUrl
    const runner = await opened.marketplace.startRunner()
    buyer = localBuyer(opened.marketplace)
    digest = await list(buyer, runner, sampleModel().graph, 'digits')
    await fund(opened.marketplace, 1_000_000n)
    owner = (await buyer.model(digest)).listing.publisher
    const proxy = createProxy({
      buyer,
      models: [digest],
      maxPrice: 1_000n,
      async keep(inference) {
        bundles.set(bundleName(inference), inference.bundle({ reveal: true }))
        return bundleName(inference)
      },
    })
    listening = await serve(proxy, { port: 0 })
    await eventually(() =>
      buyer.infer(digest, [{ name: 'pixels', datatype: 'FP32', shape: [1, 64], data: new Uint8Array(256) }]),
    )
  })
  afterAll(async () => {
    await listening?.close()
    await close?.()
  })

  test('behavior: found, ready, and the same answer in JSON, binary and raw, each proven by a bundle of its own', async () => {
    const client = createOipClient({ baseUrl: listening.url })
    const name = `${owner}/digits`
    expect(await client.ready()).toBe(true)
    expect(await client.modelReady(name)).toBe(true)
    const { inputs, outputs, platform } = await client.model(name)
    expect(platform).toBe('onnx_onnxv1')
    expect(inputs).toEqual([{ name: 'pixels', datatype: 'FP32', shape: [-1, 64] }])

    const input = { name: 'pixels', shape: [1, 64], data: pixels(7) }
    const binary = await client.infer(name, { id: 'a', inputs: [input] })
    const asJson = await client.infer('digits', { id: 'b', inputs: [input], binary: false })
    const raw = await fetch(`${listening.url}/v2/models/${owner}--digits/infer`, {
      method: 'POST',
      headers: { 'inference-header-content-length': '0' },
      body: new Uint8Array(pixels(7).buffer as ArrayBuffer),
    })
    const rawBytes = new Uint8Array(await raw.arrayBuffer())
    const rawHeader = Number(raw.headers.get('inference-header-content-length'))
    expect([binary.id, asJson.id]).toEqual(['a', 'b'])
    expect(asJson.outputs).toEqual(binary.outputs)
    expect(binary.outputs.map((each) => each.name)).toEqual(outputs.map((each) => each.name))
    const expected = Buffer.concat(
      binary.outputs.map(({ data }) =>
        Buffer.from(
          (data as Float32Array).buffer,
          (data as Float32Array).byteOffset,
          (data as Float32Array).byteLength,
        ),
      ),
    )
    expect(Buffer.from(rawBytes.subarray(rawHeader)).equals(expected)).toBe(true)

    for (const headers of [binary.headers, asJson.headers, raw.headers]) {
      expect(headers.get('assay-verdict')).toMatch(/^verified; tee=tdx; root=development;/)
      const bundle = bundles.get(headers.get('assay-bundle')!)!
      const { verdict } = await verifyBundle(bundle, {
        roots: [readDevelopmentRoots(bundle.chainId, development)],
        policy: defaultPolicy,
      })
      expect(verdict).toBe('verified')
    }
    expect(bundles.size).toBe(3)
  })

  test('behavior: fifty at once are all answered, each with its own', async () => {
    const client = createOipClient({ baseUrl: listening.url })
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) =>
        client.infer(digest, {
          id: String(index),
          inputs: [{ name: 'pixels', shape: [1, 64], data: pixels(index % 10) }],
        }),
      ),
    )
    expect(answers.map(({ id }) => id)).toEqual(Array.from({ length: 50 }, (_, index) => String(index)))
    expect(answers[13]!.outputs).toEqual(answers[3]!.outputs)
    expect(answers[14]!.outputs).not.toEqual(answers[3]!.outputs)
  })

  test('behavior: a request of 16 MiB is one purchase, every row answered', async () => {
    const rows = 65_536
    const data = new Float32Array(rows * 64)
    for (let row = 0; row < rows; row++) data.set(pixels(row % 10), row * 64)
    const client = createOipClient({ baseUrl: listening.url })
    const { output } = await client.infer('digits', { inputs: [{ name: 'pixels', shape: [rows, 64], data }] })
    const { shape, data: answered } = output('probabilities')
    expect(shape).toEqual([rows, 10])
    const guess = (row: number) => {
      const of = (answered as Float32Array).subarray(row * 10, row * 10 + 10)
      return of.indexOf(Math.max(...of))
    }
    expect([3, 17, rows - 1].map(guess)).toEqual([3, 7, (rows - 1) % 10])
  })

  test('refusal: a model that is listed and not served here', async () => {
    const client = createOipClient({ baseUrl: listening.url })
    await expect(client.model('nothing-of-the-kind')).rejects.toMatchObject({ status: 404 })
  })

  test('behavior: `assay proxy` serves the same, keeps bundles only its owner may read, and ends when told', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'assay-proxy-'))
    const cli = join(import.meta.dirname, '../../client/cli.ts')
    const { PATH = '' } = process.env
    const run = (args: string[], env: Record<string, string> = {}) => {
      const child = spawn(
        process.execPath,
        ['--no-warnings', cli, 'proxy', '--edge', edge, '--port', '0', '--json', ...args],
        {
          env: { PATH, ASSAY_KEY: developmentKey('buyer'), ASSAY_DEVELOPMENT_ROOT: development, ...env },
        },
      )
      let errors = ''
      child.stderr.on('data', (chunk) => {
        errors += chunk
      })
      const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
      return { child, ended, errors: () => errors }
    }
    const open = run(['--host', '0.0.0.0'])
    expect(await open.ended).toBe(2)
    expect(open.errors()).toContain('ASSAY_PROXY_TOKEN')

    const { child, ended, errors } = run(['--keep', folder, '--model', digest, '--budget', '1000'], {
      ASSAY_PROXY_TOKEN: 'correct horse',
    })
    const line = await new Promise<string>((resolve) => child.stdout.once('data', (chunk) => resolve(String(chunk))))
    const { url } = JSON.parse(line) as { url: string }
    const inputs = [{ name: 'pixels', shape: [1, 64], data: pixels(7) }]
    await expect(createOipClient({ baseUrl: url }).infer('digits', { inputs })).rejects.toMatchObject({ status: 401 })
    const client = createOipClient({ baseUrl: url, headers: { authorization: 'Bearer correct horse' } })
    const answer = await client.infer('digits', { inputs })
    const file = join(folder, answer.headers.get('assay-bundle')!)
    expect(statSync(file).mode & 0o777).toBe(0o600)
    expect((JSON.parse(readFileSync(file, 'utf8')) as Bundle).receipt.channel).toBe(answer.parameters.assay_channel)
    await expect(client.infer('digits', { inputs })).rejects.toMatchObject({ status: 402 })
    expect(errors()).not.toContain(developmentKey('buyer').slice(2))
    expect(errors()).toContain('POST /v2/models/digits/infer 200 price=1000')
    child.kill('SIGTERM')
    expect(await ended).toBe(0)
    rmSync(folder, { recursive: true })
  })

  test.skipIf(!hasTriton)(
    'behavior: the unmodified Triton client for Python gets the same, in every form it knows',
    async () => {
      const child = spawn(python, [
        join(import.meta.dirname, 'triton.py'),
        listening.url.slice('http://'.length),
        `${owner}/digits`,
      ])
      let out = ''
      let err = ''
      child.stdout.on('data', (chunk) => {
        out += chunk
      })
      child.stderr.on('data', (chunk) => {
        err += chunk
      })
      const code = await new Promise((resolve) => child.on('close', resolve))
      expect([code, err]).toEqual([0, ''])
      const { answers, ready, metadata, refused } = JSON.parse(out)
      expect(ready).toEqual([true, true, true])
      expect(metadata.platform).toBe('onnx_onnxv1')
      expect(refused).toContain('is not one of the outputs')
      expect(Object.keys(answers)).toEqual(['binary', 'json', 'asked', 'gzip', 'deflate'])
      for (const answer of Object.values(answers)) expect(answer).toEqual(answers.binary)
      expect(answers.binary.length).toBeGreaterThan(0)
    },
  )
})
