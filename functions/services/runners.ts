import { and, asc, eq, gt } from 'drizzle-orm'
import { judgeRegistration, type RegistrationClaim, registrationFromJson } from '../../protocol/attestRegistration.ts'
import { EncodingError, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { canonicalJson } from '../../protocol/canonicalJson.ts'
import { CollateralUnavailableError } from '../../protocol/evidence/collateral.ts'
import { collateralToJson, evidenceToJson, type GpuCollateral } from '../../protocol/evidence/index.ts'
import { UnsupportedQuoteError } from '../../protocol/evidence/quote.ts'
import { remedyFor } from '../../protocol/evidence/remedies.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Context } from '../context.ts'
import { AssayError, UnavailableError } from '../errors.ts'
import { coverAt } from '../match/requirements.ts'
import { query } from '../store/database.ts'
import { runners, stakes } from '../store/schema.ts'
import { cache, collateralFor, type KeptCollateral } from './collateral.ts'
import { gpuCollateral, noticesOf } from './gpus.ts'

/** Registers a runner: evidence verified here against collateral fetched here, keys compared with the quote, and the chain's registry must know it. */
export async function registerRunner(
  context: Context,
  body: {
    statement: Hex
    evidence: unknown
    gpus?: readonly unknown[]
    registration: { provider: Hex; signature: Hex }
  },
) {
  const { database, domain, settings, now, registry, roots, policy } = context
  let claim: RegistrationClaim
  let kept: KeptCollateral
  let ofGpus: GpuCollateral
  try {
    claim = registrationFromJson(body)
    kept = await collateralFor(context, claim.evidence)
    ofGpus = await gpuCollateral(context, claim.gpus)
  } catch (error) {
    if (error instanceof CollateralUnavailableError) throw new UnavailableError('collateral service', error)
    if (error instanceof EncodingError || error instanceof UnsupportedQuoteError) {
      throw new AssayError('evidence_refuted', error.message, {
        extra: { refusals: [{ reason: 'malformed_quote', detail: error.message }] },
      })
    }
    throw error
  }
  const judged = await judgeRegistration(claim, kept.collateral, {
    now: Math.floor(now() / 1000),
    roots,
    policy,
    cache,
    gpuCollateral: ofGpus,
    domain,
    registry: settings.REGISTRY,
  })
  if (!judged.ok) {
    const { verdict, refusal } = judged
    if (refusal.reason === 'not_signed_by_runner') throw new AssayError('unauthorized', refusal.detail)
    throw new AssayError('evidence_refuted', refusal.detail, {
      hint: remedyFor(refusal.reason),
      extra: { verdict: verdict.verdict, refusals: [refusal] },
    })
  }
  const { verdict, statement, signer, validUntil } = judged
  const { provider } = claim
  let onChain: Awaited<ReturnType<typeof registry.providerOf>>
  try {
    onChain = await registry.providerOf(signer)
  } catch (error) {
    throw new UnavailableError('chain', error)
  }
  if (!onChain.active || onChain.provider !== provider) {
    throw new AssayError('not_registered', `The registry does not have ${signer} active for ${provider}.`, {
      hint: 'Register on chain first.',
    })
  }

  const evidenceJson = evidenceToJson(claim.evidence)
  const row = {
    provider,
    hpkeKey: toHex(statement.hpkeKey),
    statement: body.statement.toLowerCase(),
    evidence: evidenceJson,
    gpus: claim.gpus.map(evidenceToJson),
    collateral: kept.collateral ? collateralToJson(kept.collateral) : {},
    platform: kept.platform,
    collateralDigest: kept.digest,
    registration: { provider, signature: body.registration.signature },
    verdict,
    evidenceDigest: toHex(sha256(utf8(canonicalJson(evidenceJson)))),
    verifiedAt: Math.floor(now() / 1000),
    validUntil,
  }
  await query(() =>
    database
      .insert(runners)
      .values({ signer, ...row })
      .onConflictDoUpdate({ target: runners.signer, set: row }),
  )
  return { signer, verdict, validUntil: isoTime(validUntil), notices: noticesOf(verdict.claims, claim.gpus, ofGpus) }
}

const summary = {
  signer: runners.signer,
  provider: runners.provider,
  hpkeKey: runners.hpkeKey,
  verdict: runners.verdict,
  models: runners.models,
  online: runners.online,
  capacity: runners.capacity,
  evidenceDigest: runners.evidenceDigest,
  validUntil: runners.validUntil,
  staked: stakes.amount,
  exiting: stakes.exiting,
  withdrawableAt: stakes.withdrawableAt,
  slashed: stakes.slashed,
}
const isoTime = (seconds: number) => new Date(seconds * 1000).toISOString()

type SummaryRow = {
  validUntil: number
  staked: string | null
  exiting: string | null
  withdrawableAt: number | null
  slashed: boolean | null
}

/** Shows a runner; its stake in the token's smallest unit as of the last indexed block, null where no contract of stakes is known. */
function shown<T extends SummaryRow>({ settings, now }: Context, row: T) {
  const { validUntil, staked, exiting, withdrawableAt, slashed, ...rest } = row
  const stake = {
    amount: BigInt(staked ?? 0),
    exiting: BigInt(exiting ?? 0),
    withdrawableAt: BigInt(withdrawableAt ?? 0),
  }
  return {
    ...rest,
    validUntil: isoTime(validUntil),
    stake: settings.STAKE
      ? {
          amount: String(stake.amount),
          exiting: String(stake.exiting),
          withdrawableAt: stake.exiting > 0n ? isoTime(Number(stake.withdrawableAt)) : null,
          /** What vouches for a channel opened now. */
          cover: String(coverAt(stake, Math.floor(now() / 1000))),
          slashed: slashed ?? false,
        }
      : null,
  }
}

/** Lists runners by key: all, or those a provider registered, also the ones that are gone. */
export async function listRunners(
  context: Context,
  { cursor, limit, provider }: { cursor?: string | undefined; limit: number; provider?: Hex | undefined },
) {
  const rows = await query(() =>
    context.database
      .select(summary)
      .from(runners)
      .leftJoin(stakes, eq(stakes.runner, runners.signer))
      .where(
        and(
          cursor === undefined ? undefined : gt(runners.signer, cursor),
          provider === undefined ? undefined : eq(runners.provider, provider),
        ),
      )
      .orderBy(asc(runners.signer))
      .limit(limit + 1),
  )
  const page = rows.slice(0, limit)
  return {
    runners: page.map((row) => shown(context, row)),
    nextCursor: rows.length > limit ? page.at(-1)!.signer : null,
  }
}

/** Gives one runner. */
export async function getRunner(context: Context, signer: string) {
  const [row] = await query(() =>
    context.database
      .select(summary)
      .from(runners)
      .leftJoin(stakes, eq(stakes.runner, runners.signer))
      .where(eq(runners.signer, signer)),
  )
  if (!row) throw new AssayError('not_found', `No runner has key ${signer}.`)
  return shown(context, row)
}

/** Gives everything needed to verify a runner again. */
export async function getEvidence({ database }: Context, signer: string) {
  const [row] = await query(() =>
    database
      .select({
        statement: runners.statement,
        evidence: runners.evidence,
        gpus: runners.gpus,
        collateral: runners.collateral,
        registration: runners.registration,
        verifiedAt: runners.verifiedAt,
      })
      .from(runners)
      .where(eq(runners.signer, signer)),
  )
  if (!row) throw new AssayError('not_found', `No runner has key ${signer}.`)
  return row
}
