import { equalBytes, type Hex, toHex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import type { JobAnswer, JobRequest } from '../../protocol/frames.ts'
import { rememberBatches } from '../../protocol/knownBatches.ts'
import { rememberKeys } from '../../protocol/knownKeys.ts'
import { detailDigest, detailToJson, receiptLeaf, receiptToJson } from '../../protocol/receipt.ts'
import type { SqlStorage } from '../platform.ts'
import type { ReceiptRow } from '../store/receipts.ts'

/** Most receipts written at once. */
const maxRows = 500
const retryMs = 5_000
const maxRetryMs = 300_000

/** What is kept of a request beside the receipt that answers it. */
type Asked = Pick<JobRequest, 'channel' | 'opening' | 'voucher'>

/** What a receipt log needs: the runner whose receipts it takes, what signatures are bound to, the object's disk, and the database. */
export type ReceiptLogDeps = {
  domain: Domain
  sql: SqlStorage
  insert: (rows: ReceiptRow[]) => Promise<unknown>
  /** Called for each receipt that verifies, with the request it answers. */
  verified: (runner: Hex, answer: JobAnswer, request: Asked) => void
  /** Called when a receipt does not verify: the runner's word is worth nothing then. */
  refused: (runner: Hex) => void
  /** Lets jobs pass between two signatures, which take a millisecond each. */
  pause: () => Promise<void>
}

/** Keeps the history of receipts: verifies each, writes them behind the answers, and holds them on the object's disk while the database is away. */
export class ReceiptLog {
  readonly #deps: ReceiptLogDeps
  readonly #signerOf = rememberBatches(rememberKeys(1))
  /** The last signature looked at. */
  #newest: Uint8Array = new Uint8Array(0)
  #incoming: { runner: Hex; answer: JobAnswer; request: Asked }[] = []
  #working = false
  #failures = 0

  constructor(deps: ReceiptLogDeps) {
    this.#deps = deps
  }

  /** Makes the table it needs. */
  prepare(): void {
    this.#deps.sql.exec('CREATE TABLE IF NOT EXISTS unwritten (id INTEGER PRIMARY KEY, row TEXT NOT NULL)')
  }

  /** Takes an answer's receipt; the work has to be kept alive by the caller. Gives null when work is already under way. */
  add(runner: Hex, answer: JobAnswer, request: Asked): Promise<void> | null {
    this.#incoming.push({ runner, answer: withoutBody(answer), request: copyOf(request) })
    return this.#working ? null : this.work()
  }

  /** Counts the receipts waiting on the object's disk. */
  get held(): number {
    return Number(this.#deps.sql.exec('SELECT count(*) AS n FROM unwritten').one().n)
  }

  /** Gives how long to wait before the next attempt, in milliseconds, or null when nothing is left. */
  get retryInMs(): number | null {
    return this.held === 0 ? null : Math.min(maxRetryMs, retryMs * 2 ** Math.max(0, this.#failures - 1))
  }

  /** Verifies and writes all there is. Never throws. */
  async work(): Promise<void> {
    if (this.#working) return
    this.#working = true
    try {
      for (;;) {
        const batch = this.#incoming.splice(0, maxRows)
        if (batch.length === 0) break
        const rows: ReceiptRow[] = []
        for (const { runner, answer, request } of batch) {
          if (await this.#verify(runner, answer)) {
            rows.push(rowOf(runner, answer))
            this.#deps.verified(runner, answer, request)
          } else this.#deps.refused(runner)
        }
        await this.#write(rows)
      }
      await this.#drain()
    } finally {
      this.#working = false
    }
  }

  async #verify(runner: Hex, { receipt, detail, proof, signature }: JobAnswer): Promise<boolean> {
    if (!equalBytes(detailDigest(detail), receipt.detail)) return false
    if (!equalBytes(signature, this.#newest)) await this.#deps.pause()
    this.#newest = signature
    return this.#signerOf(this.#deps.domain, { leaf: receiptLeaf(receipt), proof, signature }, runner) === runner
  }

  async #write(rows: ReceiptRow[]): Promise<void> {
    if (rows.length === 0) return
    try {
      // While the database is known to be away, nothing waits for it again before its time.
      if (this.#failures > 0) throw new Error('away')
      await this.#deps.insert(rows)
    } catch {
      this.#failures = Math.max(1, this.#failures)
      for (const row of rows) this.#deps.sql.exec('INSERT INTO unwritten (row) VALUES (?)', JSON.stringify(row))
    }
  }

  /** Writes what the disk holds, oldest first, until the database refuses. */
  async #drain(): Promise<void> {
    for (;;) {
      const held = this.#deps.sql
        .exec<{ id: number; row: string }>('SELECT id, row FROM unwritten ORDER BY id LIMIT ?', maxRows)
        .toArray()
      if (held.length === 0) {
        this.#failures = 0
        return
      }
      try {
        await this.#deps.insert(held.map(({ row }) => JSON.parse(row) as ReceiptRow))
        this.#deps.sql.exec('DELETE FROM unwritten WHERE id <= ?', held.at(-1)!.id)
      } catch {
        this.#failures++
        return
      }
    }
  }
}

/** Copies what is kept: a view would hold the whole message it came in. */
function withoutBody({ ticket, receipt, detail, proof, signature }: JobAnswer): JobAnswer {
  return {
    ticket,
    receipt: { ...receipt, channel: receipt.channel.slice(), detail: receipt.detail.slice() },
    detail: {
      ...detail,
      input: detail.input.slice(),
      output: detail.output.slice(),
      execution: detail.execution.slice(),
    },
    proof: { ...proof, path: proof.path.map((node) => node.slice()) },
    signature: signature.slice(),
    body: new Uint8Array(0),
  }
}

/** Copies what a view would hold the whole message for. */
function copyOf({ channel, opening, voucher }: Asked): Asked {
  return {
    channel: channel.slice(),
    ...(opening ? { opening } : {}),
    ...(voucher ? { voucher: { cumulative: voucher.cumulative, signature: voucher.signature.slice() } } : {}),
  }
}

function rowOf(runner: Hex, { receipt, detail, proof, signature }: JobAnswer): ReceiptRow {
  return {
    channel: toHex(receipt.channel),
    job: receipt.job.toString(),
    runner,
    receipt: receiptToJson(receipt),
    detail: detailToJson(detail),
    proof: { index: proof.index, count: proof.count, path: proof.path.map(toHex) },
    signature: toHex(signature),
  }
}
