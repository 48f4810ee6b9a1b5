import { and, desc, eq, lt } from 'drizzle-orm'
import type { Context } from '../context.ts'
import { query } from '../store/database.ts'
import { receipts } from '../store/schema.ts'

/** Lists the receipts relayed for a channel, newest first. */
export async function listReceipts(
  { database }: Context,
  channel: string,
  { cursor, limit }: { cursor?: number; limit: number },
) {
  const where = and(eq(receipts.channel, channel), cursor === undefined ? undefined : lt(receipts.position, cursor))
  const rows = await query(() =>
    database
      .select()
      .from(receipts)
      .where(where)
      .orderBy(desc(receipts.position))
      .limit(limit + 1),
  )
  const page = rows.slice(0, limit)
  return {
    receipts: page.map(({ position: _, ...row }) => row),
    nextCursor: rows.length > limit ? String(page.at(-1)!.position) : null,
  }
}
