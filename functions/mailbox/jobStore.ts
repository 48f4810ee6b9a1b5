import type { SqlStorage } from '../platform.ts'

/** Lists what becomes of a job nobody waits on the line for. */
export const jobStates = ['queued', 'running', 'done', 'refused', 'expired', 'cancelled'] as const

/** Names what has become of a job. */
export type JobState = (typeof jobStates)[number]

/** Tells whether nothing more will happen to a job. */
export const isFinal = (state: JobState) => state !== 'queued' && state !== 'running'

/** One job as the object's disk holds it. Times in unix milliseconds. */
export type JobRow = {
  id: string
  key: string
  state: JobState
  createdAt: number
  deadline: number
  finishedAt: number | null
  /** When it is next handed to the runner. */
  nextTry: number | null
  /** Why it was refused, as JSON. */
  problem: string | null
  webhookUrl: string | null
  webhookSecret: string | null
  webhookState: 'none' | 'pending' | 'delivered' | 'failed'
  webhookTries: number
  webhookNext: number | null
  webhookStatus: number | null
}

/** A row or value on the object's disk has at most 2 MB. */
const partBytes = 1024 * 1024

const columns = `id, key, state, created_at AS createdAt, deadline, finished_at AS finishedAt, next_try AS nextTry, problem,
  webhook_url AS webhookUrl, webhook_secret AS webhookSecret, webhook_state AS webhookState, webhook_tries AS webhookTries,
  webhook_next AS webhookNext, webhook_status AS webhookStatus`

