import { type SQL, sql } from 'drizzle-orm'
import { type Database, query } from './database.ts'
import { stakes } from './schema.ts'

/** Adds up the stakes of runners out of the indexed events; all of them, or those named. A slash leaves nothing; an exit, a slash or another request ends the one before. */
const addUpStakes = (which: SQL) => sql`
  INSERT INTO stakes (runner, amount, exiting, withdrawable_at, slashed)
  SELECT runner,
    CASE WHEN bool_or(name = 'Slashed') THEN 0 ELSE
      coalesce(sum(amount) FILTER (WHERE name = 'Staked'), 0) - coalesce(sum(amount) FILTER (WHERE name = 'Exited'), 0) END,
    CASE WHEN last_word = 'ExitRequested' THEN last_amount ELSE 0 END,
    CASE WHEN last_word = 'ExitRequested' THEN last_date ELSE 0 END,
    bool_or(name = 'Slashed')
  FROM (
    SELECT args->>'runner' AS runner, name, (args->>'amount')::numeric AS amount,
      first_value(name) OVER newest AS last_word,
      first_value((args->>'amount')::numeric) OVER newest AS last_amount,
      first_value((args->>'withdrawableAt')::bigint) OVER newest AS last_date
    FROM chain_events WHERE contract = 'stake' AND name IN ('Staked', 'ExitRequested', 'Exited', 'Slashed') AND ${which}
    WINDOW newest AS (PARTITION BY args->>'runner' ORDER BY name = 'Staked', block DESC, log_index DESC)
  ) events
  GROUP BY runner, last_word, last_amount, last_date
  ON CONFLICT (runner) DO UPDATE SET amount = excluded.amount, exiting = excluded.exiting,
    withdrawable_at = excluded.withdrawable_at, slashed = excluded.slashed`

/** Writes the stakes of some runners anew, as part of the batch that added their events. */
export const renewStakes = (database: Database, runners: readonly string[]) =>
  database.execute(
    addUpStakes(sql`args->>'runner' IN (SELECT jsonb_array_elements_text(${JSON.stringify(runners)}::jsonb))`),
  )

/** Writes every stake anew, as part of a batch that took events away. */
export const renewAllStakes = (database: Database) =>
  [database.delete(stakes), database.execute(addUpStakes(sql`true`))] as const

/** Reads every stake as the events add up. */
export const readStakes = (database: Database) => query(() => database.select().from(stakes))
