import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import type { JobAnswer, JobRequest } from '../../protocol/frames.ts'
import type { KeptClaimJson } from '../../protocol/keptClaim.ts'
import { type Receipt, receiptFromJson, receiptToJson } from '../../protocol/receipt.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import { channelOf, type Terms, termsFromJson, termsToJson } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import type { SqlStorage } from '../platform.ts'

/** How long after its terms' end a channel can still be claimed, in seconds (`Escrow.CLAIM_WINDOW`). */
export const claimWindowSeconds = 86_400
/** How long what is new about a channel waits to be written, in milliseconds: a thousand jobs of one channel are one row and one signature to check, which takes a millisecond. */
const writeMs = 10_000
/** Channels remembered in memory; the others are read from the object's disk. */
const maxRemembered = 10_000
/** Channels that may wait to be written. */
const maxUnwritten = 1_000

type Voucher = { cumulative: bigint; signature: Uint8Array }
type Best = { receipt: Receipt; proof: JobAnswer['proof']; signature: Uint8Array }

/** What a mailbox knows of one channel. */
export type KnownChannel = {
  id: Hex
  terms: Terms
  /** The highest running total of its receipts. */
  cumulative: bigint
  /** As much of it as the disk knows. */
  saved: bigint
  best: Best | null
  /** Whether a voucher of it was found to be the buyer's. */
  trusted: boolean
  /** The highest voucher that the buyer's own key signed. */
  keyed: Voucher | null
  /** The highest voucher of an answered job not looked at yet, or signed by a wallet or a mandated key, which only the chain can judge. */
  candidate: Voucher | null
}

/** What a channel book needs: the object's disk, what signatures are bound to, the clock in milliseconds, timers, and a way to let jobs pass between two signatures. */
export type ChannelBookDeps = {
  domain: Domain
  sql: SqlStorage
  now: () => number
  after: (ms: number, run: () => void) => void
  pause: () => Promise<void>
}

/** Keeps of each channel of one runner what settles it: terms, best receipt, best voucher. A channel reaches the disk with its first receipt, never by being asked for, and leaves it when nothing of it can be claimed any more. */
export class ChannelBook {
  readonly #deps: ChannelBookDeps
  readonly #known = new Map<Hex, KnownChannel>()
  readonly #unwritten = new Set<Hex>()
  #waiting = false
  #writing: Promise<void> = Promise.resolve()

  constructor(deps: ChannelBookDeps) {
    this.#deps = deps
  }

