import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterEach, describe, expect, test } from 'vitest'
import type { Inference, InferOptions } from '../../client/assay.ts'
import { EdgeError, JobFailedError, VerificationError } from '../../client/errors.ts'
import { createProxy, type ProxyOptions, readTarget } from '../../client/proxy.ts'
import { type Listening, serve } from '../../client/proxyServer.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { toHex } from '../../protocol/bytes.ts'
import type { TensorSpec } from '../../protocol/manifest.ts'
import { checkTensors } from '../../protocol/oip.ts'
import { encodeReceipt } from '../../protocol/receipt.ts'
import type { Tensor } from '../../protocol/tensors.ts'

const owner = `0x${'ab'.repeat(20)}` as Hex
const digest = `0x${'cd'.repeat(32)}` as Hex
const otherDigest = `0x${'ef'.repeat(32)}` as Hex

const specs: { inputs: TensorSpec[]; outputs: TensorSpec[] } = {
  inputs: [{ name: 'x', datatype: 'FP32', shape: [-1, 2] }],
  outputs: [
    { name: 'y', datatype: 'FP32', shape: [-1, 2] },
    { name: 'label', datatype: 'BYTES', shape: [1] },
    { name: 'half', datatype: 'FP16', shape: [1] },
  ],
}

type World = Partial<ProxyOptions> & {
  inputs?: TensorSpec[]
  outputs?: (inputs: readonly Tensor[]) => Tensor[]
  fail?: () => Error
  noMatch?: boolean
}

/** Makes a proxy over a buyer that doubles what it is asked and writes down what it spent; the verified purchase itself is tested with the marketplace. */
function world({ inputs = specs.inputs, outputs, fail, noMatch = false, ...options }: World = {}) {
  const bought: { tensors: readonly Tensor[]; options: InferOptions }[] = []
  const receipt = {
    channel: new Uint8Array(32).fill(7),
    job: 3n,
    status: 0,
    cumulative: 30n,
    finishedAt: 1_700_000_000n,
    detail: new Uint8Array(32),
  }
  const model = (name: string) => ({
    digest: name === 'other' ? otherDigest : digest,
    manifest: { version: '2', inputs, outputs: specs.outputs, execution: { class: 'exact' } },
    listing: { price: 10n },
  })
  const buyer = {
    edge: {
      async json() {
        if (noMatch) throw new EdgeError('no_match', 404, 'No runner is online.')
        return {}
      },
    },
    async model(name: string) {
      if (name === 'nothing') throw new EdgeError('not_found', 404, 'No model is named nothing.')
      return model(name)
    },
    async infer(_: string, tensors: readonly Tensor[], inferOptions: InferOptions) {
      checkTensors(tensors, inputs)
      if (fail) throw fail()
      bought.push({ tensors, options: inferOptions })
      const doubled = new Float32Array(tensors[0]!.data.slice().buffer).map((value) => value * 2)
      const all: Tensor[] = outputs?.(tensors) ?? [
        { name: 'y', datatype: 'FP32', shape: tensors[0]!.shape, data: new Uint8Array(doubled.buffer) },
        { name: 'label', datatype: 'BYTES', shape: [1], data: new Uint8Array([2, 0, 0, 0, 0x6f, 0x6b]) },
        { name: 'half', datatype: 'FP16', shape: [1], data: new Uint8Array([0, 0x3c]) },
      ]
      return {
        outputs: all,
        price: 10n,
        runner: owner,
        receipt,
        verdict: { verdict: 'verified', tee: 'tdx', root: 'development', tcbStatus: 'UpToDate' },
      } as unknown as Inference
    },
  }
  const proxy = createProxy({ buyer: buyer as unknown as ProxyOptions['buyer'], ...options })
  const call = (path: string, init?: RequestInit) => proxy(new Request(`http://127.0.0.1:8000${path}`, init))
  return { call, proxy, bought, receipt }
}

const post = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  headers,
  body: body instanceof Uint8Array ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body),
})
const x = { name: 'x', shape: [1, 2], datatype: 'FP32', data: [1, 2.5] }
const y = [{ name: 'y' }]
const errorOf = async (response: Response) => ((await response.json()) as { error: string }).error

