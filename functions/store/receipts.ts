import { sql } from 'drizzle-orm'
import type { Database } from './database.ts'
import type { receipts } from './schema.ts'

/** One receipt as the database keeps it. */
export type ReceiptRow = typeof receipts.$inferInsert

/** Writes receipts; those already there stay as they are. All rows travel in one parameter, which costs a tenth of one parameter a column. */
export async function insertReceipts(database: Database, rows: readonly ReceiptRow[]): Promise<void> {
  await database.execute(sql`
    INSERT INTO receipts (channel, job, runner, receipt, detail, proof, signature)
    SELECT channel, job, runner, receipt, detail, proof, signature
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
      AS row(channel text, job text, runner text, receipt jsonb, detail jsonb, proof jsonb, signature text)
    ON CONFLICT DO NOTHING`)
}
