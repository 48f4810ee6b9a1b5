import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fromHex, type Hex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { type Listing, listingDigest } from '../../protocol/listing.ts'
import { type Manifest, type ManifestFile, modelDigest, parseManifest } from '../../protocol/manifest.ts'
import { readGraph } from '../../protocol/onnx/reader.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import type { LoadableModel } from './executor.ts'

/** Reports that a model cannot be served, and why. */
export class ModelRefusedError extends Error {
  override name = 'ModelRefusedError'
}

/** Reports a download that ended early or brought other bytes than were asked for: worth another try, for it is not the model that is wrong. */
export class DownloadError extends Error {
  override name = 'DownloadError'
}

/** Holds a model whose bytes have been checked, ready to load; `reread` gives them once more, checked again. */
export type FetchedModel = {
  digest: Hex
  manifest: Manifest
  listing: Listing
  loadable: LoadableModel
  reread: () => Promise<LoadableModel>
  fixed: Tensor[]
}

/** Holds where a model's files come from: a folder that keeps them by digest, and the edge. */
export type ModelStore = { cacheDir: string; fetchArtifact: (sha256: string) => Promise<AsyncIterable<Uint8Array>> }

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

/** Fetches a model's files by digest, from the cache or the edge, and checks every byte. Throws ModelRefusedError on a model that can never be served, DownloadError when it may be tried again. */
export async function fetchModel(json: ModelJson, store: ModelStore): Promise<FetchedModel> {
  const manifest = parseManifest(json.manifest)
  if (modelDigest(manifest) !== json.digest) throw new ModelRefusedError('The manifest does not have this digest.')
  await mkdir(store.cacheDir, { recursive: true })
  const loadable = await readModel(json.digest, manifest, store)
  return {
    digest: json.digest,
    manifest,
    listing: listingFromJson(json.listing),
    loadable,
    reread: () => readModel(json.digest, manifest, store),
    fixed: loadable.fixed.slice(),
  }
}

async function readModel(
  digest: Hex,
  manifest: Manifest,
  store: ModelStore,
): Promise<LoadableModel & { fixed: readonly Tensor[] }> {
  const files = new Map<string, Uint8Array>()
  for (const file of manifest.files) files.set(file.path, await readFileOf(file, store))
  const graph = files.get(manifest.files[0]!.path)!
  const { externalData } = readGraph(graph)
  for (const location of externalData) {
    if (!files.has(location))
      throw new ModelRefusedError(`The graph reads "${location}", which the manifest does not list.`)
  }
  return {
    digest,
    graph,
    external: externalData.map((path) => ({ path, data: files.get(path)! })),
    fixed: manifest.fixedInputs.map(({ name, path, datatype, shape }) => ({
      name,
      datatype,
      shape,
      data: files.get(path)!,
    })),
  }
}

/** Reads a file from the cache, and downloads it where the cache does not have it whole. */
async function readFileOf(file: ManifestFile, { cacheDir, fetchArtifact }: ModelStore): Promise<Uint8Array> {
  const cached = join(cacheDir, file.sha256)
  const read = async () => {
    const bytes = await readFile(cached).catch(() => null)
    // A cache is a disk, and disks rot: what it holds is checked like what the edge sends.
    return bytes && createHash('sha256').update(bytes).digest('hex') === file.sha256 ? bytes : null
  }
  const kept = await read()
  if (kept) return kept
  await download(file, await fetchArtifact(file.sha256), cached)
  const fresh = await read()
  if (!fresh) throw new DownloadError(`The disk does not keep ${file.path} as it was written.`)
  return fresh
}

/** Writes a file as it comes in, and takes no byte more than it should have; it gets its name once every byte is right. */
async function download(file: ManifestFile, chunks: AsyncIterable<Uint8Array>, cached: string): Promise<void> {
  const part = `${cached}.${randomUUID()}.part`
  const hash = createHash('sha256')
  const handle = await open(part, 'wx', 0o600)
  try {
    let length = 0
    for await (const chunk of chunks) {
      length += chunk.length
      if (length > file.size) throw new DownloadError(`${file.path} is longer than the ${file.size} bytes listed.`)
      hash.update(chunk)
      await handle.writeFile(chunk)
    }
    if (length < file.size) throw new DownloadError(`${file.path} ended after ${length} of ${file.size} bytes.`)
    if (hash.digest('hex') !== file.sha256)
      throw new DownloadError(`The bytes of ${file.path} do not match their digest.`)
    await handle.sync()
    await rename(part, cached)
  } catch (error) {
    await rm(part, { force: true })
    throw error
  } finally {
    await handle.close()
  }
}
