import { and, eq, gt } from 'drizzle-orm'
import type { Hex } from '../../protocol/bytes.ts'
import type { Verdict } from '../../protocol/evidence/index.ts'
import type { Context } from '../context.ts'
import { AssayError, UnavailableError } from '../errors.ts'
import { query } from '../store/database.ts'
import { models, runners } from '../store/schema.ts'
import type { ListingJson } from './models.ts'

/** Holds what a buyer asks of a machine. Prices in the token's smallest unit, ages in seconds. */
export type Requirements = {
  tee?: string
  maxPrice?: string
  measurement?: string
  maxAttestationAgeSeconds?: number
  exclude?: string[]
}

/** Lists why a runner does not match. */
export type MismatchReason = 'model_not_served' | 'tee' | 'measurement' | 'attestation_age' | 'excluded'

/** Holds what matching reads of a runner. */
export type Candidate = {
  signer: Hex
  provider: string
  hpkeKey: string
  evidenceDigest: string
  validUntil: number
  verifiedAt: number
  models: readonly string[]
  verdict: Verdict
  load: number
}

type Directory = { readAt: number; candidates: Candidate[]; listings: Map<string, ListingJson> }

/** How old the directory in the isolate may be before it is read again, in milliseconds. */
const freshMs = 1_000
const directories = new WeakMap<object, Directory>()

/** How old a directory without a fitting runner may be before it is read again, in milliseconds: one that has just come should not be missed for a second. */
const emptyMs = 100

/** Reads the directory of runners that are online and attested, unless the isolate's copy is younger than `maxAgeMs`. */
async function readDirectory({ database, now }: Context, maxAgeMs: number): Promise<Directory> {
  const known = directories.get(database)
  if (known && now() - known.readAt < maxAgeMs) return known
  const rows = await query(() =>
    database
      .select({
        signer: runners.signer,
        provider: runners.provider,
        hpkeKey: runners.hpkeKey,
        evidenceDigest: runners.evidenceDigest,
        validUntil: runners.validUntil,
        verifiedAt: runners.verifiedAt,
        models: runners.models,
        verdict: runners.verdict,
      })
      .from(runners)
      .where(and(eq(runners.online, true), gt(runners.validUntil, Math.floor(now() / 1000)))),
  )
  const loads = new Map(known?.candidates.map(({ signer, load }) => [signer, load]))
  const directory: Directory = {
    readAt: now(),
    candidates: rows.map((row) => ({
      ...row,
      signer: row.signer as Hex,
      verdict: row.verdict as Verdict,
      load: loads.get(row.signer as Hex) ?? 0,
    })),
    listings: new Map(),
  }
  directories.set(database, directory)
  return directory
}

/** Notes how loaded a runner said it was, so that the next match in this isolate knows. */
export function noteLoad({ database }: Context, signer: string, load: number): void {
  const candidate = directories.get(database)?.candidates.find((each) => each.signer === signer)
  if (candidate) candidate.load = load
}

/** Says why a candidate does not match, or null when it does. Pure; `now` in unix seconds. */
export function mismatch(
  candidate: Candidate,
  model: string,
  requirements: Requirements,
  now: number,
): MismatchReason | null {
  if (!candidate.models.includes(model)) return 'model_not_served'
  if (requirements.exclude?.includes(candidate.signer)) return 'excluded'
  if (requirements.tee && requirements.tee !== candidate.verdict.tee) return 'tee'
  if (requirements.measurement && requirements.measurement !== candidate.verdict.measurement?.workload)
    return 'measurement'
  if (
    requirements.maxAttestationAgeSeconds !== undefined &&
    now - candidate.verifiedAt > requirements.maxAttestationAgeSeconds
  )
    return 'attestation_age'
  return null
}

/** Chooses the less loaded of two random candidates: nearly as even as asking all, at the cost of two. */
export function chooseOfTwo<T extends { load: number }>(candidates: readonly T[], random: () => number): T {
  const first = candidates[Math.floor(random() * candidates.length)]!
  const second = candidates[Math.floor(random() * candidates.length)]!
  return second.load < first.load ? second : first
}

/** Finds a runner for a model, or says why there is none. */
export async function matchRunner(
  context: Context,
  { model, requirements }: { model: Hex; requirements: Requirements },
) {
  const { database, now, random, settings } = context
  let directory: Directory
  try {
    directory = await readDirectory(context, freshMs)
    const serves = directory.candidates.some(
      (candidate) => mismatch(candidate, model, requirements, Math.floor(now() / 1000)) === null,
    )
    if (!serves) directory = await readDirectory(context, emptyMs)
  } catch (error) {
    if (error instanceof UnavailableError) throw error
    throw new UnavailableError('directory', error)
  }
  let listing = directory.listings.get(model)
  if (!listing) {
    const [row] = await query(() =>
      database.select({ listing: models.listing }).from(models).where(eq(models.digest, model)),
    )
    if (!row) throw new AssayError('not_found', `No model has digest ${model}.`)
    listing = row.listing as unknown as ListingJson
    directory.listings.set(model, listing)
  }
  const at = Math.floor(now() / 1000)
  if (Number(listing.validUntil) <= at)
    throw new AssayError('no_match', 'The listing has expired.', {
      extra: { reasons: [{ reason: 'listing_expired', count: 1 }] },
    })
  if (requirements.maxPrice !== undefined && BigInt(listing.price) > BigInt(requirements.maxPrice)) {
    throw new AssayError('no_match', `The price is ${listing.price}, above ${requirements.maxPrice}.`, {
      hint: 'Raise maxPrice or choose another model.',
      extra: { reasons: [{ reason: 'price', count: directory.candidates.length }], nearest: { price: listing.price } },
    })
  }
  const counts = new Map<MismatchReason, number>()
  const fitting = directory.candidates.filter((candidate) => {
    const reason = mismatch(candidate, model, requirements, at)
    if (reason) counts.set(reason, (counts.get(reason) ?? 0) + 1)
    return reason === null && candidate.validUntil > at
  })
  if (fitting.length === 0) {
    throw new AssayError(
      'no_match',
      directory.candidates.length === 0 ? 'No runner is online.' : 'No runner online meets the requirements.',
      {
        hint: 'Runners pick up new listings within seconds; otherwise relax the requirements.',
        extra: { reasons: [...counts].map(([reason, count]) => ({ reason, count })) },
      },
    )
  }
  const { signer, hpkeKey, provider, evidenceDigest, validUntil } = chooseOfTwo(fitting, random)
  const quotedUntil = Math.min(validUntil, Number(listing.validUntil), at + 300)
  return {
    runner: { signer, hpkeKey, provider, evidenceDigest, validUntil: new Date(validUntil * 1000).toISOString() },
    model: { digest: model, price: listing.price, royaltyBps: listing.royaltyBps, payout: listing.payout },
    feeBps: settings.FEE_BPS,
    validUntil: new Date(quotedUntil * 1000).toISOString(),
  }
}
