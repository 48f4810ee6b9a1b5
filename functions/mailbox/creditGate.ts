import { type Hex, toHex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { decodeFrame, type JobRequest } from '../../protocol/frames.ts'
import type { Receipt } from '../../protocol/receipt.ts'
import { RenewedMap } from '../../protocol/renewedMap.ts'
import { AssayError } from '../errors.ts'
import type { SqlStorage } from '../platform.ts'
import type { ChannelSpent, LeaseAnswer, LeaseRequest, Returned } from '../services/credit.ts'
import { type Vouched, voucherKey } from '../services/vouching.ts'
import { type ChannelBook, claimWindowSeconds, type KnownChannel } from './channelBook.ts'
import type { Relay, SubmitOptions } from './relay.ts'

/** A lease is wished to reach for this many jobs, so that the buyer's account is off the path of most. */
const wishedJobs = 256n
/** More questions than one life of an object can ask. */
const questionsPerLife = 1_000_000_000
/** How long after its last job a buyer's purse is written, in milliseconds. */
const quietMs = 2_500
/** How often a purse is looked at again that is not ready: a receipt that never verifies never gets it ready. */
const maxRests = 10
/** How long a buyer that had too little is believed to have too little, in milliseconds. */
const shortMs = 1_000

/** What a credit gate needs: the relay it stands before, what is known of channels, the object's disk, the way to a buyer's account, the clock in milliseconds, timers. */
export type CreditGateDeps = {
  relay: Relay
  book: ChannelBook
  sql: SqlStorage
  lease: (buyer: Hex, request: LeaseRequest) => Promise<LeaseAnswer>
  domain: Domain
  /** Asks whether a voucher that the buyer's own key did not sign is the buyer's. Throws when that cannot be asked. */
  vouched: (voucher: Vouched) => Promise<boolean>
  now: () => number
  after: (ms: number, run: () => void) => void
}

/** What is spent and on its way in one channel. */
type Tab = { channel: KnownChannel; inFlight: number; unresolved: Set<string> }

/** What this mailbox may spend of one buyer's deposit. */
type Purse = {
  buyer: Hex
  /** Leased and free. */
  free: bigint
  /** Leased for jobs handed over without a receipt yet. */
  open: bigint
  inFlight: number
  expiresAt: number
  /** Until when anything spent from it can be claimed, unix seconds. */
  voidAt: number
  /** What an earlier life of this object may have spent beyond what the disk says, held until `stuckUntil` (unix seconds), when nothing of it can be claimed any more. */
  stuck: bigint
  stuckUntil: number
  /** How much more may be handed out before the disk has to know. */
  slice: bigint
  /** Jobs that look at it while they wait for credit. */
  users: number
  /** How often it was found not ready to be written since its last job. */
  rests: number
  /** Whether the disk says what memory says. */
  written: boolean
  tabs: Map<Hex, Tab>
  wanted: bigint
  wantedVoidAt: number
  renewing: Promise<void> | null
  short: { until: number; available: bigint } | null
}

type Reservation = { purse: Purse; tab: Tab; price: bigint; waiting: boolean }
type PurseRow = {
  free: string
  open: string
  expires_at: number
  void_at: number
  stuck: string
  stuck_until: number
  channels: string
}

const refuse = (code: ConstructorParameters<typeof AssayError>[0], detail: string, hint?: string) =>
  new AssayError(code, detail, { ...(hint ? { hint } : {}), extra: { accepted: false } })

/** Lets a job through to the relay when its price is covered by what this mailbox has leased of the buyer's deposit. A price is held from the moment a job may reach the runner until a receipt says what it cost, or the runner that it did not run; where neither comes, as long as it can be claimed. */
export class CreditGate {
  readonly #deps: CreditGateDeps
  readonly #purses = new Map<Hex, Purse>()
  readonly #reserved = new RenewedMap<string, Reservation>()
  #resting = false
  #life: number | null = null
  #questions = 0

  constructor(deps: CreditGateDeps) {
    this.#deps = deps
  }

  /** Makes the table it needs. */
  prepare(): void {
    this.#deps.sql.exec(`CREATE TABLE IF NOT EXISTS purses (
      buyer TEXT PRIMARY KEY, free TEXT NOT NULL, open TEXT NOT NULL, expires_at INTEGER NOT NULL, void_at INTEGER NOT NULL,
      stuck TEXT NOT NULL, stuck_until INTEGER NOT NULL, channels TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS lives (life INTEGER PRIMARY KEY)`)
  }

  /** Hands a job to the relay once its price is reserved, and gives its answer's frame. Throws what the relay throws, and `unfunded` where the deposit does not reach; `accepted` is false then. */
  async submit(runner: Hex, bytes: Uint8Array, given: SubmitOptions = {}): Promise<Uint8Array> {
    const { relay, book } = this.#deps
    const request = given.decoded ?? decodeFrame(bytes)
    const options = { ...given, decoded: request }
    if (request.type !== 'jobRequest') return relay.submit(bytes, options)
    const key = keyOf(request.channel, request.job)
    const earlier = this.#reserved.get(key)
    // A job under way is joined, one that was answered costs nothing again, and nobody there takes none.
    if (earlier?.waiting || relay.remembers(key) || !relay.connected) return relay.submit(bytes, options)
    if (earlier) {
      earlier.waiting = true
      earlier.tab.inFlight++
      earlier.purse.inFlight++
      return this.#await(key, earlier, bytes, options)
    }
    const channel = book.open(runner, request)
    if (channel === 'bad_terms')
      throw refuse('bad_terms', 'The terms are not those of the channel, or for another runner.')
    if (!channel) throw refuse('unknown_context', 'Send the opening again: the mailbox does not know the channel.')
    if (channel.terms.price === 0n) return relay.submit(bytes, options)
    if (!channel.trusted && !channel.best) await this.#trust(channel, request.voucher)
    const purse = this.#purse(channel.terms.buyer)
    // Nothing is waited for where nothing need be: nearly always.
    const reservation = this.#covers(purse, channel)
      ? this.#hold(key, purse, channel)
      : await this.#holdOnceLeased(key, purse, channel, runner)
    // Null where the same job came twice while both waited for credit: the second joins the first.
    return reservation ? this.#await(key, reservation, bytes, options) : this.submit(runner, bytes, options)
  }

  /** Makes sure that a channel is its buyer's before it may reserve any of the buyer's credit: a stranger can name anyone in terms. A receipt shows it, since the runner looked; before the first one, the voucher has to. */
  async #trust(channel: KnownChannel, voucher: JobRequest['voucher']): Promise<void> {
    const { id, terms } = channel
    const { domain, vouched } = this.#deps
    if (!voucher) throw refuse('insufficient_cover', 'The first job of a channel carries a voucher.')
    const given = { channel: id, cumulative: voucher.cumulative, signature: voucher.signature.slice() }
    let good = voucherKey(domain, given) === terms.buyer
    if (!good) {
      try {
        good = await vouched({ ...given, buyer: terms.buyer, model: terms.model })
      } catch {
        throw refuse(
          'unavailable',
          'Whether the voucher is good cannot be asked now.',
          'Try again in a few seconds; nothing was charged.',
        )
      }
    }
    if (!good) throw refuse('bad_voucher', 'The voucher is signed neither by the buyer nor by a key with a mandate.')
    channel.trusted = true
  }

  /** Takes the receipt of an answered job: what it cost is spent, the rest of what was held for it is free again. */
  answered({ channel: id, job, cumulative }: Receipt): void {
    const key = keyOf(id, job)
    const reservation = this.#reserved.get(key)
    if (!reservation) return
    const { purse, tab, price } = reservation
    const { channel } = tab
    const cost = cumulative > channel.cumulative ? cumulative - channel.cumulative : 0n
    channel.cumulative += cost
    this.#release(key, reservation)
    purse.free -= cost
    // The total also covers jobs nobody heard of again; how many is certain once none is under way.
    let beyond = cost - price
    for (const lost of tab.unresolved) {
      beyond -= price
      if (tab.inFlight > 0 || beyond < 0n) break
      this.#release(lost, this.#reserved.get(lost)!)
    }
  }

  /** Frees what is held for a job that nobody waits for any more and that its runner says did not run. */
  released({ channel, job }: Pick<JobRequest, 'channel' | 'job'>): void {
    const key = keyOf(channel, job)
    const reservation = this.#reserved.get(key)
    if (reservation && !reservation.waiting) this.#release(key, reservation)
  }

  /** Gives back what no job needs. Called by the buyer's account. */
  giveBack(buyer: Hex): Returned {
    const purse = this.#purse(buyer)
    purse.free = 0n
    const channels = spentOf(purse)
    if (purse.expiresAt > 0) this.#write(purse)
    return { open: purse.open + this.#stuckOf(purse), channels }
  }

  #await(key: string, reservation: Reservation, bytes: Uint8Array, options: SubmitOptions): Promise<Uint8Array> {
    let answer: Promise<Uint8Array>
    try {
      answer = this.#deps.relay.submit(bytes, options)
    } catch (error) {
      answer = Promise.reject(error)
    }
    return answer.then(
      (frame) => {
        // A receipt has been taken already; what is still reserved now was refused, or answered from memory.
        if (this.#reserved.get(key) === reservation) this.#release(key, reservation)
        return frame
      },
      (error: unknown) => {
        if (this.#reserved.get(key) !== reservation) throw error
        if (error instanceof AssayError && error.extra?.accepted === false) this.#release(key, reservation)
        else this.#leave(key, reservation)
        throw error
      },
    )
  }

  /** Frees what was held for a job. */
  #release(key: string, { purse, tab, price, waiting }: Reservation): void {
    this.#reserved.delete(key)
    purse.open -= price
    purse.free += price
    if (waiting) this.#end(purse, tab)
    tab.unresolved.delete(key)
  }

  /** Stops waiting for a job that may have run: what it may cost stays held. */
  #leave(key: string, reservation: Reservation): void {
    reservation.waiting = false
    reservation.tab.unresolved.add(key)
    this.#end(reservation.purse, reservation.tab)
  }

  #end(purse: Purse, tab: Tab): void {
    tab.inFlight--
    purse.inFlight--
    this.#restSoon()
  }

  #covers(purse: Purse, channel: KnownChannel): boolean {
    return purse.free >= channel.terms.price && this.#deps.now() < purse.expiresAt && voidAtOf(channel) <= purse.voidAt
  }

  /** Asks the account until the purse covers a job of the channel, and holds its price as `#hold` does. Throws `unfunded` where the deposit does not reach. */
  async #holdOnceLeased(key: string, purse: Purse, channel: KnownChannel, runner: Hex): Promise<Reservation | null> {
    const { price } = channel.terms
    purse.users++
    try {
      while (!this.#covers(purse, channel)) {
        const { short } = purse
        if (short && this.#deps.now() < short.until && price > short.available)
          throw refuse(
            'unfunded',
            `The buyer's deposit has ${short.available} left for jobs; ${price} is needed.`,
            'Deposit more, or wait for a settlement or for other jobs to end.',
          )
        purse.wantedVoidAt = Math.max(purse.wantedVoidAt, voidAtOf(channel))
        await this.#renew(runner, purse, price)
      }
      // In the same turn: what was leased may be the next job's in another, and the purse put away.
      return this.#hold(key, purse, channel)
    } finally {
      purse.users--
    }
  }

  /** Holds a job's price out of a purse that covers it; null where that of the same job is held already. */
  #hold(key: string, purse: Purse, channel: KnownChannel): Reservation | null {
    const { price } = channel.terms
    if (this.#reserved.has(key)) return null
    // The disk says what may be handed out before it is asked again, so that being stopped costs no more than that.
    if (purse.slice < price) this.#write(purse, sliceOf(purse, price))
    purse.slice -= price
    purse.rests = 0
    const tab = this.#tab(purse, channel)
    purse.free -= price
    purse.open += price
    purse.inFlight++
    tab.inFlight++
    const reservation = { purse, tab, price, waiting: true }
    this.#reserved.set(key, reservation)
    return reservation
  }

  #tab(purse: Purse, channel: KnownChannel): Tab {
    const known = purse.tabs.get(channel.id)
    if (known) {
      known.channel = channel
      return known
    }
    const tab: Tab = { channel, inFlight: 0, unresolved: new Set() }
    purse.tabs.set(channel.id, tab)
    return tab
  }

  /** Asks the account for more, for all jobs of this buyer that wait: one question at a time. */
  #renew(runner: Hex, purse: Purse, price: bigint): Promise<void> {
    purse.wanted += price
    purse.renewing ??= this.#ask(runner, purse, price).finally(() => {
      purse.renewing = null
      purse.wanted = 0n
    })
    return purse.renewing
  }

  async #ask(runner: Hex, purse: Purse, price: bigint): Promise<void> {
    const { lease, now } = this.#deps
    // Others of the same moment are asked for together.
    await Promise.resolve()
    // What was spent beyond the lease is in the totals below.
    if (purse.free < 0n) purse.free = 0n
    const channels = spentOf(purse)
    const wish = purse.wanted > price * wishedJobs ? purse.wanted : price * wishedJobs
    const voidAt = Math.max(purse.voidAt, purse.wantedVoidAt, Math.floor(now() / 1000) + 2 * claimWindowSeconds)
    let answer: LeaseAnswer
    // Counted from the asking by the clock of here, so the lease ends here before it ends there.
    const asked = now()
    try {
      const least = purse.free < price ? price - purse.free : 0n
      answer = await lease(purse.buyer, {
        runner,
        turn: this.#turn(),
        open: purse.open + purse.free + this.#stuckOf(purse),
        least,
        wish,
        voidAt,
        channels,
      })
    } catch {
      throw refuse(
        'unavailable',
        "The buyer's deposit cannot be read.",
        'Try again in a few seconds; nothing was charged.',
      )
    }
    this.#forgetReported(purse, channels)
    if ('available' in answer) purse.short = { until: now() + shortMs, available: answer.available }
    else {
      purse.short = null
      purse.free += answer.granted
      purse.expiresAt = asked + answer.forMs
      purse.voidAt = voidAt
    }
    this.#restSoon()
  }

  /** Numbers a question: later lives of this object come after all questions of earlier ones. */
  #turn(): number {
    if (this.#life === null) {
      const { sql } = this.#deps
      const [row] = sql.exec<{ life: number | null }>('SELECT max(life) AS life FROM lives').toArray()
      this.#life = (row?.life ?? 0) + 1
      sql.exec('INSERT INTO lives (life) VALUES (?)', this.#life)
      sql.exec('DELETE FROM lives WHERE life < ?', this.#life)
    }
    return this.#life * questionsPerLife + ++this.#questions
  }

  /** Forgets channels whose totals the account has and that have nothing under way. */
  #forgetReported(purse: Purse, reported: readonly ChannelSpent[]): void {
    for (const { channel, spent } of reported) {
      const tab = purse.tabs.get(channel)
      if (tab && tab.inFlight === 0 && tab.unresolved.size === 0 && tab.channel.cumulative === spent)
        purse.tabs.delete(channel)
    }
  }

  #purse(buyer: Hex): Purse {
    const known = this.#purses.get(buyer)
    if (known) return known
    const [row] = this.#deps.sql.exec<PurseRow>('SELECT * FROM purses WHERE buyer = ?', buyer).toArray()
    const open = BigInt(row?.open ?? 0)
    const purse: Purse = {
      buyer,
      free: BigInt(row?.free ?? 0),
      open: 0n,
      inFlight: 0,
      expiresAt: row?.expires_at ?? 0,
      voidAt: row?.void_at ?? 0,
      // Who had what was open is forgotten, so it is held until it cannot be claimed.
      stuck: BigInt(row?.stuck ?? 0) + open,
      stuckUntil: Math.max(row?.stuck_until ?? 0, open > 0n ? row!.void_at : 0),
      slice: 0n,
      written: row !== undefined,
      tabs: new Map(),
      wanted: 0n,
      wantedVoidAt: 0,
      users: 0,
      rests: 0,
      renewing: null,
      short: null,
    }
    for (const id of row ? (JSON.parse(row.channels) as Hex[]) : []) {
      const channel = this.#deps.book.find(id)
      if (channel) this.#tab(purse, channel)
    }
    this.#purses.set(buyer, purse)
    return purse
  }

  #stuckOf({ stuck, stuckUntil }: Purse): bigint {
    return this.#deps.now() < stuckUntil * 1_000 ? stuck : 0n
  }

  /** Writes a purse as it may be at worst by the time the disk is read: `slice` handed out, and totals that are not on the disk as if they had never been heard of. */
  #write(purse: Purse, slice = 0n): void {
    const { buyer, free, open, expiresAt, voidAt, stuckUntil, tabs, inFlight } = purse
    const unsaved = [...tabs.values()].reduce((sum, { channel }) => sum + channel.cumulative - channel.saved, 0n)
    this.#deps.sql.exec(
      'INSERT OR REPLACE INTO purses (buyer, free, open, expires_at, void_at, stuck, stuck_until, channels) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
      buyer,
      String(free > slice ? free - slice : 0n),
      String(open + slice + unsaved),
      expiresAt,
      voidAt,
      String(this.#stuckOf(purse)),
      stuckUntil,
      JSON.stringify([...tabs.keys()]),
    )
    purse.slice = slice
    purse.written = slice === 0n && inFlight === 0 && unsaved === 0n
  }

  /** Writes purses down once their buyers are quiet, so that this object may sleep. */
  #restSoon(): void {
    if (this.#resting) return
    this.#resting = true
    this.#deps.after(quietMs, () => {
      this.#resting = false
      void this.#rest()
    })
  }

  async #rest(): Promise<void> {
    const { book, now, sql } = this.#deps
    const quiet = [...this.#purses.values()].filter(({ inFlight, users }) => inFlight === 0 && users === 0)
    await book.flush(quiet.filter(({ written }) => !written).flatMap(({ tabs }) => [...tabs.keys()]))
    const seconds = Math.floor(now() / 1000)
    for (const [buyer, purse] of this.#purses) {
      if (purse.inFlight > 0 || purse.users > 0) continue
      for (const { channel, unresolved } of purse.tabs.values()) {
        if (voidAtOf(channel) > seconds) continue
        for (const key of unresolved) this.#release(key, this.#reserved.get(key)!)
      }
      if (purse.expiresAt === 0) {
        this.#purses.delete(buyer)
        continue
      }
      if (!purse.written) this.#write(purse)
      if (!purse.written && purse.rests++ < maxRests) this.#restSoon()
      // On the disk is all there is to know, unless a job that nobody heard of again may still be heard of.
      if (purse.written && [...purse.tabs.values()].every(({ unresolved }) => unresolved.size === 0))
        this.#purses.delete(buyer)
    }
    sql.exec('DELETE FROM purses WHERE void_at <= ?', seconds)
  }
}

const voidAtOf = ({ terms }: KnownChannel) =>
  Math.min(Number(terms.expiresAt) + claimWindowSeconds, Number.MAX_SAFE_INTEGER)

/** How much a mailbox may hand out before it writes its purse down again: a sixteenth of what is free, or one job. */
const sliceOf = ({ free }: Purse, price: bigint) => (free / 16n > price ? free / 16n : price)

const keyOf = (channel: JobRequest['channel'], job: bigint) => `${toHex(channel)}:${job}`

const spentOf = ({ tabs }: Purse): ChannelSpent[] =>
  [...tabs.values()].map(({ channel }) => ({
    channel: channel.id,
    spent: channel.cumulative,
    voidAt: voidAtOf(channel),
  }))
