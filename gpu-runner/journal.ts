import { DatabaseSync } from 'node:sqlite'
import { Worker } from 'node:worker_threads'
import { concat, equalBytes, type Hex, readUint, toHex, uint } from '../protocol/bytes.ts'
import { decodeFrame } from '../protocol/frames.ts'
import type { MerkleProof } from '../protocol/merkle.ts'
import type { Detail, Receipt } from '../protocol/receipt.ts'
import { RenewedMap } from '../protocol/renewedMap.ts'
import { decodeTerms, encodeTerms, type Terms } from '../protocol/terms.ts'
import { byteText } from './digestText.ts'
import type { JournalReply, JournalWrite, WrittenChannel } from './journalWriter.ts'

/** Holds everything a finished job leaves behind: its receipt and proof, the digest of the sealed request, and the sealed answer for a retry. */
export type JournalEntry = {
  channel: Uint8Array
  job: bigint
  bodyHash: Uint8Array
  receipt: Receipt
  detail: Detail
  signature: Uint8Array
  proof: MerkleProof
  answer: Uint8Array
  /** All of it but the digest, as the frame that answers, with ticket 0. */
  frame: Uint8Array
}

/** Holds a channel as last written. */
export type JournalChannel = { terms: Terms; voucher: { cumulative: bigint; signature: Uint8Array } | null }

/** Holds what a channel's journalled receipts and voucher add up to. */
export type JournalTotal = { channel: Uint8Array; terms: Terms; vouched: bigint; cumulative: bigint }

/** Reports that a batch could not be written down: the disk is full, or refuses. */
export class JournalError extends Error {
  override name = 'JournalError'
}

/** Keeps receipts and vouchers on disk before an answer leaves, so that a killed runner has lost nothing it promised. */
export type Journal = {
  /** Writes a batch of finished jobs and the channels they are of in one transaction: one fsync however many jobs. Rejects with JournalError when the disk refuses; nothing is written then. */
  commit(
    entries: readonly JournalEntry[],
    channels: readonly ({ channel: Uint8Array } & JournalChannel)[],
  ): Promise<void>
  /** Finds a finished job while its answer is kept. */
  find(channel: Uint8Array, job: bigint): JournalEntry | null
  channel(channel: Uint8Array): JournalChannel | null
  channelsOf(runner: Hex): Uint8Array[]
  /** Gives the entry with the highest running total of a channel, without its answer. */
  latest(channel: Uint8Array): JournalEntry | null
  /** Counts the receipts ever written for a channel. */
  count(channel: Uint8Array): number
  /** Lists the channels that have receipts, with their terms, what the voucher covers and the highest running total; amounts in the token's smallest unit. */
  totals(): JournalTotal[]
  /** Lists the runner keys that have channels here. */
  runners(): Hex[]
  /** Lets go of answers of jobs finished before `answersBefore` and of channels whose terms ended before `termsBefore`, in unix seconds. */
  prune(before: { answersBefore: number; termsBefore: number }): Promise<void>
  close(): void
}

// Counted up when the tables change: what an unknown version holds is money, so it is neither read wrongly nor thrown away.
const version = 2

const schema = `
  CREATE TABLE IF NOT EXISTS channels (
    channel BLOB PRIMARY KEY, runner BLOB NOT NULL, terms BLOB NOT NULL, expires_at INTEGER NOT NULL, voucher BLOB, signature BLOB,
    cumulative BLOB NOT NULL, latest BLOB NOT NULL, receipts INTEGER NOT NULL
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS channels_by_runner ON channels (runner);
  CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, finished_at INTEGER NOT NULL, entries BLOB NOT NULL);
  CREATE INDEX IF NOT EXISTS batches_by_age ON batches (finished_at);
  CREATE TABLE IF NOT EXISTS places (
    channel BLOB NOT NULL, first_job BLOB NOT NULL, batch INTEGER NOT NULL, last_job BLOB NOT NULL, PRIMARY KEY (channel, first_job, batch)
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS places_by_batch ON places (batch);
`

/** Most job numbers one place spans, so that a look-up has few places to pass over. */
const placeSpan = 1_024n

function openDatabase(path: string): DatabaseSync {
  const database = new DatabaseSync(path)
  database.exec('PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL')
  const found = (database.prepare('PRAGMA user_version').get() as { user_version: number }).user_version
  const used = (database.prepare('SELECT count(*) AS n FROM sqlite_schema').get() as { n: number }).n > 0
  if (used && found !== version) {
    database.close()
    throw new JournalError(
      `The journal in the runner's state folder has version ${found}; this program reads version ${version}. Settle it with the program that wrote it, then start with an empty folder.`,
    )
  }
  database.exec(`PRAGMA user_version = ${version}; ${schema}`)
  return database
}