/** Writes a body as clients of the binary extension do: JSON, then raw tensors, no padding. */
function binaryBody(json: object, ...tensors: Uint8Array[]) {
  const header = new TextEncoder().encode(JSON.stringify(json))
  return {
    body: new Uint8Array([...header, ...tensors.flatMap((each) => [...each])]),
    headers: { 'inference-header-content-length': String(header.length) },
  }
}
const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer)
const binaryX = { name: 'x', shape: [1, 2], datatype: 'FP32', parameters: { binary_data_size: 8 } }

describe('createProxy', () => {
  test('behavior: server, health and model metadata', async () => {
    const { call } = world()
    expect(await (await call('/v2')).json()).toEqual({
      name: 'assay',
      version: '0.1.0',
      extensions: ['binary_tensor_data'],
    })
    expect((await call('/v2/health/live')).status).toBe(200)
    expect((await call('/v2/health/ready')).status).toBe(200)
    expect(await (await call(`/v2/models/${owner}/digits`)).json()).toMatchObject({
      name: `${owner}/digits`,
      versions: ['2'],
      platform: 'onnx_onnxv1',
      inputs: specs.inputs,
      outputs: specs.outputs,
    })
    expect(await (await call('/v2/models/digits/versions/2/ready')).json()).toEqual({ name: 'digits', ready: true })
  })

  test('behavior: not ready while nobody serves the model', async () => {
    const { call } = world({ noMatch: true, models: ['digits'] })
    for (const path of ['/v2/models/digits/ready', '/v2/health/ready']) {
      const response = await call(path)
      expect(response.status).toBe(503)
      expect(response.headers.get('assay-code')).toBe('no_match')
      expect(await errorOf(response)).toBe('No runner is online.')
    }
    expect((await call('/v2/health/live')).status).toBe(200)
  })

  test('behavior: JSON in, JSON out, with the id, the receipt and the verdict', async () => {
    const { call, receipt } = world()
    const response = await call('/v2/models/digits/infer', post({ id: 'job 7', inputs: [x], outputs: y }))
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(response.headers.get('assay-receipt')).toBe(toHex(encodeReceipt(receipt)))
    expect(response.headers.get('assay-verdict')).toBe('verified; tee=tdx; root=development; tcb=UpToDate')
    expect(await response.json()).toEqual({
      model_name: 'digits',
      model_version: '2',
      id: 'job 7',
      parameters: {
        assay_verdict: 'verified',
        assay_tee: 'tdx',
        assay_root: 'development',
        assay_tcb_status: 'UpToDate',
        assay_price: '10',
        assay_runner: owner,
        assay_channel: toHex(receipt.channel),
        assay_job: '3',
      },
      outputs: [{ name: 'y', shape: [1, 2], datatype: 'FP32', data: [2, 5] }],
    })
  })

  test('behavior: binary in, and of three outputs two in the order asked, one binary and one in JSON', async () => {
    const { call } = world()
    const { body, headers } = binaryBody(
      {
        inputs: [binaryX],
        outputs: [{ name: 'label' }, { name: 'half', parameters: { binary_data: true } }],
      },
      floats(1, 2),
    )
    const response = await call('/v2/models/digits/infer', post(body, headers))
    expect(response.headers.get('content-type')).toBe('application/octet-stream')
    const length = Number(response.headers.get('inference-header-content-length'))
    const bytes = new Uint8Array(await response.arrayBuffer())
    expect(JSON.parse(new TextDecoder().decode(bytes.subarray(0, length))).outputs).toEqual([
      { name: 'label', shape: [1], datatype: 'BYTES', data: ['ok'] },
      { name: 'half', shape: [1], datatype: 'FP16', parameters: { binary_data_size: 2 } },
    ])
    expect([...bytes.subarray(length)]).toEqual([0, 0x3c])
  })

  test('behavior: binary_data_output asks for all, and an output may still be asked for in JSON', async () => {
    const { call } = world()
    const all = await call('/v2/models/m/infer', post({ inputs: [x], parameters: { binary_data_output: true } }))
    const length = Number(all.headers.get('inference-header-content-length'))
    expect(length % 8).toBe(0)
    expect((await all.arrayBuffer()).byteLength - length).toBe(8 + 6 + 2)
    const one = await call(
      '/v2/models/m/infer',
      post({
        inputs: [x],
        parameters: { binary_data_output: true },
        outputs: [{ name: 'y', parameters: { binary_data: false } }],
      }),
    )
    expect(one.headers.get('inference-header-content-length')).toBeNull()
    expect(((await one.json()) as { outputs: { data: number[] }[] }).outputs[0]!.data).toEqual([2, 5])
  })

  test('behavior: a raw body is the one tensor, its open dimension counted from its bytes', async () => {
    const { call, bought } = world()
    const response = await call(
      '/v2/models/m/infer',
      post(floats(1, 2, 3, 4, 5, 6), { 'inference-header-content-length': '0' }),
    )
    expect(response.status).toBe(200)
    expect(bought[0]!.tensors[0]!.shape).toEqual([3, 2])
    const length = Number(response.headers.get('inference-header-content-length'))
    const bytes = new Uint8Array(await response.arrayBuffer())
    expect([...new Float32Array(bytes.slice(length, length + 24).buffer)]).toEqual([2, 4, 6, 8, 10, 12])
  })

  test.each([['gzip', (bytes: Uint8Array) => new Uint8Array(gzipSync(bytes))]])(
    'behavior: a body in %s is unpacked',
    async (encoding, pack) => {
      const { call } = world()
      const body = pack(new TextEncoder().encode(JSON.stringify({ inputs: [x], outputs: y })))
      expect((await call('/v2/models/m/infer', post(body, { 'content-encoding': encoding }))).status).toBe(200)
    },
  )

  test('behavior: the time a request gives itself goes along, in milliseconds', async () => {
    const { call, bought } = world({ maxPrice: 50n })
    await call('/v2/models/m/infer', post({ inputs: [x], outputs: y, parameters: { timeout: 1_500_500 } }))
    expect(bought[0]!.options).toEqual({ maxPrice: 50n, deadlineMs: 1_501 })
  })

  const raw = { 'inference-header-content-length': '0' }
  const lied = (length: string) => ({ 'inference-header-content-length': length })
  const refused: [string, World, RequestInit, number, string][] = [
    ['nothing at all', {}, post(new Uint8Array()), 400, 'not JSON'],
    ['a body cut off', {}, post(new TextEncoder().encode('{"inputs":[{"name":"x"')), 400, 'not JSON'],
    ['a list', {}, post([]), 400, 'not a JSON object'],
    ['no inputs', {}, post({ outputs: y }), 400, 'no inputs'],
    ['an input the model does not take', {}, post({ inputs: [{ ...x, name: 'z' }], outputs: y }), 400, '"z"'],
    ['another shape', {}, post({ inputs: [{ ...x, shape: [2] }], outputs: y }), 400, 'takes shape [-1, 2]'],
    ['another datatype', {}, post({ inputs: [{ ...x, datatype: 'FP64' }], outputs: y }), 400, 'takes FP32'],
    ['BF16', {}, post({ inputs: [{ ...x, datatype: 'BF16' }], outputs: y }), 400, 'BF16 is not a datatype'],
    ['FP16 in JSON', {}, post({ inputs: [{ ...x, datatype: 'FP16' }], outputs: y }), 400, 'FP16 has no JSON form'],
    ['too few elements', {}, post({ inputs: [{ ...x, data: [1] }], outputs: y }), 400, 'takes 2 elements'],
    ['lists nested otherwise', {}, post({ inputs: [{ ...x, data: [[1], [2]] }], outputs: y }), 400, 'nested as shape'],
    ['null for a number', {}, post({ inputs: [{ ...x, data: [1, null] }], outputs: y }), 400, 'null is not a number'],
    [
      'a number past the range',
      {},
      post(new TextEncoder().encode('{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,1e39]}]}')),
      400,
      'range of FP32',
    ],
    [
      'NaN as a bare word',
      {},
      post(new TextEncoder().encode('{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,NaN]}]}')),
      400,
      'NaN and Infinity are text',
    ],
    ['an output the model has not', {}, post({ inputs: [x], outputs: [{ name: 'q' }] }), 400, '"q" is not one of'],
    ['an output twice', {}, post({ inputs: [x], outputs: [...y, ...y] }), 400, 'asked for twice'],
    ['FP16 out in JSON', {}, post({ inputs: [x] }), 400, 'ask for binary data'],
    ['an id that is a number', {}, post({ id: 7, inputs: [x], outputs: y }), 400, 'id is not text'],
    [
      'a parameter that is a list',
      {},
      post({ inputs: [x], outputs: y, parameters: { a: [] } }),
      400,
      'neither text, a number nor a boolean',
    ],
    [
      'a sequence',
      {},
      post({ inputs: [x], outputs: y, parameters: { sequence_id: 4 } }),
      400,
      '"sequence_id" of the request is not supported',
    ],
    [
      'shared memory',
      {},
      post({ inputs: [{ ...x, parameters: { shared_memory_region: 'r' } }], outputs: y }),
      400,
      'not supported',
    ],
    [
      'classification',
      {},
      post({ inputs: [x], outputs: [{ name: 'y', parameters: { classification: 2 } }] }),
      400,
      'not supported',
    ],
    [
      'binary data with no header that says so',
      {},
      post({ inputs: [binaryX], outputs: y }),
      400,
      'no Inference-Header-Content-Length',
    ],
    ['a header longer than the body', {}, post({ inputs: [x] }, lied('9999')), 400, 'the body has'],
    ['a header that is no number', {}, post({ inputs: [x] }, lied('-1')), 400, 'takes the length of the JSON'],
    [
      'a header that cuts the JSON',
      {},
      post(binaryBody({ inputs: [binaryX], outputs: y }, floats(1, 2)).body, lied('20')),
      400,
      'not JSON',
    ],
    [
      'a tensor cut off',
      {},
      (() => {
        const { body, headers } = binaryBody({ inputs: [binaryX], outputs: y }, floats(1))
        return post(body, headers)
      })(),
      400,
      'does not fit the body',
    ],
    [
      'bytes left over',
      {},
      (() => {
        const { body, headers } = binaryBody({ inputs: [binaryX], outputs: y }, floats(1, 2, 3))
        return post(body, headers)
      })(),
      400,
      '4 bytes belong to no tensor',
    ],
    [
      'a size that is not the shape',
      {},
      (() => {
        const { body, headers } = binaryBody(
          { inputs: [{ ...binaryX, parameters: { binary_data_size: 4 } }], outputs: y },
          floats(1),
        )
        return post(body, headers)
      })(),
      400,
      'takes 8 bytes, got 4',
    ],
    [
      'a size below zero',
      {},
      (() => {
        const { body, headers } = binaryBody(
          { inputs: [{ ...binaryX, parameters: { binary_data_size: -8 } }], outputs: y },
          floats(1, 2),
        )
        return post(body, headers)
      })(),
      400,
      'does not fit the body',
    ],
    [
      'data and binary data at once',
      {},
      (() => {
        const { body, headers } = binaryBody({ inputs: [{ ...binaryX, data: [1, 2] }], outputs: y }, floats(1, 2))
        return post(body, headers)
      })(),
      400,
      'both data and binary_data_size',
    ],
    ['a raw body of no whole row', {}, post(floats(1, 2, 3), raw), 400, 'multiple of 8 bytes'],
    ['a raw body of nothing', {}, post(new Uint8Array(), raw), 400, 'multiple of 8 bytes'],
    [
      'a raw body for two inputs',
      { inputs: [...specs.inputs, { name: 'w', datatype: 'FP32', shape: [1] }] },
      post(floats(1, 2), raw),
      400,
      'models of one input',
    ],
    [
      'a raw body for two open dimensions',
      { inputs: [{ name: 'x', datatype: 'FP32', shape: [-1, -1] }] },
      post(floats(1, 2), raw),
      400,
      '2 open dimensions',
    ],
    ['a body past the bound', { maxBodyBytes: 20 }, post({ inputs: [x], outputs: y }), 413, 'at most 20 bytes'],
    [
      'a small body that unpacks past the bound',
      { maxBodyBytes: 2_000 },
      post(new Uint8Array(gzipSync(new Uint8Array(1_000_000))), { 'content-encoding': 'gzip' }),
      413,
      'at most 2000 bytes',
    ],
    [
      'a body that says gzip and is not',
      {},
      post({ inputs: [x], outputs: y }, { 'content-encoding': 'gzip' }),
      400,
      'not gzip',
    ],
    [
      'a compression nobody here knows',
      {},
      post({ inputs: [x], outputs: y }, { 'content-encoding': 'br' }),
      415,
      'send gzip, deflate or none',
    ],
  ]
  test.each(refused)('refusal: %s, and nothing is bought', async (_, options, init, status, message) => {
    const { call, bought } = world(options)
    const response = await call('/v2/models/m/infer', init)
    expect(response.status).toBe(status)
    expect(await errorOf(response)).toContain(message)
    expect(bought).toHaveLength(0)
  })

  test('refusal: what the market, the model or a machine refuses has a status of its own', async () => {
    const cases: [Error, number, string][] = [
      [new EdgeError('no_match', 404, 'No runner is online.'), 503, 'no_match'],
      [new EdgeError('network', 0, 'The edge cannot be reached.'), 502, 'network'],
      [new EdgeError('unfunded', 402, 'The deposit is empty.'), 402, 'unfunded'],
      [new EdgeError('deadline', 504, 'Too late.'), 504, 'deadline'],
      [new EdgeError('bad_seal', 422, 'Not sealed to it.'), 502, 'bad_seal'],
      [new VerificationError('price_above_cap', 'Too dear.'), 402, 'price_above_cap'],
      [new VerificationError('receipt_output', 'Another output.'), 502, 'receipt_output'],
      [new JobFailedError(2, 'Division by zero.'), 422, 'job_failed'],
      [new Error('secret text'), 500, 'internal'],
    ]
    for (const [error, status, code] of cases) {
      const { call } = world({ fail: () => error })
      const response = await call('/v2/models/m/infer', post({ inputs: [x], outputs: y }))
      expect(response.status).toBe(status)
      expect(response.headers.get('assay-code')).toBe(code)
      expect(await errorOf(response)).not.toContain('secret')
    }
  })

  test('refusal: an answer that was bought and has no JSON form says so, and its receipt goes along', async () => {
    const { call, bought } = world({
      outputs: () => [{ name: 'label', datatype: 'BYTES', shape: [1], data: new Uint8Array([1, 0, 0, 0, 0xff]) }],
    })
    const response = await call('/v2/models/m/infer', post({ inputs: [x], outputs: [{ name: 'label' }] }))
    expect(response.status).toBe(422)
    expect(response.headers.get('assay-receipt')).toMatch(/^0x/)
    expect(await errorOf(response)).toContain('was bought')
    expect(bought).toHaveLength(1)
  })

  test('refusal: paths, methods, models and versions that are none', async () => {
    const { call } = world({ models: ['digits'] })
    const cases: [string, RequestInit, number][] = [
      ['/', {}, 404],
      ['/v1/models', {}, 404],
      ['/v2/models/m/versions', {}, 404],
      ['/v2/models/m/versions/2/what', {}, 404],
      ['/v2/models/%zz', {}, 404],
      ['/v2', { method: 'POST' }, 405],
      ['/v2/models/digits/infer', {}, 405],
      ['/v2/models/digits/ready', { method: 'POST' }, 405],
      ['/v2/models/other', {}, 404],
      ['/v2/models/nothing', {}, 404],
      ['/v2/models/digits/versions/1', {}, 404],
    ]
    for (const [path, init, status] of cases) {
      const response = await call(path, init)
      expect([path, response.status]).toEqual([path, status])
      expect(await errorOf(response)).toBeTruthy()
    }
  })

  test('attack: a page in a browser spends the wallet, through a name that points here or across sites', async () => {
    const { proxy, bought } = world({ hosts: ['models.internal'] })
    const ask = (url: string, headers: Record<string, string> = {}) =>
      proxy(new Request(`${url}/v2/models/m/infer`, post({ inputs: [x], outputs: y }, headers)))
    expect((await ask('http://evil.example:8000')).status).toBe(403)
    expect((await ask('http://127.0.0.1.evil.example')).status).toBe(403)
    expect((await ask('http://127.0.0.1:8000', { origin: 'https://evil.example' })).status).toBe(403)
    expect((await ask('http://127.0.0.1:8000', { origin: 'null' })).status).toBe(403)
    expect((await ask('http://localhost:8000', { origin: 'http://localhost:3000' })).status).toBe(403)
    expect(bought).toHaveLength(0)
    for (const url of ['http://127.0.0.1:8000', 'http://localhost:1', 'http://[::1]:8000', 'http://models.internal'])
      expect((await ask(url)).status).toBe(200)
  })

  test('attack: without the token nothing is told, with part of it neither', async () => {
    const { call } = world({ token: 'correct horse' })
    for (const authorization of [
      undefined,
      'Bearer',
      'Bearer correct',
      'Bearer correct horse battery',
      'correct horse',
    ])
      expect((await call('/v2', authorization ? { headers: { authorization } } : {})).status).toBe(401)
    expect((await call('/v2', { headers: { authorization: 'Bearer correct horse' } })).status).toBe(200)
  })

  test('attack: parallel requests cannot spend a budget twice', async () => {
    const { call, bought } = world({ budget: 35n })
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => call('/v2/models/m/infer', post({ inputs: [x], outputs: y }))),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 200, ...Array(7).fill(402)])
    expect(bought).toHaveLength(3)
  })

  test('behavior: what failed at no cost stays in the budget, what may yet be charged does not', async () => {
    const ask = post({ inputs: [x], outputs: y })
    const free = world({ budget: 10n, fail: () => new JobFailedError(2, 'No.') })
    expect((await free.call('/v2/models/m/infer', ask)).status).toBe(422)
    expect((await free.call('/v2/models/m/infer', ask)).status).toBe(422)
    const open = world({ budget: 10n, fail: () => new EdgeError('deadline', 504, 'Late.', '', { accepted: true }) })
    expect((await open.call('/v2/models/m/infer', ask)).status).toBe(504)
    expect((await open.call('/v2/models/m/infer', ask)).status).toBe(402)
  })

  test('behavior: a line a request, with what it cost and never what it carried', async () => {
    const lines: string[] = []
    const { call } = world({ log: (line) => lines.push(line) })
    await call('/v2/models/m/infer?secret=1', post({ id: 'secret', inputs: [x], outputs: y }))
    await call('/v2/models/m/infer', post({ inputs: [], outputs: y }))
    expect(lines).toEqual([
      `POST /v2/models/m/infer 200 price=10 runner=${owner}`,
      'POST /v2/models/m/infer 400 invalid_request',
    ])
  })

  test('behavior: what proves an answer is kept when asked, and named in the answer', async () => {
    const kept: bigint[] = []
    const { call } = world({
      keep: async ({ receipt }) => {
        kept.push(receipt.job)
        return 'a.json'
      },
    })
    const response = await call('/v2/models/m/infer', post({ inputs: [x], outputs: y }))
    expect(response.headers.get('assay-bundle')).toBe('a.json')
    expect(kept).toEqual([3n])
  })

  test('behavior: an answer whose proof could not be kept is still given, and says so', async () => {
    const { call } = world({ keep: () => Promise.reject(new Error('disk full')) })
    const response = await call('/v2/models/m/infer', post({ inputs: [x], outputs: y }))
    expect(response.status).toBe(200)
    expect(response.headers.get('assay-code')).toBe('bundle_not_kept')
    expect(response.headers.get('assay-bundle')).toBeNull()
  })
})

