import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fromHex, type Hex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { type Listing, listingDigest } from '../../protocol/listing.ts'
import { type Manifest, modelDigest, parseManifest } from '../../protocol/manifest.ts'
import { readGraph } from '../../protocol/onnx/reader.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import type { LoadableModel } from './executor.ts'

/** Reports that a model cannot be served, and why. */
export class ModelRefusedError extends Error {
  override name = 'ModelRefusedError'
}

/** Holds a model whose bytes have been checked, ready to load. */
export type FetchedModel = {
  digest: Hex
  manifest: Manifest
  listing: Listing
  loadable: LoadableModel
  fixed: Tensor[]
}

/** Describes what a model's listing looks like over HTTP. */
export type ModelJson = { digest: Hex; manifest: unknown; listing: Record<string, string | number>; signature: Hex }

/** Reads a listing's JSON form. */
export function listingFromJson(json: Record<string, string | number>): Listing {
  return {
    model: json.model as Hex,
    publisher: json.publisher as Hex,
    payout: json.payout as Hex,
    price: BigInt(json.price!),
    royaltyBps: Number(json.royaltyBps),
    unit: String(json.unit),
    validUntil: BigInt(json.validUntil!),
    nonce: BigInt(json.nonce!),
  }
}

/** Checks that a listing is its publisher's word about this model, so that an edge cannot name another price or payee. `now` in unix seconds. Throws ModelRefusedError. */
export async function checkListing(
  { digest, listing: json, signature }: ModelJson,
  {
    domain,
    now,
    contractSignature,
  }: {
    domain: Domain
    now: number
    contractSignature: (owner: Hex, digest: Uint8Array, signature: Uint8Array) => Promise<boolean | null>
  },
): Promise<void> {
  const listing = listingFromJson(json)
  if (listing.model !== digest) throw new ModelRefusedError('The listing is for another model.')
  if (listing.validUntil < BigInt(now)) throw new ModelRefusedError(`The listing ran out at ${listing.validUntil}.`)
  const signed = listingDigest(domain, listing)
  const bytes = fromHex(signature)
  const publisher = listing.publisher.toLowerCase() as Hex
  if (recoverAddress(signed, bytes) !== publisher && (await contractSignature(publisher, signed, bytes)) !== true)
    throw new ModelRefusedError('The listing is not signed by its publisher.')
}

/** Fetches a model's files by digest, from the cache or the edge, and checks every byte. Throws ModelRefusedError. */
export async function fetchModel(
  json: ModelJson,
  { cacheDir, fetchArtifact }: { cacheDir: string; fetchArtifact: (sha256: string) => Promise<Uint8Array> },
): Promise<FetchedModel> {
  const manifest = parseManifest(json.manifest)
  if (modelDigest(manifest) !== json.digest) throw new ModelRefusedError('The manifest does not have this digest.')
  await mkdir(cacheDir, { recursive: true })

  const files = new Map<string, Uint8Array>()
  for (const { path, size, sha256 } of manifest.files) {
    const isRight = (bytes: Uint8Array) =>
      bytes.length === size && createHash('sha256').update(bytes).digest('hex') === sha256
    const cached = join(cacheDir, sha256)
    let bytes: Uint8Array | null = await readFile(cached).catch(() => null)
    // A cache is a disk, and disks rot: what it holds is checked like what the edge sends.
    if (!bytes || !isRight(bytes)) {
      bytes = await fetchArtifact(sha256)
      if (!isRight(bytes)) throw new ModelRefusedError(`The bytes of ${path} do not match their digest.`)
      await writeFile(`${cached}.part`, bytes)
      await rename(`${cached}.part`, cached)
    }
    files.set(path, bytes)
  }

  const graph = files.get(manifest.files[0]!.path)!
  const info = readGraph(graph)
  for (const location of info.externalData) {
    if (!files.has(location))
      throw new ModelRefusedError(`The graph reads "${location}", which the manifest does not list.`)
  }
  return {
    digest: json.digest,
    manifest,
    listing: listingFromJson(json.listing),
    loadable: {
      digest: json.digest,
      graph,
      external: info.externalData.map((path) => ({ path, data: files.get(path)! })),
    },
    fixed: manifest.fixedInputs.map(({ name, path, datatype, shape }) => ({
      name,
      datatype,
      shape,
      data: files.get(path)!,
    })),
  }
}
