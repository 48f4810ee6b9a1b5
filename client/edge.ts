import type { Hex } from '../protocol/bytes.ts'
import type { Listing } from '../protocol/listing.ts'
import { EdgeError } from './errors.ts'

/** Speaks to an edge. Every refusal becomes an EdgeError with the edge's own code and hint. */
export type Edge = {
  json<T>(path: string, init?: { method?: string; body?: unknown; headers?: Record<string, string> }): Promise<T>
  bytes(
    path: string,
    init?: { method?: string; body?: Uint8Array; headers?: Record<string, string>; timeoutMs?: number },
  ): Promise<Uint8Array>
  /** Posts bytes under a content type of their own and gives the answer's bytes as they come. Reading them throws EdgeError too. */
  stream(
    path: string,
    init: { body: Uint8Array; headers: Record<string, string>; signal: AbortSignal },
  ): Promise<AsyncIterable<Uint8Array>>
}

/** Holds what a network's signatures are bound to. */
export type Network = {
  chainId: number
  escrow: Hex
  registry: Hex
  policy: Hex
  attestedInference: Hex
  token: Hex
  /** Where runners stake; null where they cannot. */
  stake?: Hex | null
  feeBps: number
  developmentRoots: boolean
}

/** Holds an address's money as the edge gives it, in the token's smallest unit; what it does not know is null. */
export type AccountJson = {
  address: Hex
  deposit: string
  available: string
  reserved: string
  reservedFor: { unsettled: string; leased: string } | null
  requested: string
  withdrawableAt: string | null
  earnings: { withdrawable: string; undivided: string | null }
  stake: { amount: string; requested: string; owedBySlashes: string } | null
}

/** Holds a listing as the edge gives it. */
export type ModelJson = {
  digest: Hex
  owner: Hex
  name: string
  version: string
  manifest: unknown
  listing: ListingJson
  signature: Hex
  card: string
  createdAt: string
}

/** Holds a listing's terms as JSON carries them. */
export type ListingJson = {
  model: Hex
  publisher: Hex
  payout: Hex
  price: string
  royaltyBps: number
  unit: string
  validUntil: string
  nonce: string
}

/** Holds a match as the edge gives it. */
export type Match = {
  runner: { signer: Hex; hpkeKey: Hex; provider: Hex; evidenceDigest: Hex; validUntil: string }
  model: { digest: Hex; price: string; royaltyBps: number; payout: Hex }
  feeBps: number
  validUntil: string
}

/** Holds an asynchronous job as the edge shows it. */
export type JobJson = {
  id: string
  runner: Hex
  channel: Hex
  job: string
  state: 'queued' | 'running' | 'done' | 'refused' | 'expired' | 'cancelled'
  createdAt: string
  deadline: string
  finishedAt: string | null
  problem?: { code: string; detail: string }
  links: { self: string; result: string; events: string }
  webhook?: { url: string; state: string; attempts: number; lastStatus: number | null; nextAttemptAt: string | null }
  webhookSecret?: string
}

/** Reads a listing's numbers. */
export function listingFromJson(json: ListingJson): Listing {
  return { ...json, price: BigInt(json.price), validUntil: BigInt(json.validUntil), nonce: BigInt(json.nonce) }
}

/** Makes the error of a problem an edge words, or of an answer without one. */
export function problemError(problem: unknown, status: number, whose: string): EdgeError {
  const { code, detail, hint, ...rest } = (problem ?? {}) as Record<string, unknown>
  if (typeof code === 'string')
    return new EdgeError(code, status, String(detail), hint === undefined ? undefined : String(hint), rest)
  const said = `${whose} answered ${status} without a word an edge uses.`
  return new EdgeError('network', status, said, 'Is it the address of an edge?')
}

const octets = 'application/octet-stream'

/** Connects to an edge by its URL. */
export function connectEdge(url: string, fetchImplementation: typeof fetch = fetch): Edge {
  const base = url.replace(/\/$/, '')
  /** Turns what the network does to a request, or to the body of its answer, into an error one can act on. */
  const reached = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work
    } catch (cause) {
      if (cause instanceof SyntaxError)
        throw new EdgeError('network', 0, `${base} gave no JSON.`, 'Is it the address of an edge?', { cause: 'syntax' })
      throw new EdgeError('network', 0, `The edge at ${base} cannot be reached.`, 'Is it up?', { cause: String(cause) })
    }
  }
  const request = async (path: string, init: RequestInit): Promise<Response> => {
    const response = await reached(fetchImplementation(`${base}${path}`, init))
    if (response.ok) return response
    throw problemError(await response.json().catch(() => null), response.status, base)
  }
  return {
    async json<T>(
      path: string,
      {
        method = 'GET',
        body,
        headers = {},
      }: { method?: string; body?: unknown; headers?: Record<string, string> } = {},
    ) {
      // Bytes go as they are: a job is posted in binary and answered in JSON when nobody waits for it.
      const content =
        body === undefined
          ? {}
          : body instanceof Uint8Array
            ? { headers: { ...headers, 'content-type': octets }, body: body as Uint8Array<ArrayBuffer> }
            : { headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(body) }
      const response = await request(path, { method, headers, ...content })
      return (await reached(response.json())) as T
    },
    async bytes(path, { method = 'GET', body, headers = {}, timeoutMs } = {}) {
      const signal = timeoutMs === undefined ? {} : { signal: AbortSignal.timeout(timeoutMs) }
      const init: RequestInit =
        body === undefined
          ? { method, headers, ...signal }
          : {
              method,
              headers: { ...headers, 'content-type': octets },
              body: body as Uint8Array<ArrayBuffer>,
              ...signal,
            }
      const response = await request(path, init)
      return new Uint8Array(await reached(response.arrayBuffer()))
    },
    async stream(path, { body, headers, signal }) {
      const init = { method: 'POST', headers, body: body as Uint8Array<ArrayBuffer>, signal }
      return chunksOf(await request(path, init), reached)
    },
  }
}

async function* chunksOf(response: Response, reached: <T>(work: Promise<T>) => Promise<T>): AsyncGenerator<Uint8Array> {
  // Some platforms' fetch gives an answer in one piece and no stream of it.
  if (!response.body) return yield new Uint8Array(await reached(response.arrayBuffer()))
  const reader = response.body.getReader()
  for (let read = await reached(reader.read()); !read.done; read = await reached(reader.read())) yield read.value
}
