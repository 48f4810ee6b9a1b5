import { DatabaseSync } from 'node:sqlite'
import { concat, type Hex, toHex } from '../protocol/bytes.ts'
import type { MerkleProof } from '../protocol/merkle.ts'
import {
  type Detail,
  decodeDetail,
  decodeReceipt,
  encodeDetail,
  encodeReceipt,
  type Receipt,
} from '../protocol/receipt.ts'
import { decodeTerms, encodeTerms, type Terms } from '../protocol/terms.ts'

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
}

/** Holds a channel as last written. */
export type JournalChannel = { terms: Terms; voucher: { cumulative: bigint; signature: Uint8Array } | null }

/** Holds what a channel's journalled receipts and voucher add up to. */
export type JournalTotal = { channel: Uint8Array; terms: Terms; vouched: bigint; cumulative: bigint }

/** Keeps receipts and vouchers on disk before an answer leaves, so that a killed runner has lost nothing it promised. */
export type Journal = {
  saveChannel(channel: Uint8Array, entry: JournalChannel): void
  /** Writes a batch in one transaction: one fsync however many jobs. Throws when the disk refuses; nothing is written then. */
  commit(
    entries: readonly JournalEntry[],
    vouchers: readonly { channel: Uint8Array; cumulative: bigint; signature: Uint8Array }[],
  ): void
  find(channel: Uint8Array, job: bigint): JournalEntry | null
  channel(channel: Uint8Array): JournalChannel | null
  channelsOf(runner: Hex): Uint8Array[]
  /** Gives the entry with the highest running total of a channel. */
  latest(channel: Uint8Array): JournalEntry | null
  count(channel: Uint8Array): number
  /** Lists the channels that have receipts, with their terms, what the voucher covers and the highest running total; amounts in the token's smallest unit. */
  totals(): JournalTotal[]
  /** Lists the runner keys that have channels here. */
  runners(): Hex[]
  close(): void
}

type Row = Record<string, Uint8Array | number>

/** Opens a journal in an SQLite file. */
export function openJournal(path: string): Journal {
  const database = new DatabaseSync(path)
  database.exec(`
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS channels (
      channel BLOB PRIMARY KEY, runner BLOB NOT NULL, terms BLOB NOT NULL, voucher BLOB, signature BLOB
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS receipts (
      channel BLOB NOT NULL, job BLOB NOT NULL, cumulative BLOB NOT NULL, body_hash BLOB NOT NULL, receipt BLOB NOT NULL, detail BLOB NOT NULL,
      signature BLOB NOT NULL, leaf_index INTEGER NOT NULL, leaf_count INTEGER NOT NULL, path BLOB NOT NULL, answer BLOB NOT NULL,
      PRIMARY KEY (channel, job)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS receipts_by_total ON receipts (channel, cumulative);
  `)
  const insertChannel = database.prepare(
    'INSERT INTO channels (channel, runner, terms, voucher, signature) VALUES (?, ?, ?, ?, ?) ON CONFLICT (channel) DO UPDATE SET voucher = excluded.voucher, signature = excluded.signature',
  )
  const updateVoucher = database.prepare('UPDATE channels SET voucher = ?, signature = ? WHERE channel = ?')
  const insertReceipt = database.prepare('INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')
  const selectReceipt = database.prepare('SELECT * FROM receipts WHERE channel = ? AND job = ?')
  const selectLatest = database.prepare('SELECT * FROM receipts WHERE channel = ? ORDER BY cumulative DESC LIMIT 1')
  const selectCount = database.prepare('SELECT count(*) AS n FROM receipts WHERE channel = ?')
  const selectChannel = database.prepare('SELECT * FROM channels WHERE channel = ?')
  const selectChannels = database.prepare('SELECT channel FROM channels WHERE runner = ?')
  const selectTotals = database.prepare(
    `SELECT channel, terms, voucher, (SELECT max(cumulative) FROM receipts WHERE receipts.channel = channels.channel) AS cumulative
     FROM channels WHERE cumulative IS NOT NULL`,
  )
  const selectRunners = database.prepare('SELECT DISTINCT runner FROM channels')

  const wide = (value: bigint, width: number) => Buffer.from(value.toString(16).padStart(width * 2, '0'), 'hex')
  const number = (bytes: Uint8Array) => BigInt(toHex(bytes))
  const blob = (row: Row, name: string) => new Uint8Array(row[name] as Uint8Array)

  const readEntry = (row: Row | undefined): JournalEntry | null => {
    if (!row) return null
    const path = blob(row, 'path')
    return {
      channel: blob(row, 'channel'),
      job: number(blob(row, 'job')),
      bodyHash: blob(row, 'body_hash'),
      receipt: decodeReceipt(blob(row, 'receipt')),
      detail: decodeDetail(blob(row, 'detail')),
      signature: blob(row, 'signature'),
      proof: {
        index: row.leaf_index as number,
        count: row.leaf_count as number,
        path: Array.from({ length: path.length / 32 }, (_, index) => path.subarray(index * 32, index * 32 + 32)),
      },
      answer: blob(row, 'answer'),
    }
  }

  return {
    saveChannel(channel, { terms, voucher }) {
      const runner = Buffer.from(terms.runner.slice(2), 'hex')
      insertChannel.run(
        channel,
        runner,
        encodeTerms(terms),
        voucher ? wide(voucher.cumulative, 16) : null,
        voucher?.signature ?? null,
      )
    },
    commit(entries, vouchers) {
      database.exec('BEGIN')
      try {
        for (const { channel, cumulative, signature } of vouchers)
          updateVoucher.run(wide(cumulative, 16), signature, channel)
        for (const entry of entries) {
          insertReceipt.run(
            entry.channel,
            wide(entry.job, 8),
            wide(entry.receipt.cumulative, 16),
            entry.bodyHash,
            encodeReceipt(entry.receipt),
            encodeDetail(entry.detail),
            entry.signature,
            entry.proof.index,
            entry.proof.count,
            concat(...entry.proof.path),
            entry.answer,
          )
        }
        database.exec('COMMIT')
      } catch (error) {
        database.exec('ROLLBACK')
        throw error
      }
    },
    find: (channel, job) => readEntry(selectReceipt.get(channel, wide(job, 8)) as Row | undefined),
    channel(channel) {
      const row = selectChannel.get(channel) as Row | undefined
      if (!row) return null
      const voucher = row.voucher
        ? { cumulative: number(blob(row, 'voucher')), signature: blob(row, 'signature') }
        : null
      return { terms: decodeTerms(blob(row, 'terms')), voucher }
    },
    channelsOf: (runner) =>
      (selectChannels.all(Buffer.from(runner.slice(2), 'hex')) as Row[]).map((row) => blob(row, 'channel')),
    latest: (channel) => readEntry(selectLatest.get(channel) as Row | undefined),
    count: (channel) => (selectCount.get(channel) as { n: number }).n,
    totals: () =>
      (selectTotals.all() as Row[]).map((row) => ({
        channel: blob(row, 'channel'),
        terms: decodeTerms(blob(row, 'terms')),
        vouched: row.voucher ? number(blob(row, 'voucher')) : 0n,
        cumulative: number(blob(row, 'cumulative')),
      })),
    runners: () => (selectRunners.all() as Row[]).map((row) => toHex(blob(row, 'runner'))),
    close: () => database.close(),
  }
}
