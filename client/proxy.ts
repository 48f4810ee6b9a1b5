import { toHex } from '../protocol/bytes.ts'
import { TensorError } from '../protocol/oip.ts'
import {
  chooseOutputs,
  headerLengthName,
  type InferRequest,
  type OipBody,
  type OipParameters,
  readHeaderLength,
  readInferRequest,
  readRawTensor,
  writeInferResponse,
} from '../protocol/oipHttp.ts'
import { encodeReceipt } from '../protocol/receipt.ts'
import type { Assay, Inference } from './assay.ts'
import type { Match } from './edge.ts'
import { EdgeError, JobFailedError, VerificationError } from './errors.ts'
import type { Requirements } from './requirements.ts'

/** Configures a proxy. Amounts in the token's smallest unit. */
export type ProxyOptions = {
  /** Verifies, seals and pays. */
  buyer: Pick<Assay, 'infer' | 'model' | 'edge'>
  /** Serves these models only; any model of the marketplace where the list is empty. */
  models?: readonly string[]
  maxPrice?: bigint
  /** The most that is spent in all while this proxy runs. */
  budget?: bigint
  requirements?: Requirements
  /** Names this proxy may be called by, besides those of the local machine. */
  hosts?: readonly string[]
  /** What callers must show as `Authorization: Bearer`. */
  token?: string
  /** The most a request's body may hold, compressed or not. */
  maxBodyBytes?: number
  /** Keeps what proves an answer, and gives the name it is found by. */
  keep?: (inference: Inference) => Promise<string>
  /** Takes one line a request; no payload and no query is in it. */
  log?: (line: string) => void
}

