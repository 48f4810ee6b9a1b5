import type { Hex } from '../protocol/bytes.ts'
import type { Listing } from '../protocol/listing.ts'
import { EdgeError } from './errors.ts'

/** Speaks to an edge. Every refusal becomes an EdgeError with the edge's own code and hint. */
export type Edge = {
  json<T>(path: string, init?: { method?: string; body?: unknown }): Promise<T>
  bytes(path: string, init?: { method?: string; body?: Uint8Array }): Promise<Uint8Array>
}

/** Holds what a network's signatures are bound to. */
export type Network = {
  chainId: number
  escrow: Hex
  registry: Hex
  policy: Hex
  attestedInference: Hex
  token: Hex
  feeBps: number
  developmentRoots: boolean
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

/** Reads a listing's numbers. */
export function listingFromJson(json: ListingJson): Listing {
  return { ...json, price: BigInt(json.price), validUntil: BigInt(json.validUntil), nonce: BigInt(json.nonce) }
}

/** Connects to an edge by its URL. */
export function connectEdge(url: string, fetchImplementation: typeof fetch = fetch): Edge {
  const base = url.replace(/\/$/, '')
  const request = async (path: string, init: RequestInit): Promise<Response> => {
    let response: Response
    try {
      response = await fetchImplementation(`${base}${path}`, init)
    } catch (cause) {
      throw new EdgeError('network', 0, `The edge at ${base} cannot be reached.`, 'Is it up?', { cause: String(cause) })
    }
    if (response.ok) return response
    const problem = (await response.json().catch(() => ({}))) as Record<string, unknown>
    const { code = 'network', detail = `The edge answered ${response.status}.`, hint, ...rest } = problem
    throw new EdgeError(
      String(code),
      response.status,
      String(detail),
      hint === undefined ? undefined : String(hint),
      rest,
    )
  }
  return {
    async json<T>(path: string, { method = 'GET', body }: { method?: string; body?: unknown } = {}) {
      const init: RequestInit =
        body === undefined
          ? { method }
          : { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
      return (await (await request(path, init)).json()) as T
    },
    async bytes(path, { method = 'GET', body } = {}) {
      const init: RequestInit =
        body === undefined
          ? { method }
          : { method, headers: { 'content-type': 'application/octet-stream' }, body: body as Uint8Array<ArrayBuffer> }
      return new Uint8Array(await (await request(path, init)).arrayBuffer())
    },
  }
}