describe('readTarget', () => {
  const named = (name: string) => ({ name, version: null, action: 'infer' })
  test.each([
    ['/v2/models/digits/infer', named('digits')],
    [`/v2/models/${owner}/digits/infer`, named(`${owner}/digits`)],
    [`/v2/models/${owner}%2Fdigits/infer`, named(`${owner}/digits`)],
    [`/v2/models/${owner}--digits/infer`, named(`${owner}/digits`)],
    [`/v2/models/${digest}/infer`, named(digest)],
    [`/v2/models/${owner}/infer/infer`, named(`${owner}/infer`)],
    [`/v2/models/${owner}/ready`, { name: `${owner}/ready`, version: null, action: 'metadata' }],
    ['/v2/models/a--b', { name: 'a--b', version: null, action: 'metadata' }],
    ['/v2/models/a/versions/infer/ready', { name: 'a', version: 'infer', action: 'ready' }],
    ['/v2/models/a/metadata', null],
    ['/v2/models/', null],
    ['/v2/models/a/infer/', null],
  ])('%s', (path, target) => {
    expect(readTarget(path)).toEqual(target)
  })
})

describe('serve', () => {
  let listening: Listening | undefined
  afterEach(() => listening?.close())

  /** Asks over a socket with any Host header, which fetch would not send. */
  const raw = (path: string, headers: Record<string, string>, method = 'GET', body?: Uint8Array) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const request = httpRequest(
        { agent: false, port: listening!.port, host: '127.0.0.1', path, headers, method },
        (response) => {
          let text = ''
          response.on('data', (chunk) => {
            text += chunk
          })
          response.on('end', () => resolve({ status: response.statusCode!, text }))
        },
      )
      request.on('error', reject)
      request.end(body)
    })

  test('attack: a foreign Host header, one that is no host, and a whole URL in the place of the path', async () => {
    listening = await serve(world().proxy, { port: 0 })
    expect((await raw('/v2', { host: `127.0.0.1:${listening.port}` })).status).toBe(200)
    expect((await raw('/v2', { host: 'evil.example' })).status).toBe(403)
    expect((await raw('/v2', { host: 'a b' })).status).toBe(400)
    expect((await raw('http://127.0.0.1/v2', { host: 'evil.example' })).status).toBe(400)
    expect((await raw('//evil.example/v2', { host: 'localhost' })).status).toBe(404)
  })

  /** Sends bytes as they are and gives the whole answer; null where there was none. */
  const bytes = (text: string) =>
    new Promise<{ status: number; error: string } | null>((resolve, reject) => {
      const socket = connect(listening!.port, '127.0.0.1', () => socket.write(text))
      let answer = ''
      socket.on('data', (chunk) => {
        answer += chunk
      })
      socket.on('error', reject)
      socket.on('close', () => {
        const [head, body] = answer.split('\r\n\r\n')
        if (!body) return resolve(null)
        resolve({ status: Number(head!.split(' ')[1]), error: (JSON.parse(body) as { error: string }).error })
      })
    })
  const infer = 'POST /v2/models/m/infer HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n'

  test.each([
    ['a method nobody knows', 'BREW /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n', 400],
    ['no HTTP at all', 'hello\r\n\r\n', 400],
    ['a length below nothing', `${infer}content-length: -1\r\n\r\n{}`, 400],
    ['two lengths', `${infer}content-length: 2\r\ncontent-length: 3\r\n\r\n{}`, 400],
    ['a length beside chunks', `${infer}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}`, 400],
    ['chunks that are none', `${infer}transfer-encoding: chunked\r\n\r\nzz\r\n`, 400],
    ['a path beyond all measure', `GET /v2/${'x'.repeat(20_000)} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`, 431],
  ])('attack: %s is refused in words', async (_, text, status) => {
    const { proxy, bought } = world()
    listening = await serve(proxy, { port: 0 })
    expect(await bytes(text)).toEqual({ status, error: expect.stringMatching(/It takes HTTP|Send shorter/) })
    expect(bought).toEqual([])
    expect((await raw('/v2', { host: 'localhost' })).status).toBe(200)
  })

  test('attack: a body that breaks off buys nothing, and the next request is answered', async () => {
    const { proxy, bought } = world()
    listening = await serve(proxy, { port: 0 })
    const socket = connect(listening.port, '127.0.0.1', () => socket.write(`${infer}content-length: 1000\r\n\r\n{`))
    socket.once('connect', () => socket.end())
    await new Promise((resolve) => socket.resume().on('close', resolve))
    expect((await raw('/v2', { host: 'localhost' })).status).toBe(200)
    expect(bought).toEqual([])
  })

  test('behavior: HEAD is answered where GET is', async () => {
    listening = await serve(world().proxy, { port: 0 })
    const asked = (path: string) => raw(path, { host: 'localhost' }, 'HEAD')
    expect(await asked('/v2')).toEqual({ status: 200, text: '' })
    expect(await asked('/v2/models/m')).toEqual({ status: 200, text: '' })
    expect(await asked('/v2/models/m/infer')).toEqual({ status: 405, text: '' })
  })

  test('behavior: a body past the bound is refused with words, not with a broken connection', async () => {
    listening = await serve(world({ maxBodyBytes: 1_000 }).proxy, { port: 0 })
    const { status, text } = await raw('/v2/models/m/infer', {}, 'POST', new Uint8Array(3_000_000))
    expect(status).toBe(413)
    expect(text).toContain('at most 1000 bytes')
  })

  test('behavior: it listens on this machine alone unless told otherwise, and a taken port is an error', async () => {
    listening = await serve(world().proxy, { port: 0 })
    expect(listening.url).toBe(`http://127.0.0.1:${listening.port}`)
    await expect(serve(world().proxy, { port: listening.port })).rejects.toThrow('EADDRINUSE')
  })
})
