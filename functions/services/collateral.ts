import { and, asc, eq, gt, ne } from 'drizzle-orm'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { canonicalJson } from '../../protocol/canonicalJson.ts'
import {
  CollateralUnavailableError,
  checkCollateral,
  fetchCollateral,
  platformOf,
} from '../../protocol/evidence/collateral.ts'
import {
  type Collateral,
  collateralFromJson,
  collateralToJson,
  createEvidenceCache,
  type Evidence,
  evidenceFromJson,
  type Verdict,
  verifyUnderRoots,
} from '../../protocol/evidence/index.ts'
import { decodeStatement } from '../../protocol/evidence/statement.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Context } from '../context.ts'
import { query } from '../store/database.ts'
import { collaterals, runners } from '../store/schema.ts'
import { judgeGpus } from './gpus.ts'

/** Collateral older than this is fetched again, so that a revocation is seen within hours though lists stand for weeks. */
const refreshSeconds = 6 * 3_600

/** Holds collateral as the edge keeps it: `digest` changes when anything in it does. Evidence that brings its own chain has none, and no platform. */
export type KeptCollateral = { platform: string; digest: string; collateral: Collateral | null }

/** Remembers what was checked: signatures over collateral once per isolate and not once per registration. */
export const cache = createEvidenceCache()

const digestOf = (collateral: Collateral) => toHex(sha256(utf8(canonicalJson(collateralToJson(collateral)))))

/** Judges evidence under the roots this edge trusts. */
function judgeEvidence(
  { roots, policy, now }: Pick<Context, 'roots' | 'policy' | 'now'>,
  evidence: Evidence,
  collateral: Collateral | null,
): Promise<Verdict> {
  return verifyUnderRoots(evidence, collateral, { now: Math.floor(now() / 1000), roots, policy, cache })
}

/** How long a chip's certificates and revocation list serve before they are due again; AMD's list names no such time. */
const snpLifetimeSeconds = 7 * 86_400

const doesNotVerify = (detail: string) =>
  new CollateralUnavailableError(`The collateral service sent what does not verify: ${detail}`)

/** Checks collateral before it is kept. Gives when it was issued and runs out; throws CollateralUnavailableError where it does not verify. */
async function checkBeforeKeeping(context: Context, evidence: Evidence, collateral: Collateral) {
  const now = Math.floor(context.now() / 1000)
  if (collateral.format !== 'tdx') {
    const { refusals } = await judgeEvidence(context, evidence, collateral)
    // What is wrong with the machine itself is said when it is judged; what is wrong with its certificates is not kept.
    const bad = refusals.find(({ reason }) => /^(certificate|crl|untrusted|platform_mismatch)/.test(reason))
    if (bad) throw doesNotVerify(bad.detail)
    return { issuedAt: now, expiresAt: now + snpLifetimeSeconds }
  }
  // A foreign chain shows first in whichever of its parts is read first, so every set of roots is asked.
  let refusal = 'no roots are configured'
  for (const roots of context.roots) {
    const checked = await checkCollateral(collateral, { now, roots, policy: context.policy, cache })
    if (checked.ok) return checked
    refusal = checked.refusal.detail
  }
  throw doesNotVerify(refusal)
}

/** Gives the collateral of a machine's platform: kept for hours, fetched again after, and verified before it is kept. An older answer that still verifies never replaces a newer one. Throws CollateralUnavailableError, EncodingError or UnsupportedQuoteError. */
export async function collateralFor(context: Context, evidence: Evidence): Promise<KeptCollateral> {
  const { database, settings, now, log } = context
  const platform = platformOf(evidence)
  if (platform === null) return { platform: '', digest: '', collateral: null }
  const [kept] = await query(() => database.select().from(collaterals).where(eq(collaterals.platform, platform)))
  const fetchedAt = Math.floor(now() / 1000)
  const use = (row: NonNullable<typeof kept>): KeptCollateral => ({
    platform,
    digest: row.digest,
    collateral: collateralFromJson(row.content),
  })
  const stands = kept !== undefined && kept.expiresAt > fetchedAt
  if (stands && fetchedAt - kept.fetchedAt < refreshSeconds) return use(kept)
  try {
    const source = { fetch: context.fetch, intelUrl: settings.COLLATERAL_URL, amdUrl: settings.AMD_COLLATERAL_URL }
    const collateral = (await fetchCollateral(evidence, source))!
    const { issuedAt, expiresAt } = await checkBeforeKeeping(context, evidence, collateral)
    const older = stands && issuedAt < kept.issuedAt
    if (older) log('collateral_rolled_back', { platform })
    const row = older
      ? { ...kept, fetchedAt }
      : {
          platform,
          digest: digestOf(collateral),
          content: collateralToJson(collateral),
          issuedAt,
          expiresAt,
          fetchedAt,
        }
    await query(() =>
      database.insert(collaterals).values(row).onConflictDoUpdate({ target: collaterals.platform, set: row }),
    )
    return use(row)
  } catch (error) {
    if (!(error instanceof CollateralUnavailableError) || !stands) throw error
    log('collateral_not_refreshed', { platform, detail: error.message })
    return use(kept)
  }
}