  /** Makes the table it needs. */
  prepare(): void {
    this.#deps.sql.exec(`CREATE TABLE IF NOT EXISTS channels (
      channel TEXT PRIMARY KEY, void_at INTEGER NOT NULL, terms TEXT NOT NULL, receipt TEXT NOT NULL, voucher TEXT, candidate TEXT);
      CREATE INDEX IF NOT EXISTS channels_by_end ON channels (void_at)`)
  }

  /** Finds a channel by what a request says of it; null where neither memory nor disk nor the request has its terms, `bad_terms` where the request has others. */
  open(runner: Hex, { channel, opening }: Pick<JobRequest, 'channel' | 'opening'>): KnownChannel | 'bad_terms' | null {
    const id = toHex(channel)
    const known = this.find(id)
    if (known) return known
    if (!opening) return null
    const { terms } = opening
    if (terms.runner !== runner || channelOf(this.#deps.domain, terms) !== id) return 'bad_terms'
    return this.#remember({
      id,
      terms,
      cumulative: 0n,
      saved: 0n,
      best: null,
      trusted: false,
      keyed: null,
      candidate: null,
    })
  }

  /** Finds a channel by its name; null where it is not known. */
  find(id: Hex): KnownChannel | null {
    const known = this.#known.get(id) ?? this.#read(id)
    return known && this.#remember(known)
  }

  /** Takes a verified receipt and the request it answers. Its voucher was good enough for the runner, which does not look at one below its best: so the highest is kept, and looked at before it displaces one the buyer's key signed. */
  note(
    runner: Hex,
    { receipt, proof, signature }: JobAnswer,
    request: Pick<JobRequest, 'channel' | 'opening' | 'voucher'>,
  ): void {
    const channel = this.open(runner, request)
    if (!channel || channel === 'bad_terms') return
    if (!channel.best || receipt.cumulative > channel.best.receipt.cumulative)
      channel.best = { receipt, proof, signature }
    if (receipt.cumulative > channel.cumulative) channel.cumulative = receipt.cumulative
    const { voucher } = request
    const highest = [channel.keyed?.cumulative ?? 0n, channel.candidate?.cumulative ?? 0n].reduce((a, b) =>
      a > b ? a : b,
    )
    if (voucher && voucher.cumulative > highest)
      channel.candidate = { cumulative: voucher.cumulative, signature: voucher.signature.slice() }
    this.#unwritten.add(channel.id)
    this.#writeSoon()
  }

  /** Lists the channels that can still be claimed, by name; `after` is the last name of the page before. */
  async list(after: string, limit: number): Promise<KeptClaimJson[]> {
    await this.flush()
    return this.#deps.sql
      .exec<Row>(
        `SELECT * FROM channels WHERE channel > ? AND void_at > ? ORDER BY channel LIMIT ?`,
        after,
        this.#seconds(),
        limit,
      )
      .toArray()
      .map(({ channel, terms, receipt, voucher, candidate }) => ({
        channel: channel as Hex,
        terms: JSON.parse(terms),
        ...(JSON.parse(receipt) as Pick<KeptClaimJson, 'receipt' | 'proof' | 'signature'>),
        vouchers: [candidate, voucher].flatMap((each) => (each === null ? [] : [JSON.parse(each)])),
      }))
  }

  /** Writes what is new: of some channels, or of all. Never throws for a voucher that is wrong: it stays a candidate. */
  flush(only?: Iterable<Hex>): Promise<void> {
    const next = this.#writing.then(() => this.#write(only ?? this.#unwritten))
    this.#writing = next.catch(() => {})
    return next
  }

  #seconds(): number {
    return Math.floor(this.#deps.now() / 1000)
  }

  #remember(channel: KnownChannel): KnownChannel {
    this.#known.delete(channel.id)
    this.#known.set(channel.id, channel)
    if (this.#known.size > maxRemembered) {
      for (const id of this.#known.keys()) {
        if (this.#unwritten.has(id)) continue
        this.#known.delete(id)
        break
      }
    }
    return channel
  }

  #read(id: Hex): KnownChannel | null {
    const [row] = this.#deps.sql.exec<Row>('SELECT * FROM channels WHERE channel = ?', id).toArray()
    if (!row) return null
    const { receipt, proof, signature } = JSON.parse(row.receipt) as Pick<
      KeptClaimJson,
      'receipt' | 'proof' | 'signature'
    >
    const best = bestFromJson({ receipt, proof, signature })
    const voucherOf = (text: string | null) => (text === null ? null : voucherFromJson(JSON.parse(text)))
    return {
      id,
      terms: termsFromJson(JSON.parse(row.terms)),
      cumulative: best.receipt.cumulative,
      saved: best.receipt.cumulative,
      best,
      trusted: true,
      keyed: voucherOf(row.voucher),
      candidate: voucherOf(row.candidate),
    }
  }

  #writeSoon(): void {
    if (this.#unwritten.size >= maxUnwritten) void this.flush()
    if (this.#waiting) return
    this.#waiting = true
    this.#deps.after(writeMs, () => {
      this.#waiting = false
      void this.flush()
    })
  }

  async #write(ids: Iterable<Hex>): Promise<void> {
    // What is added meanwhile is met as well.
    for (const id of ids) {
      if (!this.#unwritten.delete(id)) continue
      const channel = this.#known.get(id)
      if (!channel?.best) continue
      if (channel.candidate) {
        await this.#deps.pause()
        this.#judge(channel)
      }
      this.#save(channel, channel.best)
      channel.saved = channel.best.receipt.cumulative
    }
    this.#deps.sql.exec('DELETE FROM channels WHERE void_at <= ?', this.#seconds())
  }

  /** Looks at a candidate: signed by the buyer's key, it is the best there is; otherwise it stays beside that one. */
  #judge(channel: KnownChannel): void {
    const { candidate, terms, id } = channel
    if (candidate?.signature.length !== 65) return
    const digest = voucherDigest(this.#deps.domain, { channel: id, cumulative: candidate.cumulative })
    if (recoverAddress(digest, candidate.signature) !== terms.buyer) return
    channel.keyed = candidate
    channel.candidate = null
  }

  #save({ id, terms, keyed, candidate }: KnownChannel, best: Best): void {
    this.#deps.sql.exec(
      'INSERT OR REPLACE INTO channels (channel, void_at, terms, receipt, voucher, candidate) VALUES (?, ?, ?, ?, ?, ?)',
      id,
      Math.min(Number(terms.expiresAt) + claimWindowSeconds, Number.MAX_SAFE_INTEGER),
      JSON.stringify(termsToJson(terms)),
      JSON.stringify(bestToJson(best)),
      keyed && JSON.stringify(voucherToJson(keyed)),
      candidate && JSON.stringify(voucherToJson(candidate)),
    )
  }
}

type Row = {
  channel: string
  void_at: number
  terms: string
  receipt: string
  voucher: string | null
  candidate: string | null
}

type BestJson = Pick<KeptClaimJson, 'receipt' | 'proof' | 'signature'>

const bestToJson = ({ receipt, proof, signature }: Best): BestJson => ({
  receipt: receiptToJson(receipt),
  proof: { ...proof, path: proof.path.map(toHex) },
  signature: toHex(signature),
})

const bestFromJson = ({ receipt, proof, signature }: BestJson): Best => ({
  receipt: receiptFromJson(receipt),
  proof: { ...proof, path: proof.path.map((node) => fromHex(node, 32)) },
  signature: fromHex(signature, 65),
})

const voucherToJson = ({ cumulative, signature }: Voucher) => ({
  cumulative: cumulative.toString(),
  signature: toHex(signature),
})

const voucherFromJson = ({ cumulative, signature }: { cumulative: string; signature: Hex }): Voucher => ({
  cumulative: BigInt(cumulative),
  signature: fromHex(signature),
})