/** Keeps jobs and their frames on the object's disk. */
export class JobStore {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  /** Makes the tables it needs. */
  prepare(): void {
    this.#sql.exec(`CREATE TABLE IF NOT EXISTS jobs (
      id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, state TEXT NOT NULL, created_at INTEGER NOT NULL, deadline INTEGER NOT NULL,
      finished_at INTEGER, next_try INTEGER, problem TEXT, webhook_url TEXT, webhook_secret TEXT, webhook_state TEXT NOT NULL,
      webhook_tries INTEGER NOT NULL DEFAULT 0, webhook_next INTEGER, webhook_status INTEGER);
      CREATE TABLE IF NOT EXISTS frames (
      id TEXT NOT NULL, kind TEXT NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (id, kind, part))`)
  }

  #rows(where: string, ...values: (string | number)[]): JobRow[] {
    return this.#sql.exec<JobRow>(`SELECT ${columns} FROM jobs WHERE ${where}`, ...values).toArray()
  }

  /** Finds a job by its id. */
  find(id: string): JobRow | null {
    return this.#rows('id = ?', id)[0] ?? null
  }

  /** Finds a job by its channel and number. */
  findByKey(key: string): JobRow | null {
    return this.#rows('key = ?', key)[0] ?? null
  }

  /** Keeps a new job. */
  add(row: Pick<JobRow, 'id' | 'key' | 'createdAt' | 'deadline' | 'webhookUrl' | 'webhookSecret'>): void {
    this.#sql.exec(
      `INSERT INTO jobs (id, key, state, created_at, deadline, next_try, webhook_url, webhook_secret, webhook_state)
       VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?)`,
      row.id,
      row.key,
      row.createdAt,
      row.deadline,
      row.createdAt,
      row.webhookUrl,
      row.webhookSecret,
      row.webhookUrl ? 'pending' : 'none',
    )
  }

  /** Moves a job that has not ended yet to another state. */
  move(id: string, state: JobState, nextTry: number | null): void {
    this.#sql.exec(
      `UPDATE jobs SET state = ?, next_try = ? WHERE id = ? AND state IN ('queued', 'running')`,
      state,
      nextTry,
      id,
    )
  }

  /** Ends a job once; its webhook is due at once. Tells whether it had not ended before. */
  finish(id: string, state: JobState, problem: string | null, now: number): boolean {
    const { rowsWritten } = this.#sql.exec(
      `UPDATE jobs SET state = ?, problem = ?, finished_at = ?, next_try = NULL,
       webhook_next = CASE WHEN webhook_url IS NULL THEN NULL ELSE ? END WHERE id = ? AND state IN ('queued', 'running')`,
      state,
      problem,
      now,
      now,
      id,
    )
    return rowsWritten > 0
  }

  /** Notes how a webhook attempt went, and when the next one is due. */
  noteWebhook(
    id: string,
    state: JobRow['webhookState'],
    tries: number,
    next: number | null,
    status: number | null,
  ): void {
    this.#sql.exec(
      'UPDATE jobs SET webhook_state = ?, webhook_tries = ?, webhook_next = ?, webhook_status = ? WHERE id = ?',
      state,
      tries,
      next,
      status,
      id,
    )
  }

  /** Lists jobs to hand to the runner by now. */
  dueJobs(now: number): JobRow[] {
    return this.#rows(`state IN ('queued', 'running') AND next_try <= ? ORDER BY created_at LIMIT 500`, now)
  }

  /** Lists jobs whose time is over. */
  overdue(now: number): JobRow[] {
    return this.#rows(`state IN ('queued', 'running') AND deadline <= ? LIMIT 500`, now)
  }

  /** Lists webhooks to send by now. */
  dueWebhooks(now: number): JobRow[] {
    return this.#rows('webhook_next <= ? ORDER BY webhook_next LIMIT 50', now)
  }

  /** Forgets a job. */
  remove(id: string): void {
    this.#sql.exec('DELETE FROM frames WHERE id = ?', id)
    this.#sql.exec('DELETE FROM jobs WHERE id = ?', id)
  }

  /** Forgets jobs that ended before a time and whose webhook is done. */
  prune(finishedBefore: number): void {
    const old = `finished_at <= ${Math.floor(finishedBefore)} AND webhook_next IS NULL`
    this.#sql.exec(`DELETE FROM frames WHERE id IN (SELECT id FROM jobs WHERE ${old}); DELETE FROM jobs WHERE ${old}`)
  }

  /** Gives when something is due next, or null. */
  nextDue(retentionMs: number): number | null {
    const { at } = this.#sql
      .exec<{ at: number | null }>(
        `SELECT min(at) AS at FROM (
         SELECT min(next_try) AS at FROM jobs WHERE state IN ('queued', 'running')
         UNION ALL SELECT min(deadline) FROM jobs WHERE state IN ('queued', 'running')
         UNION ALL SELECT min(webhook_next) FROM jobs
         UNION ALL SELECT min(finished_at) + ? FROM jobs WHERE webhook_next IS NULL)`,
        retentionMs,
      )
      .one()
    return at
  }

  /** Counts open jobs, and the bytes of all frames kept. */
  usage(): { open: number; bytes: number } {
    return this.#sql
      .exec<{ open: number; bytes: number }>(
        `SELECT (SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')) AS open,
         (SELECT coalesce(sum(length(bytes)), 0) FROM frames) AS bytes`,
      )
      .one()
  }

  /** Keeps a frame of a job. */
  putFrame(id: string, kind: 'request' | 'answer', frame: Uint8Array): void {
    for (let part = 0; part * partBytes < frame.length; part++) {
      const bytes = frame.slice(part * partBytes, (part + 1) * partBytes).buffer
      this.#sql.exec('INSERT OR REPLACE INTO frames (id, kind, part, bytes) VALUES (?, ?, ?, ?)', id, kind, part, bytes)
    }
  }

  /** Gives a frame of a job, or null. */
  frame(id: string, kind: 'request' | 'answer'): Uint8Array<ArrayBuffer> | null {
    const parts = this.#sql
      .exec<{ bytes: ArrayBuffer }>('SELECT bytes FROM frames WHERE id = ? AND kind = ? ORDER BY part', id, kind)
      .toArray()
    if (parts.length === 0) return null
    const frame = new Uint8Array(parts.reduce((sum, { bytes }) => sum + bytes.byteLength, 0))
    let offset = 0
    for (const { bytes } of parts) {
      frame.set(new Uint8Array(bytes), offset)
      offset += bytes.byteLength
    }
    return frame
  }

  /** Drops a job's request, which nobody needs once it has ended. */
  dropRequest(id: string): void {
    this.#sql.exec(`DELETE FROM frames WHERE id = ? AND kind = 'request'`, id)
  }
}