/** Refuses a request with an HTTP status of its own. */
class ProxyError extends Error {
  override name = 'ProxyError'
  readonly status: number
  readonly headers: Record<string, string>
  constructor(status: number, message: string, headers: Record<string, string> = {}) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

type Model = Awaited<ReturnType<Assay['model']>>

/** Says what a path asks for: the model by a name the marketplace knows, its version, and what is done with it. */
type Target = { name: string; version: string | null; action: 'metadata' | 'ready' | 'infer' }

const version = '0.1.0'
/** The edge takes job frames of up to 24 MiB. */
const defaultMaxBodyBytes = 23 * 1024 * 1024
/** No job is waited for longer on the line. */
const longestDeadlineMs = 600_000
const localHosts = ['127.0.0.1', 'localhost', '[::1]']
const address = /^0x[0-9a-fA-F]{40}$/

/** Makes a server of the Open Inference Protocol v2 out of a buyer: what it is asked is bought, verified and answered, on this machine. Every refusal is `{ "error" }`, as the protocol says. */
export function createProxy(options: ProxyOptions): (request: Request) => Promise<Response> {
  const purse = createPurse(options.budget)
  return async (request) => {
    let response: Response
    try {
      response = await answer(request, options, purse)
    } catch (error) {
      const { status, code, message, headers } = explainFailure(error)
      response = json({ error: message }, status, { ...headers, 'assay-code': code })
    }
    options.log?.(logLine(request, response))
    return response
  }
}

async function answer(request: Request, options: ProxyOptions, purse: Purse): Promise<Response> {
  const url = new URL(request.url)
  admit(request, url, options)
  const { pathname } = url
  if (pathname === '/v2' || pathname === '/v2/') {
    requireMethod(request, 'GET', pathname)
    return json({ name: 'assay', version, extensions: ['binary_tensor_data'] })
  }
  if (pathname === '/v2/health/live') {
    requireMethod(request, 'GET', pathname)
    return json({ live: true })
  }
  if (pathname === '/v2/health/ready') {
    requireMethod(request, 'GET', pathname)
    await requireReady(options)
    return json({ live: true, ready: true })
  }
  const target = readTarget(pathname)
  if (!target) throw new ProxyError(404, `${pathname.slice(0, 200)} is not a path of the Open Inference Protocol v2.`)
  requireMethod(request, target.action === 'infer' ? 'POST' : 'GET', pathname)
  const model = await servedModel(target, options)
  if (target.action === 'infer') return infer(request, { name: target.name, model }, options, purse)
  if (target.action === 'metadata') return json(metadataOf(target.name, model))
  await requireRunner(model, options)
  return json({ name: target.name, ready: true })
}

function requireMethod({ method }: Request, allowed: 'GET' | 'POST', pathname: string): void {
  // Whoever may GET may ask for the headers alone (RFC 9110 section 9.3.2).
  const asked = method === 'HEAD' ? 'GET' : method
  if (asked !== allowed) throw new ProxyError(405, `${pathname} takes ${allowed}.`, { allow: allowed })
}

/** Finds a model among those served, at the version asked for. */
async function servedModel({ name, version: asked }: Target, { buyer, models = [] }: ProxyOptions): Promise<Model> {
  const model = await buyer.model(name)
  const digests = await Promise.all(models.map(async (each) => (await buyer.model(each)).digest))
  if (models.length > 0 && !digests.includes(model.digest))
    throw new ProxyError(404, `This proxy does not serve ${name}. It serves ${models.join(', ')}.`)
  if (asked !== null && asked !== model.manifest.version)
    throw new ProxyError(
      404,
      `${name} is at version ${model.manifest.version}. Name an older version by its digest, in place of the name.`,
    )
  return model
}

/** Makes sure that the edge answers, and matches each model this proxy is for. */
async function requireReady(options: ProxyOptions): Promise<void> {
  const { buyer, models = [] } = options
  await buyer.edge.json('/v1/network')
  await Promise.all(models.map(async (each) => requireRunner(await buyer.model(each), options)))
}

/** Makes sure that some runner would take a job of a model for what this proxy asks and pays. */
async function requireRunner({ digest }: Model, { buyer, maxPrice, requirements = {} }: ProxyOptions): Promise<void> {
  const wanted = { ...requirements, ...(maxPrice === undefined ? {} : { maxPrice: maxPrice.toString() }) }
  await buyer.edge.json<Match>('/v1/matches', { method: 'POST', body: { model: digest, requirements: wanted } })
}

/** Says which model is asked for, and by what name the answer calls it. */
type Named = { name: string; model: Model }

async function infer(request: Request, named: Named, options: ProxyOptions, purse: Purse): Promise<Response> {
  const { model } = named
  const body = await readBody(request, options.maxBodyBytes ?? defaultMaxBodyBytes)
  const asked = readRequest(body, request.headers.get(headerLengthName), model)
  // Before anything is bought: what cannot be answered is refused here.
  chooseOutputs(asked, model.manifest.outputs)
  const inference = await buy(asked, model, options, purse)
  return writeAnswer(asked, named, inference, await keptAs(inference, options.keep))
}

async function buy(asked: InferRequest, model: Model, options: ProxyOptions, purse: Purse): Promise<Inference> {
  const pay = purse.reserve(model.listing.price)
  try {
    return await options.buyer.infer(model.digest, asked.inputs, {
      ...(options.maxPrice === undefined ? {} : { maxPrice: options.maxPrice }),
      ...(options.requirements === undefined ? {} : { requirements: options.requirements }),
      ...deadlineOf(asked.parameters),
    })
  } catch (error) {
    // A job that may have been taken may still be charged, so its price stays out of the purse.
    if (costsNothing(error)) pay.release()
    throw error
  }
}

function writeAnswer(
  asked: InferRequest,
  { name, model }: Named,
  inference: Inference,
  kept: Record<string, string>,
): Response {
  const facts = factsOf(inference)
  const headers = { ...facts.headers, ...kept }
  try {
    const written = writeInferResponse({
      modelName: name,
      modelVersion: model.manifest.version,
      ...(asked.id === undefined ? {} : { id: asked.id }),
      parameters: facts.parameters,
      outputs: chooseOutputs(asked, inference.outputs),
    })
    return bodyResponse(written, headers)
  } catch (error) {
    if (!(error instanceof TensorError)) throw error
    throw new ProxyError(422, `The answer was bought and cannot be written. ${error.message}`, headers)
  }
}

/** Keeps what proves an answer. An answer that was paid for is given back even where its proof could not be kept, and says so. */
async function keptAs(inference: Inference, keep: ProxyOptions['keep']): Promise<Record<string, string>> {
  if (!keep) return {}
  try {
    return { 'assay-bundle': await keep(inference) }
  } catch {
    return { 'assay-code': 'bundle_not_kept' }
  }
}

function logLine(request: Request, { status, headers }: Response): string {
  const price = headers.get('assay-price')
  const facts = price === null ? '' : ` price=${price} runner=${headers.get('assay-runner')}`
  const code = headers.get('assay-code')
  return `${request.method} ${new URL(request.url).pathname} ${status}${code === null ? '' : ` ${code}`}${facts}`
}

/** Refuses callers that are not programs of this machine's user: a page in a browser, which could spend the wallet, and a name that was made to point here (DNS rebinding). */
function admit(request: Request, url: URL, { hosts = [], token }: ProxyOptions): void {
  if (![...localHosts, ...hosts].includes(url.hostname))
    throw new ProxyError(
      403,
      `This proxy is not called ${url.hostname.slice(0, 80)}. Start it with --allow-host to allow that name.`,
    )
  const origin = request.headers.get('origin')
  if (origin !== null && origin !== url.origin)
    throw new ProxyError(403, 'Pages of other sites may not use this proxy.')
  if (token !== undefined && !sameText(request.headers.get('authorization') ?? '', `Bearer ${token}`))
    throw new ProxyError(401, 'Show the token of this proxy as Authorization: Bearer.', {
      'www-authenticate': 'Bearer',
    })
}

/** Compares in a time that does not tell where two texts differ. */
function sameText(given: string, expected: string): boolean {
  let difference = given.length ^ expected.length
  for (let i = 0; i < expected.length; i++) difference |= given.charCodeAt(i) ^ expected.charCodeAt(i)
  return difference === 0
}

/** Reads a path below /v2/models. A name is a digest, a bare name, or `owner/name`: with its slash as it is or encoded, or written `owner--name`. */
export function readTarget(pathname: string): Target | null {
  if (!pathname.startsWith('/v2/models/')) return null
  let parts: string[]
  try {
    parts = pathname.slice('/v2/models/'.length).split('/').map(decodeURIComponent)
  } catch {
    return null
  }
  const [first, second] = parts
  if (!first) return null
  // An owner is always an address, so what follows one is a name, even one called "ready".
  const apart = address.test(first) && second !== undefined
  const name = apart ? `${first}/${second}` : first.replace(/^(0x[0-9a-fA-F]{40})--/, '$1/')
  const rest = parts.slice(apart ? 2 : 1)
  const asked = rest[0] === 'versions' ? (rest[1] ?? '') : null
  const [action, ...more] = rest.slice(asked === null ? 0 : 2)
  if (asked === '' || more.length > 0) return null
  if (action === undefined) return { name, version: asked, action: 'metadata' }
  return action === 'ready' || action === 'infer' ? { name, version: asked, action } : null
}

function metadataOf(name: string, { digest, manifest, listing }: Model) {
  return {
    name,
    versions: [manifest.version],
    platform: 'onnx_onnxv1',
    inputs: manifest.inputs,
    outputs: manifest.outputs,
    parameters: {
      assay_digest: digest,
      assay_price: listing.price.toString(),
      assay_execution: manifest.execution.class,
    },
  }
}

function readRequest(body: Uint8Array, header: string | null, model: Model): InferRequest {
  const headerLength = readHeaderLength(header, body.length)
  return headerLength === 0
    ? { parameters: {}, inputs: [readRawTensor(body, model.manifest.inputs)], outputs: null, binaryOutput: true }
    : readInferRequest(body, headerLength)
}

/** Reads the time a request gives itself, in microseconds as clients of the protocol send it. */
function deadlineOf({ timeout }: OipParameters): { deadlineMs?: number } {
  if (timeout === undefined || timeout === 0) return {}
  if (typeof timeout !== 'number' || !Number.isSafeInteger(timeout) || timeout < 0)
    throw new TensorError('Parameter "timeout" takes a whole number of microseconds.')
  return { deadlineMs: Math.min(longestDeadlineMs, Math.ceil(timeout / 1000)) }
}

/** Says what was bought and from whom, for programs that read headers and for those that read the answer. */
function factsOf({ price, runner, verdict, receipt }: Inference): {
  headers: Record<string, string>
  parameters: OipParameters
} {
  const { tee, root, tcbStatus } = verdict
  return {
    headers: {
      'assay-receipt': toHex(encodeReceipt(receipt)),
      'assay-verdict': `${verdict.verdict}; tee=${tee}; root=${root}; tcb=${tcbStatus ?? 'unknown'}`,
      'assay-price': price.toString(),
      'assay-runner': runner,
    },
    parameters: {
      assay_verdict: verdict.verdict,
      assay_tee: tee,
      assay_root: root,
      assay_tcb_status: tcbStatus ?? 'unknown',
      assay_price: price.toString(),
      assay_runner: runner,
      assay_channel: toHex(receipt.channel),
      assay_job: receipt.job.toString(),
    },
  }
}

/** Keeps what may still be spent. A price is taken before the purchase, so that parallel requests cannot spend it twice. */
type Purse = { reserve(price: bigint): { release(): void } }

function createPurse(budget: bigint | undefined): Purse {
  let left = budget
  return {
    reserve(price) {
      if (left === undefined) return { release() {} }
      if (price > left) throw new ProxyError(402, `The price is ${price} and ${left} is left of this proxy's budget.`)
      left -= price
      return {
        release() {
          left! += price
        },
      }
    },
  }
}

/** Tells whether a purchase that failed is certain not to be charged: what never left, what was refused, and what failed with a receipt that says so. */
function costsNothing(error: unknown): boolean {
  if (error instanceof VerificationError) return !/^(receipt|batch|answer)_/.test(error.reason)
  if (error instanceof EdgeError) return error.details.accepted !== true
  return error instanceof JobFailedError || error instanceof TensorError
}

const encodings: Record<string, CompressionFormat> = { gzip: 'gzip', 'x-gzip': 'gzip', deflate: 'deflate' }

/** Reads a body and its compression (RFC 9110 section 8.4), never more than the bound: neither of what comes nor of what it unpacks to. */
async function readBody(request: Request, maxBytes: number): Promise<Uint8Array> {
  const encoding = (request.headers.get('content-encoding') ?? 'identity').trim().toLowerCase()
  if (!request.body) return new Uint8Array()
  if (encoding === 'identity') return collect(request.body, maxBytes)
  const format = encodings[encoding]
  if (!format)
    throw new ProxyError(415, `Content-Encoding ${encoding.slice(0, 40)} is not taken; send gzip, deflate or none.`, {
      'accept-encoding': 'gzip, deflate',
    })
  try {
    const packed = await collect(request.body, maxBytes)
    return await collect(new Blob([packed]).stream().pipeThrough(new DecompressionStream(format)), maxBytes)
  } catch (error) {
    if (error instanceof ProxyError) throw error
    throw new ProxyError(400, `The body is not ${format}.`)
  }
}

async function collect(stream: ReadableStream<Uint8Array>, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of stream) {
    length += chunk.length
    if (length > maxBytes) throw new ProxyError(413, `A body takes at most ${maxBytes} bytes.`)
    chunks.push(chunk)
  }
  const joined = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    joined.set(chunk, offset)
    offset += chunk.length
  }
  return joined
}

