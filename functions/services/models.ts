import { and, desc, eq, lt } from 'drizzle-orm'
import { EncodingError, fromHex, type Hex } from '../../protocol/bytes.ts'
import { canonicalJson } from '../../protocol/canonicalJson.ts'
import { type Listing, listingDigest } from '../../protocol/listing.ts'
import { type Manifest, modelDigest, parseManifest } from '../../protocol/manifest.ts'
import { type GraphInfo, OnnxError, readGraph } from '../../protocol/onnx/reader.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import { elementCount, elementSize } from '../../protocol/tensors.ts'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { query, violates } from '../store/database.ts'
import { models } from '../store/schema.ts'

/** Holds a listing as JSON carries it. */
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

type Row = typeof models.$inferSelect

const shown = ({ position: _, nonce: __, ...row }: Row) => ({
  ...row,
  createdAt: new Date(row.createdAt).toISOString(),
})

function readListing(json: ListingJson): Listing {
  return { ...json, price: BigInt(json.price), validUntil: BigInt(json.validUntil), nonce: BigInt(json.nonce) }
}

function sameAsGraph(manifest: Manifest, graph: GraphInfo): void {
  const fixed = new Set(manifest.fixedInputs.map(({ name }) => name))
  const compare = (what: string, listed: unknown, read: unknown) => {
    if (canonicalJson(listed) === canonicalJson(read)) return
    throw new AssayError('model_invalid', `The manifest's ${what} are not the graph's.`, {
      hint: `The graph has ${JSON.stringify(read).slice(0, 500)}.`,
    })
  }
  compare(
    'inputs',
    manifest.inputs,
    graph.inputs.filter(({ name }) => !fixed.has(name)),
  )
  compare('outputs', manifest.outputs, graph.outputs)
  compare('opsets', manifest.opsets, graph.opsets)
  for (const name of fixed) {
    if (!graph.inputs.some((input) => input.name === name))
      throw new AssayError('model_invalid', `The graph has no input "${name}" to fix.`)
  }
  for (const location of graph.externalData) {
    if (!manifest.files.some(({ path }) => path === location)) {
      throw new AssayError('model_invalid', `The graph reads "${location}", which is not among the manifest's files.`, {
        hint: 'List every external data file.',
      })
    }
  }
}

async function checkFiles({ artifacts }: Context, manifest: Manifest): Promise<void> {
  for (const { path, sha256, size } of manifest.files) {
    const head = await artifacts.head(sha256)
    if (!head)
      throw new AssayError('model_invalid', `${path} has not been uploaded.`, {
        hint: `PUT /v1/artifacts/${sha256} first.`,
      })
    if (head.size !== size)
      throw new AssayError('model_invalid', `${path} has ${head.size} bytes, the manifest says ${size}.`)
  }
  for (const { name, path, datatype, shape } of manifest.fixedInputs) {
    const file = manifest.files.find((candidate) => candidate.path === path)!
    const size = elementSize(datatype)
    if (size !== null && file.size !== size * elementCount(shape)) {
      throw new AssayError(
        'model_invalid',
        `Fixed input "${name}" takes ${size * elementCount(shape)} bytes, ${path} has ${file.size}.`,
      )
    }
  }
}

const nonceTaken = (name: string, nonce: string) =>
  new AssayError('conflict', `The newest listing of ${name} has nonce ${nonce}.`, { hint: 'Sign with a higher nonce.' })

