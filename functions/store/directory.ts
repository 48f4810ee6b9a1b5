import { and, count, eq, gt, lt, type SQL, sql } from 'drizzle-orm'
import type { Claim, Verdict } from '../../protocol/evidence/index.ts'
import type { DirectoryReader } from '../match/directory.ts'
import type { Candidate } from '../match/requirements.ts'
import type { ListingJson } from '../services/models.ts'
import { type Database, query } from './database.ts'
import { models, runners, stakes } from './schema.ts'

/** Most runners of one model an isolate holds: about 5 MB, and more choice than two draws can use. */
const maxRunners = 10_000

const verdictMember = (member: string) => sql<string | null>`${runners.verdict}->>${sql.raw(`'${member}'`)}`
const columns = {
  signer: runners.signer,
  provider: runners.provider,
  hpkeKey: runners.hpkeKey,
  evidenceDigest: runners.evidenceDigest,
  validUntil: runners.validUntil,
  verifiedAt: runners.verifiedAt,
  capacity: runners.capacity,
  region: runners.region,
  tee: verdictMember('tee'),
  tcbStatus: verdictMember('tcbStatus'),
  measurement: sql<string | null>`${runners.verdict}->'measurement'->>'workload'`,
  staked: stakes.amount,
  exiting: stakes.exiting,
  withdrawableAt: stakes.withdrawableAt,
  slashed: stakes.slashed,
  claims: sql<Claim[] | null>`${runners.verdict}->'claims'`,
}

/** Tells whether a verdict's claims say that the machine's GPUs were attested. */
const gpuAttested = (claims: readonly Claim[] | null) =>
  claims?.some(({ claim, status }) => claim === 'gpu_attested' && status === 'asserted') ?? false

/** Reads the directory from the database; `now` in milliseconds, `random` in [0, 1). */
export function databaseDirectory(database: Database, now: () => number, random: () => number): DirectoryReader {
  const available = (...more: SQL[]) =>
    and(eq(runners.online, true), gt(runners.validUntil, Math.floor(now() / 1000)), ...more)
  return {
    async runnersOf(model) {
      const serves = sql`${runners.models} @> ${JSON.stringify([model])}::jsonb`
      const warm = sql<boolean>`${runners.warm} @> ${JSON.stringify([model])}::jsonb`
      // Keys are hashes: reading on from a random one gives each isolate a sample of its own where there are too many.
      const from = `0x${Math.floor(random() * 2 ** 32)
        .toString(16)
        .padStart(8, '0')}`
      const read = (where: SQL, limit: number) =>
        query(() =>
          database
            .select({ ...columns, warm })
            .from(runners)
            .leftJoin(stakes, eq(stakes.runner, runners.signer))
            .where(available(serves, where))
            .orderBy(runners.signer)
            .limit(limit),
        )
      const rows = await read(sql`${runners.signer} >= ${from}`, maxRunners + 1)
      if (rows.length <= maxRunners) rows.push(...(await read(lt(runners.signer, from), maxRunners + 1 - rows.length)))
      const candidates = rows.slice(0, maxRunners).map(
        ({ claims, staked, exiting, withdrawableAt, slashed, ...row }): Candidate => ({
          ...row,
          stake: {
            amount: BigInt(staked ?? 0),
            exiting: BigInt(exiting ?? 0),
            withdrawableAt: BigInt(withdrawableAt ?? 0),
          },
          slashed: slashed ?? false,
          tcbStatus: row.tcbStatus as Verdict['tcbStatus'],
          gpuAttested: gpuAttested(claims),
        }),
      )
      return { candidates, sampled: rows.length > maxRunners }
    },
    async listingOf(model) {
      const [row] = await query(() =>
        database.select({ listing: models.listing }).from(models).where(eq(models.digest, model)),
      )
      return row ? (row.listing as unknown as ListingJson) : null
    },
    async countOnline() {
      const [row] = await query(() => database.select({ online: count() }).from(runners).where(available()))
      return row?.online ?? 0
    },
  }
}