function json(value: unknown, status = 200, headers: Record<string, string> = {}): Response {
  return Response.json(value, { status, headers })
}

function bodyResponse({ bytes, headerLength }: OipBody, headers: Record<string, string>): Response {
  const own: Record<string, string> =
    headerLength === null
      ? { 'content-type': 'application/json' }
      : { 'content-type': 'application/octet-stream', [headerLengthName]: String(headerLength) }
  return new Response(bytes, { headers: { ...headers, ...own } })
}

type Failure = { status: number; code: string; message: string; headers?: Record<string, string> }

/** Gives each failure the status that tells a client whose it was: its own request's (4xx), the market's (503, 504) or what came back and did not verify (502). */
function explainFailure(error: unknown): Failure {
  if (error instanceof ProxyError)
    return { status: error.status, code: 'refused', message: error.message, headers: error.headers }
  if (error instanceof TensorError) return { status: 400, code: 'invalid_request', message: error.message }
  if (error instanceof JobFailedError)
    return { status: 422, code: 'job_failed', message: `${error.message} Nothing was charged.` }
  if (error instanceof VerificationError)
    return { status: error.reason === 'price_above_cap' ? 402 : 502, code: error.reason, message: error.message }
  if (error instanceof EdgeError) return { status: statusOf(error), code: error.code, message: error.message }
  // Anything else is a bug, and its message might hold what is nobody's business.
  return { status: 500, code: 'internal', message: 'The proxy failed at this request.' }
}

function statusOf({ code, status }: EdgeError): number {
  if (code === 'network') return 502
  if (code === 'no_match') return 503
  if ([402, 404, 413, 503, 504].includes(status)) return status
  return status >= 500 ? 503 : 502
}

/** Gives the file name of an answer's bundle: its channel and number, which nothing else shares. */
export function bundleName({ receipt }: Pick<Inference, 'receipt'>): string {
  return `${toHex(receipt.channel).slice(2)}-${receipt.job}.json`
}