/** Lists a model: the publisher's signature, the bytes of every file, and the graph itself must agree with the manifest. Listing the same again changes nothing. */
export async function publishModel(
  context: Context,
  {
    manifest: json,
    listing: listingJson,
    signature,
    card,
  }: { manifest: unknown; listing: ListingJson; signature: Hex; card: string },
) {
  const { database, artifacts, domain, now } = context
  let manifest: Manifest
  try {
    manifest = parseManifest(json)
  } catch (error) {
    if (error instanceof EncodingError) throw new AssayError('model_invalid', error.message)
    throw error
  }
  const digest = modelDigest(manifest)
  const listing = readListing(listingJson)
  if (listing.model !== digest)
    throw new AssayError('digest_mismatch', `The manifest's digest is ${digest}, the listing names ${listing.model}.`)
  if (recoverAddress(listingDigest(domain, listing), fromHex(signature)) !== listing.publisher) {
    throw new AssayError('listing_invalid', 'The listing is not signed by its publisher.', {
      hint: 'Sign Listing (EIP-712) for the escrow and chain of GET /v1/network.',
    })
  }
  if (listing.validUntil <= BigInt(Math.floor(now() / 1000)))
    throw new AssayError('listing_invalid', 'The listing has expired.', { hint: 'Sign one with a later validUntil.' })
  if (listing.royaltyBps + context.settings.FEE_BPS > 10_000)
    throw new AssayError('listing_invalid', 'Royalty and fee exceed the price.')

  await checkFiles(context, manifest)
  const graph = await artifacts.get(manifest.files[0]!.sha256)
  try {
    sameAsGraph(manifest, readGraph(new Uint8Array(await graph!.arrayBuffer())))
  } catch (error) {
    if (error instanceof OnnxError)
      throw new AssayError('model_invalid', error.message, { hint: error.hint, extra: { reason: error.code } })
    throw error
  }

  const owner = listing.publisher
  const [latest] = await query(() =>
    database
      .select({ listing: models.listing, digest: models.digest })
      .from(models)
      .where(and(eq(models.owner, owner), eq(models.name, manifest.name)))
      .orderBy(desc(models.nonce))
      .limit(1),
  )
  if (latest && latest.digest !== digest && BigInt(latest.listing.nonce!) >= listing.nonce) {
    throw nonceTaken(manifest.name, String(latest.listing.nonce))
  }
  const row = {
    digest,
    owner,
    name: manifest.name,
    version: manifest.version,
    manifest,
    listing: listingJson,
    signature,
    card,
  }
  try {
    await query(() => database.insert(models).values(row).onConflictDoNothing({ target: models.digest }))
  } catch (error) {
    // Two listings raced past the check above with one nonce: the unique index lets the first one stand.
    if (violates(error, 'models_nonce')) throw nonceTaken(manifest.name, listingJson.nonce)
    throw error
  }
  return getModelByDigest(context, digest)
}

/** Gives one version of a model. */
export async function getModelByDigest({ database }: Context, digest: string) {
  const [row] = await query(() => database.select().from(models).where(eq(models.digest, digest)))
  if (!row)
    throw new AssayError('not_found', `No model has digest ${digest}.`, { hint: 'GET /v1/models lists what is there.' })
  return shown(row)
}

/** Gives the newest version of a publisher's model. */
export async function getModelByName({ database }: Context, owner: string, name: string) {
  const [row] = await query(() =>
    database
      .select()
      .from(models)
      .where(and(eq(models.owner, owner.toLowerCase()), eq(models.name, name)))
      .orderBy(desc(models.nonce))
      .limit(1),
  )
  if (!row) throw new AssayError('not_found', `${owner} lists no model named ${name}.`)
  return shown(row)
}

/** Lists models, newest first. */
export async function listModels(
  { database }: Context,
  { cursor, limit, name }: { cursor?: number; limit: number; name?: string },
) {
  const where = and(
    cursor === undefined ? undefined : lt(models.position, cursor),
    name === undefined ? undefined : eq(models.name, name),
  )
  const rows = await query(() =>
    database
      .select()
      .from(models)
      .where(where)
      .orderBy(desc(models.position))
      .limit(limit + 1),
  )
  const page = rows.slice(0, limit)
  return { models: page.map(shown), nextCursor: rows.length > limit ? String(page.at(-1)!.position) : null }
}
