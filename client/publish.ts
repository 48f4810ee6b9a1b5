import { type Hex, toHex } from '../protocol/bytes.ts'
import { listingDigest } from '../protocol/listing.ts'
import { type ExecutionClass, type Manifest, modelDigest, parseManifest } from '../protocol/manifest.ts'
import { readGraph } from '../protocol/onnx/reader.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import type { Edge, ModelJson, Network } from './edge.ts'

/** Holds a file that a graph keeps data in, by the path the graph names. */
export type ExternalFile = { path: string; data: Uint8Array }

/** Holds what a publisher lists. Price in the token's smallest unit per inference. */
export type Publication = {
  graph: Uint8Array
  /** External data files by the path the graph names. */
  external?: readonly ExternalFile[]
  name: string
  version: string
  licence: string
  card?: string
  price: bigint
  royaltyBps: number
  /** Receives the royalty; the publisher's own address unless given. */
  payout?: Hex
  execution?: ExecutionClass
  signer: Signer
  network: Network
  /** Gives unix milliseconds. */
  now: () => number
  /** Tries the model before anything is uploaded; throws to refuse it with a reason. */
  check?: (graph: Uint8Array, external: readonly ExternalFile[]) => Promise<void>
  /** How long the listing stands, in seconds; a year unless given. */
  validSeconds?: number
}

async function digestOf(data: Uint8Array): Promise<string> {
  return toHex(new Uint8Array(await crypto.subtle.digest('SHA-256', data as Uint8Array<ArrayBuffer>))).slice(2)
}

/** Lists a model: reads its tensors from the graph, uploads its files, signs the listing. Throws OnnxError on a graph that cannot be listed, EdgeError when the edge refuses. */
export async function publishModel(edge: Edge, publication: Publication): Promise<ModelJson> {
  const { graph, external = [], signer, network, now } = publication
  const info = readGraph(graph)
  await publication.check?.(graph, external)
  const files = await Promise.all(
    [{ path: 'model.onnx', data: graph }, ...external].map(async ({ path, data }) => ({
      path,
      data,
      size: data.length,
      sha256: await digestOf(data),
    })),
  )
  const manifest: Manifest = parseManifest({
    name: publication.name,
    version: publication.version,
    licence: publication.licence,
    files: files.map(({ path, size, sha256 }) => ({ path, size, sha256 })),
    inputs: info.inputs,
    outputs: info.outputs,
    fixedInputs: [],
    execution: publication.execution ?? { class: 'exact' },
    opsets: info.opsets,
  })
  for (const { sha256, data } of files) await edge.bytes(`/v1/artifacts/${sha256}`, { method: 'PUT', body: data })

  const listing = {
    model: modelDigest(manifest),
    publisher: signer.address,
    payout: publication.payout ?? signer.address,
    price: publication.price,
    royaltyBps: publication.royaltyBps,
    unit: 'inference',
    validUntil: BigInt(Math.floor(now() / 1000) + (publication.validSeconds ?? 365 * 86_400)),
    nonce: BigInt(Math.floor(now())),
  }
  const signature = await signer.sign(listingDigest({ chainId: network.chainId, escrow: network.escrow }, listing))
  return edge.json<ModelJson>('/v1/models', {
    method: 'POST',
    body: {
      manifest,
      listing: {
        ...listing,
        price: listing.price.toString(),
        validUntil: listing.validUntil.toString(),
        nonce: listing.nonce.toString(),
      },
      signature: toHex(signature),
      card: publication.card ?? '',
    },
  })
}