function decodeEntry(bytes: Uint8Array): JournalEntry {
  const frame = bytes.subarray(32)
  const answer = decodeFrame(frame)
  if (answer.type !== 'jobAnswer') throw new JournalError('The journal holds an entry that is none.')
  const { receipt, detail, signature, proof, body } = answer
  return {
    channel: receipt.channel,
    job: receipt.job,
    bodyHash: bytes.subarray(0, 32),
    receipt,
    detail,
    signature,
    proof,
    answer: body,
    frame,
  }
}

function* entriesOf(batch: Uint8Array): Generator<JournalEntry> {
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength)
  for (let offset = 0; offset < batch.length; ) {
    const length = view.getUint32(offset)
    yield decodeEntry(batch.subarray(offset + 4, offset + 4 + length))
    offset += 4 + length
  }
}

/** Lists where a channel's jobs of a batch lie, as ranges of job numbers. */
function placesOf(jobs: bigint[]): { first: Uint8Array; last: Uint8Array }[] {
  jobs.sort((a, b) => (a < b ? -1 : 1))
  const ranges: [bigint, bigint][] = []
  for (const job of jobs) {
    const range = ranges.at(-1)
    if (range && job - range[0] < placeSpan) range[1] = job
    else ranges.push([job, job])
  }
  return ranges.map(([first, last]) => ({ first: uint(first, 8), last: uint(last, 8) }))
}

function writtenChannel(
  { channel, terms, voucher }: { channel: Uint8Array } & JournalChannel,
  entries: readonly JournalEntry[],
): WrittenChannel {
  const highest = entries.reduce((best, entry) => (entry.receipt.cumulative > best.receipt.cumulative ? entry : best))
  return {
    channel,
    runner: Buffer.from(terms.runner.slice(2), 'hex'),
    terms: encodeTerms(terms),
    expiresAt: Math.min(Number(terms.expiresAt), Number.MAX_SAFE_INTEGER),
    voucher: voucher ? uint(voucher.cumulative, 16) : null,
    signature: voucher?.signature ?? null,
    cumulative: uint(highest.receipt.cumulative, 16),
    // Without the answer, which ends the frame.
    latest: concat(highest.bodyHash, highest.frame.subarray(0, highest.frame.length - highest.answer.length)),
    receipts: entries.length,
    places: placesOf(entries.map(({ job }) => job)),
  }
}

/** Sorts a batch's entries by their channels' bytes as text. Those that lie together are mostly of one channel, and comparing bytes costs less than making a key of them. */
function entriesByChannel(entries: readonly JournalEntry[]): Map<string, JournalEntry[]> {
  const ofChannel = new Map<string, JournalEntry[]>()
  let latest: JournalEntry[] = []
  for (const entry of entries) {
    if (latest.length === 0 || !equalBytes(latest[0]!.channel, entry.channel)) {
      const key = byteText(entry.channel)
      latest = ofChannel.get(key) ?? []
      ofChannel.set(key, latest)
    }
    latest.push(entry)
  }
  return ofChannel
}

/** Turns a batch into what the writer stores. */
function batchWrite(
  entries: readonly JournalEntry[],
  channels: readonly ({ channel: Uint8Array } & JournalChannel)[],
): Omit<JournalWrite & { op: 'commit' }, 'id'> {
  const bytes = new Uint8Array(entries.reduce((sum, { frame }) => sum + 36 + frame.length, 0))
  const view = new DataView(bytes.buffer)
  let offset = 0
  for (const { bodyHash, frame } of entries) {
    view.setUint32(offset, 32 + frame.length)
    bytes.set(bodyHash, offset + 4)
    bytes.set(frame, offset + 36)
    offset += 36 + frame.length
  }
  const ofChannel = entriesByChannel(entries)
  const written = channels.flatMap((channel) => {
    const own = ofChannel.get(byteText(channel.channel))
    return own ? [writtenChannel(channel, own)] : []
  })
  if (written.length !== ofChannel.size) throw new JournalError('A batch names a channel without its terms.')
  const finishedAt = entries.reduce((latest, { receipt }) => Math.max(latest, Number(receipt.finishedAt)), 0)
  return { op: 'commit', finishedAt, entries: bytes, channels: written }
}

type Waiting = { resolve: () => void; reject: (error: Error) => void }

