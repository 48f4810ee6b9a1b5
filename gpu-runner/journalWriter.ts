import { DatabaseSync } from 'node:sqlite'
import { parentPort, workerData } from 'node:worker_threads'

/** The thread that writes the journal: it alone waits for the disk. */

/** Holds a channel as a batch leaves it. */
export type WrittenChannel = {
  channel: Uint8Array
  runner: Uint8Array
  terms: Uint8Array
  expiresAt: number
  voucher: Uint8Array | null
  signature: Uint8Array | null
  cumulative: Uint8Array
  latest: Uint8Array
  receipts: number
  places: { first: Uint8Array; last: Uint8Array }[]
}

/** Asks for one transaction; times in unix seconds. */
export type JournalWrite =
  | { id: number; op: 'commit'; finishedAt: number; entries: Uint8Array; channels: WrittenChannel[] }
  | { id: number; op: 'prune'; answersBefore: number; termsBefore: number }

/** Says that a transaction is on disk, or why it is not. */
export type JournalReply = { id: number; error?: string }

const { path, maxBytes } = workerData as { path: string; maxBytes?: number }
const database = new DatabaseSync(path)
// FULL: a commit returns once the write-ahead log is on the disk.
// How long to wait comes first: a predecessor that is just ending holds the file for a moment.
database.exec('PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
// The log goes back into the file every 64 MiB of 4 KiB pages and not every 4: the batch it happens to waits for it.
database.exec('PRAGMA wal_autocheckpoint = 16384')
if (maxBytes !== undefined) {
  const { page_size: pageSize } = database.prepare('PRAGMA page_size').get() as { page_size: number }
  database.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(maxBytes / pageSize))}`)
}

const insertBatch = database.prepare('INSERT INTO batches (finished_at, entries) VALUES (?, ?)')
const insertPlace = database.prepare('INSERT INTO places (channel, first_job, batch, last_job) VALUES (?, ?, ?, ?)')
// A receipt or voucher that covers less never replaces one that covers more, whatever the order they come in.
const upsertChannel = database.prepare(`
  INSERT INTO channels (channel, runner, terms, expires_at, voucher, signature, cumulative, latest, receipts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT (channel) DO UPDATE SET
    voucher = CASE WHEN excluded.voucher > coalesce(voucher, x'') THEN excluded.voucher ELSE voucher END,
    signature = CASE WHEN excluded.voucher > coalesce(voucher, x'') THEN excluded.signature ELSE signature END,
    cumulative = max(cumulative, excluded.cumulative),
    latest = CASE WHEN excluded.cumulative >= cumulative THEN excluded.latest ELSE latest END,
    receipts = receipts + excluded.receipts`)
const deletePlaces = database.prepare(
  'DELETE FROM places WHERE batch IN (SELECT id FROM batches WHERE finished_at < ?)',
)
const deleteBatches = database.prepare('DELETE FROM batches WHERE finished_at < ?')
const deleteChannels = database.prepare('DELETE FROM channels WHERE expires_at < ?')

function commit({ finishedAt, entries, channels }: JournalWrite & { op: 'commit' }): void {
  const { lastInsertRowid: batch } = insertBatch.run(finishedAt, entries)
  for (const each of channels) {
    const { channel, runner, terms, expiresAt, voucher, signature, cumulative, latest, receipts, places } = each
    upsertChannel.run(channel, runner, terms, expiresAt, voucher, signature, cumulative, latest, receipts)
    for (const { first, last } of places) insertPlace.run(channel, first, batch, last)
  }
}

function prune({ answersBefore, termsBefore }: JournalWrite & { op: 'prune' }): void {
  deletePlaces.run(answersBefore)
  deleteBatches.run(answersBefore)
  deleteChannels.run(termsBefore)
}

parentPort!.on('message', (write: JournalWrite) => {
  const reply: JournalReply = { id: write.id }
  try {
    database.exec('BEGIN IMMEDIATE')
    try {
      if (write.op === 'commit') commit(write)
      else prune(write)
      database.exec('COMMIT')
    } catch (error) {
      if (database.isTransaction) database.exec('ROLLBACK')
      throw error
    }
  } catch (error) {
    reply.error = error instanceof Error ? error.message : 'unknown'
  }
  parentPort!.postMessage(reply)
})
