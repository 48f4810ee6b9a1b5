import { asc, eq, gt } from 'drizzle-orm'
import { EncodingError, fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { canonicalJson } from '../../protocol/canonicalJson.ts'
import { CollateralUnavailableError } from '../../protocol/evidence/collateral.ts'
import { collateralToJson, type Evidence, evidenceFromJson, evidenceToJson } from '../../protocol/evidence/index.ts'
import { UnsupportedQuoteError } from '../../protocol/evidence/quote.ts'
import { checkStatement } from '../../protocol/evidence/statement.ts'
import { sha256 } from '../../protocol/hash.ts'
import { registrationDigest } from '../../protocol/registration.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import type { Context } from '../context.ts'
import { AssayError, UnavailableError } from '../errors.ts'
import { query } from '../store/database.ts'
import { runners } from '../store/schema.ts'
import { collateralFor, judgeEvidence, type KeptCollateral } from './collateral.ts'
import { judgeGpus } from './gpus.ts'

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
  const { database, domain, settings, now, registry } = context
  let evidence: Evidence
  let kept: KeptCollateral
  try {
    evidence = evidenceFromJson(body.evidence)
    kept = await collateralFor(context, evidence)
  } catch (error) {
    if (error instanceof CollateralUnavailableError) throw new UnavailableError('collateral service', error)
    if (error instanceof EncodingError || error instanceof UnsupportedQuoteError) {
      throw new AssayError('evidence_refuted', error.message, {
        extra: { refusals: [{ reason: 'malformed_quote', detail: error.message }] },
      })
    }
    throw error
  }
  const verdict = await judgeEvidence(context, evidence, kept.collateral)
  const refuted = (detail: string, refusals: unknown) =>
    new AssayError('evidence_refuted', detail, {
      hint: 'See refusals for the check that failed.',
      extra: { verdict: verdict.verdict, refusals },
    })
  if (verdict.verdict !== 'verified')
    throw refuted(verdict.refusals[0]?.detail ?? 'The evidence does not verify.', verdict.refusals)

  const statement = fromHex(body.statement)
  const checked = checkStatement(statement, {
    reportData: fromHex(verdict.reportData!),
    workload: verdict.measurement!.workload,
    root: verdict.root,
    chainId: settings.CHAIN_ID,
    registry: settings.REGISTRY,
    now: Math.floor(now() / 1000),
  })
  if (!checked.ok) throw refuted(checked.refusal.detail, [checked.refusal])
  const { signer } = checked
  const gpus = body.gpus ?? []
  const judged = await judgeGpus(context, { statement: checked.statement, signer, gpus })
  if (!judged.ok) throw refuted(judged.refusal.detail, [judged.refusal])
  verdict.claims.push(...judged.claims)
  const provider = body.registration.provider.toLowerCase() as Hex
  const digest = registrationDigest(domain, { runner: signer, provider, statement: toHex(sha256(statement)) })
  if (recoverAddress(digest, fromHex(body.registration.signature)) !== signer) {
    throw new AssayError('unauthorized', 'The registration is not signed by the key the quote vouches for.')
  }
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

  const validUntil = Math.min(verdict.validUntil, Number(checked.statement.notAfter))
  const evidenceJson = evidenceToJson(evidence)
  const row = {
    provider,
    hpkeKey: toHex(checked.statement.hpkeKey),
    statement: body.statement.toLowerCase(),
    evidence: evidenceJson,
    gpus: [...gpus],
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
  return { signer, verdict, validUntil: new Date(validUntil * 1000).toISOString() }
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
}
const shown = <T extends { validUntil: number }>(row: T) => ({
  ...row,
  validUntil: new Date(row.validUntil * 1000).toISOString(),
})

/** Lists runners by key. */
export async function listRunners({ database }: Context, { cursor, limit }: { cursor?: string; limit: number }) {
  const rows = await query(() =>
    database
      .select(summary)
      .from(runners)
      .where(cursor ? gt(runners.signer, cursor) : undefined)
      .orderBy(asc(runners.signer))
      .limit(limit + 1),
  )
  const page = rows.slice(0, limit)
  return { runners: page.map(shown), nextCursor: rows.length > limit ? page.at(-1)!.signer : null }
}

/** Gives one runner. */
export async function getRunner({ database }: Context, signer: string) {
  const [row] = await query(() => database.select(summary).from(runners).where(eq(runners.signer, signer)))
  if (!row) throw new AssayError('not_found', `No runner has key ${signer}.`)
  return shown(row)
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