/** Hands writes to a thread of their own: an fsync blocks the thread that waits for it. */
function startWriter(path: string, maxBytes: number | undefined) {
  const waiting = new RenewedMap<number, Waiting>()
  let nextId = 1
  let worker: Worker | null = null
  const start = () => {
    const own = new Worker(new URL('./journalWriter.ts', import.meta.url), {
      workerData: { path, maxBytes },
      execArgv: [],
    })
    // A journal nobody waits for keeps no process alive.
    own.unref()
    own.on('message', ({ id, error }: JournalReply) => {
      const write = waiting.get(id)
      waiting.delete(id)
      if (waiting.size === 0) own.unref()
      if (error === undefined) write?.resolve()
      else write?.reject(new JournalError(`The journal cannot be written: ${error}`))
    })
    const lost = () => {
      if (worker === own) worker = null
      for (const { reject } of waiting.values()) reject(new JournalError('The journal writer ended.'))
      waiting.clear()
    }
    own.on('error', lost)
    own.on('exit', lost)
    return own
  }
  return {
    write: (write: Omit<JournalWrite & { op: 'commit' }, 'id'> | Omit<JournalWrite & { op: 'prune' }, 'id'>) =>
      new Promise<void>((resolve, reject) => {
        worker ??= start()
        const id = nextId++
        waiting.set(id, { resolve, reject })
        worker.ref()
        worker.postMessage({ ...write, id }, write.op === 'commit' ? [write.entries.buffer as ArrayBuffer] : [])
      }),
    stop() {
      void worker?.terminate()
      worker = null
    },
  }
}

type Row = Record<string, Uint8Array | number>

/** Opens a journal in an SQLite file. `maxBytes` bounds the file: past it a batch is refused as by a full disk. Throws JournalError on a file of another version. */
export function openJournal(path: string, { maxBytes }: { maxBytes?: number } = {}): Journal {
  const database = openDatabase(path)
  const writer = startWriter(path, maxBytes)
  const selectBatches = database.prepare(
    `SELECT entries FROM places JOIN batches ON batches.id = places.batch
     WHERE places.channel = ? AND places.first_job BETWEEN ? AND ? AND places.last_job >= ?`,
  )
  const selectChannel = database.prepare('SELECT * FROM channels WHERE channel = ?')
  const selectChannels = database.prepare('SELECT channel FROM channels WHERE runner = ?')
  const selectTotals = database.prepare('SELECT channel, terms, voucher, cumulative FROM channels')
  const selectRunners = database.prepare('SELECT DISTINCT runner FROM channels')
  const blob = (row: Row, name: string) => new Uint8Array(row[name] as Uint8Array)
  const rowOf = (channel: Uint8Array) => selectChannel.get(channel) as Row | undefined

  return {
    commit: async (entries, channels) => writer.write(batchWrite(entries, channels)),
    find(channel, job) {
      const lowest = job < placeSpan ? 0n : job - placeSpan
      const key = uint(job, 8)
      for (const row of selectBatches.all(channel, uint(lowest, 8), key, key) as Row[]) {
        for (const entry of entriesOf(blob(row, 'entries')))
          if (entry.job === job && Buffer.compare(entry.channel, channel) === 0) return entry
      }
      return null
    },
    channel(channel) {
      const row = rowOf(channel)
      if (!row) return null
      const voucher = row.voucher
        ? { cumulative: readUint(blob(row, 'voucher')), signature: blob(row, 'signature') }
        : null
      return { terms: decodeTerms(blob(row, 'terms')), voucher }
    },
    channelsOf: (runner) =>
      (selectChannels.all(Buffer.from(runner.slice(2), 'hex')) as Row[]).map((row) => blob(row, 'channel')),
    latest(channel) {
      const row = rowOf(channel)
      return row ? decodeEntry(blob(row, 'latest')) : null
    },
    count: (channel) => (rowOf(channel)?.receipts as number | undefined) ?? 0,
    totals: () =>
      (selectTotals.all() as Row[]).map((row) => ({
        channel: blob(row, 'channel'),
        terms: decodeTerms(blob(row, 'terms')),
        vouched: row.voucher ? readUint(blob(row, 'voucher')) : 0n,
        cumulative: readUint(blob(row, 'cumulative')),
      })),
    runners: () => (selectRunners.all() as Row[]).map((row) => toHex(blob(row, 'runner'))),
    prune: (before) => writer.write({ op: 'prune', ...before }),
    close() {
      writer.stop()
      database.close()
    },
  }
}
