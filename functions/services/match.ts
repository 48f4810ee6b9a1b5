import type { Hex } from '../../protocol/bytes.ts'
import type { Context } from '../context.ts'
import { AssayError, UnavailableError } from '../errors.ts'
import type { Candidate, Requirements } from '../match/requirements.ts'
import type { Snapshot } from '../match/snapshot.ts'
import type { ListingJson } from './models.ts'

/** How old a snapshot without a fitting runner may be before it is read again, in milliseconds: one that has just come should not be missed for seconds. */
const emptyMs = 100
/** How old a runner's word about its load may be before it is asked, in milliseconds. */
const heardMs = 1_000
/** How long a mailbox is waited for, in milliseconds. */
const askMs = 250
/** Pairs drawn before one is taken whose runners are away. */
const maxAttempts = 3
/** How long a price is promised, in seconds. */
const quoteSeconds = 300

/** Names a runner, its keys and a price that stands until a stated time. */
export type Match = {
  runner: { signer: string; hpkeKey: string; provider: string; evidenceDigest: string; validUntil: string }
  model: { digest: Hex; price: string; royaltyBps: number; payout: Hex }
  feeBps: number
  validUntil: string
}

const isoTime = (seconds: number) => new Date(seconds * 1000).toISOString()

function checkPrice(listing: ListingJson, { maxPrice }: Requirements, at: number): void {
  const refuse = (reason: string, detail: string, hint: string) =>
    new AssayError('no_match', detail, {
      hint,
      extra: { reasons: [{ reason, count: 1 }], nearest: { price: listing.price } },
    })
  if (Number(listing.validUntil) <= at)
    throw refuse('listing_expired', 'The listing has expired.', 'Ask its publisher for a new one.')
  if (maxPrice !== undefined && BigInt(listing.price) > BigInt(maxPrice))
    throw refuse(
      'price',
      `The price is ${listing.price}, above ${maxPrice}.`,
      'Raise maxPrice or choose another model.',
    )
}

async function noMatch(
  { directory }: Context,
  snapshot: Snapshot,
  requirements: Requirements,
  at: number,
): Promise<AssayError> {
  if (snapshot.candidates.length > 0) {
    return new AssayError('no_match', 'No runner online that serves this model meets the requirements.', {
      hint: 'Relax what the nearest one misses, or wait for another.',
      extra: { ...snapshot.explain(requirements, at), runners: snapshot.candidates.length, sampled: snapshot.sampled },
    })
  }
  const online = await directory.countOnline()
  return new AssayError('no_match', online === 0 ? 'No runner is online.' : 'No runner online serves this model.', {
    hint: 'Runners pick up new listings within seconds.',
    extra: { reasons: online === 0 ? [] : [{ reason: 'model_not_served', count: online }], runners: 0, sampled: false },
  })
}

/** Asks the mailboxes of those drawn that have not been heard lately how loaded they are. One that does not answer in time keeps the load believed of it. */
async function ask({ directory, mailbox, now }: Context, candidates: readonly Candidate[]): Promise<void> {
  await Promise.all(
    candidates.map(async ({ signer }) => {
      const late = new Promise<null>((resolve) => setTimeout(resolve, askMs, null))
      const asked = mailbox.get(mailbox.idFromName(signer)).load(signer)
      const load = await Promise.race([asked, late]).catch(() => null)
      if (load?.connected) directory.loads.note(signer, load, now())
      else if (load) directory.loads.noteAway(signer, now())
    }),
  )
}

/** Draws two, asks those that have not been heard lately, and takes the less loaded. An isolate among many hears too little of any one machine to choose by what it remembers. */
async function choose(
  context: Context,
  snapshot: Snapshot,
  requirements: Requirements,
  at: number,
): Promise<Candidate | null> {
  const { now, random } = context
  for (let attempt = 1; ; attempt++) {
    const drawn = snapshot.draw(requirements, at, random)
    if (drawn.length === 0) return null
    const unheard = snapshot.unheard(drawn, now(), heardMs)
    if (unheard.length > 0) await ask(context, unheard)
    // A machine that is away may be back in a moment: the last two drawn are given all the same.
    if (attempt === maxAttempts || !snapshot.allAway(drawn)) return snapshot.take(drawn)
  }
}

/** Finds a runner for a model, or says why there is none; `later` keeps work behind the answer alive. Throws `not_found`, `no_match` with typed reasons, and `unavailable` when nothing is known and the database is away. */
export async function matchRunner(
  context: Context,
  { model, requirements }: { model: Hex; requirements: Requirements },
  later: (work: Promise<unknown>) => void,
): Promise<Match> {
  const { directory, now, settings } = context
  const at = Math.floor(now() / 1000)
  let listing: ListingJson | null
  let snapshot: Snapshot
  let chosen: Candidate | null
  try {
    listing = await directory.listing(model)
    if (!listing) throw new AssayError('not_found', `No model has digest ${model}.`)
    checkPrice(listing, requirements, at)
    snapshot = await directory.snapshot(model, later)
    chosen = await choose(context, snapshot, requirements, at)
    if (!chosen) {
      snapshot = await directory.newer(model, emptyMs)
      chosen = await choose(context, snapshot, requirements, at)
    }
  } catch (error) {
    if (error instanceof AssayError) throw error
    throw new UnavailableError('directory', error)
  }
  if (!chosen) throw await noMatch(context, snapshot, requirements, at)
  const { signer, hpkeKey, provider, evidenceDigest, validUntil } = chosen
  return {
    runner: { signer, hpkeKey, provider, evidenceDigest, validUntil: isoTime(validUntil) },
    model: { digest: model, price: listing.price, royaltyBps: listing.royaltyBps, payout: listing.payout },
    feeBps: settings.FEE_BPS,
    validUntil: isoTime(Math.min(validUntil, Number(listing.validUntil), at + quoteSeconds)),
  }
}
