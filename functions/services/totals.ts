import { eq, sql } from 'drizzle-orm'
import { fromHex, type Hex } from '../../protocol/bytes.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import { type ChannelTotal, totalsDigest } from '../../protocol/totals.ts'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { query } from '../store/database.ts'
import { runners } from '../store/schema.ts'

/** How far the time of a runner's totals may be from the edge's, in seconds. */
const maxSkewSeconds = 300

/** Keeps what a runner's journal adds up to, for the comparison of the books; older totals never replace newer ones. Throws `unauthorized` unless the runner's own key signed them just now. */
export async function postTotals(
  { database, domain, now }: Context,
  runner: Hex,
  { at, totals, signature }: { at: bigint; totals: ChannelTotal[]; signature: Hex },
): Promise<{ channels: number }> {
  const skew = Math.abs(Number(at) - now() / 1000)
  if (skew > maxSkewSeconds)
    throw new AssayError('unauthorized', `The totals are ${Math.round(skew)} s away from now.`, {
      hint: 'Set the clock of the runner.',
    })
  if (recoverAddress(totalsDigest(domain, { runner, at, totals }), fromHex(signature)) !== runner)
    throw new AssayError('unauthorized', 'The totals are not signed by the key of this runner.')
  const known = await query(() =>
    database.select({ signer: runners.signer }).from(runners).where(eq(runners.signer, runner)),
  )
  if (known.length === 0) throw new AssayError('unauthorized', 'The runner is not registered.')
  const rows = totals.map(({ channel, cumulative, vouched }) => ({
    channel,
    cumulative: String(cumulative),
    vouched: String(vouched),
  }))
  await query(() =>
    database.execute(sql`
      INSERT INTO journal_totals (runner, channel, cumulative, vouched, at)
      SELECT ${runner}, channel, cumulative, vouched, ${Number(at)}
      FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS row(channel text, cumulative numeric, vouched numeric)
      ON CONFLICT (runner, channel) DO UPDATE SET cumulative = excluded.cumulative, vouched = excluded.vouched, at = excluded.at
      WHERE journal_totals.at < excluded.at`),
  )
  return { channels: totals.length }
}