/** Says what became of a registration when its platform's collateral changed. */
export type Reevaluation = { signer: Hex; verdict: Verdict }

async function reevaluatePlatform(context: Context, kept: KeptCollateral, pageSize: number): Promise<Reevaluation[]> {
  const { database, now } = context
  const changed: Reevaluation[] = []
  for (;;) {
    const seconds = Math.floor(now() / 1000)
    const rows = await query(() =>
      database
        .select({
          signer: runners.signer,
          evidence: runners.evidence,
          gpus: runners.gpus,
          statement: runners.statement,
        })
        .from(runners)
        .where(
          and(
            eq(runners.platform, kept.platform),
            gt(runners.validUntil, seconds),
            ne(runners.collateralDigest, kept.digest),
          ),
        )
        .orderBy(asc(runners.signer))
        .limit(pageSize),
    )
    for (const { signer, evidence, gpus, statement: bytes } of rows) {
      const statement = decodeStatement(fromHex(bytes as Hex))
      const verdict = await judgeEvidence(context, evidenceFromJson(evidence), kept.collateral)
      const judged = await judgeGpus(context, { statement, signer: signer as Hex, gpus })
      if (judged.ok) verdict.claims.push(...judged.claims)
      else Object.assign(verdict, { verdict: 'refuted', validUntil: 0, refusals: [judged.refusal] })
      const validUntil =
        verdict.verdict === 'verified' ? Math.min(verdict.validUntil, Number(statement.notAfter)) : seconds
      await query(() =>
        database
          .update(runners)
          .set({
            verdict,
            validUntil,
            collateral: collateralToJson(kept.collateral!),
            collateralDigest: kept.digest,
            verifiedAt: seconds,
          })
          .where(eq(runners.signer, signer)),
      )
      changed.push({ signer: signer as Hex, verdict })
    }
    if (rows.length < pageSize) return changed
  }
}

/** Refreshes the collateral of every platform with a live registration and judges those registrations again where it changed. A runner that falls loses its place at once; `tell` lets its mailbox say why. Runs on a schedule. */
export async function reevaluateRunners(
  context: Context,
  tell: (fallen: Reevaluation) => Promise<void>,
  pageSize = 200,
): Promise<Reevaluation[]> {
  const { database, now, log } = context
  const seconds = Math.floor(now() / 1000)
  const platforms = await query(() =>
    database
      .selectDistinctOn([runners.platform], { platform: runners.platform, evidence: runners.evidence })
      .from(runners)
      .where(and(gt(runners.validUntil, seconds), ne(runners.platform, '')))
      .orderBy(asc(runners.platform)),
  )
  const all: Reevaluation[] = []
  for (const { platform, evidence } of platforms) {
    try {
      const kept = await collateralFor(context, evidenceFromJson(evidence))
      const changed = await reevaluatePlatform(context, kept, pageSize)
      all.push(...changed)
      for (const each of changed.filter(({ verdict }) => verdict.verdict !== 'verified')) {
        log('runner_fell', { signer: each.signer, reason: each.verdict.refusals[0]?.reason ?? 'unknown' })
        await tell(each)
      }
    } catch (error) {
      if (!(error instanceof CollateralUnavailableError)) throw error
      // One platform's silent vendor must not keep the others from being judged.
      log('collateral_unavailable', { platform, detail: error.message })
    }
  }
  return all
}
