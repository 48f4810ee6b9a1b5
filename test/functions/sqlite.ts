import { DatabaseSync } from 'node:sqlite'
import type { SqlStorage } from '../../functions/platform.ts'

/** Gives an object's disk in memory, over the SQLite that Node has. */
export function openSql(): SqlStorage {
  const database = new DatabaseSync(':memory:')
  return {
    exec(query: string, ...values: (string | number | null)[]) {
      if (values.length === 0 && query.includes(';')) {
        database.exec(query)
        return { toArray: () => [] }
      }
      const statement = database.prepare(query)
      const rows = statement.all(...values).map((row) => ({ ...row }))
      return { toArray: () => rows, one: () => rows[0] }
    },
  } as unknown as SqlStorage
}
