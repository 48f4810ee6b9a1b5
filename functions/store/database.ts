import { neon, neonConfig } from '@neondatabase/serverless'
import { drizzle, type NeonHttpDatabase } from 'drizzle-orm/neon-http'
import { AssayError, UnavailableError } from '../errors.ts'
import * as schema from './schema.ts'

/** Holds a connection-less Neon database. */
export type Database = NeonHttpDatabase<typeof schema>

/** Opens the database over HTTP; `endpoint` replaces Neon's own for a local one. */
export function openDatabase(url: string, endpoint?: string): Database {
  if (endpoint) neonConfig.fetchEndpoint = endpoint
  return drizzle({ client: neon(url), schema })
}

/** Runs a query. Throws UnavailableError when the database does not answer; its own refusals pass through. */
export async function query<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    if (error instanceof AssayError) throw error
    // A refusal by Postgres carries an SQLSTATE; its absence, or class 08 or 57, means that nobody answered.
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
      const { code } = cause as { code?: string }
      if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !/^(08|57)/.test(code)) throw error
    }
    throw new UnavailableError('database', error)
  }
}

/** Tells whether an error is Postgres refusing a row over a named unique constraint (SQLSTATE 23505). */
export function violates(error: unknown, constraint: string): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { code, constraint: named } = cause as { code?: string; constraint?: string }
    if (code === '23505' && named === constraint) return true
  }
  return false
}
