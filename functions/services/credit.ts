import type { Hex } from '../../protocol/bytes.ts'
import type { SqlStorage } from '../platform.ts'

/** Says what a channel's receipts add up to as a mailbox has seen them, and until when it can be claimed (unix seconds). */
export type ChannelSpent = { channel: Hex; spent: bigint; voidAt: number }

/** Tells an account all that one mailbox holds of a buyer's credit, and asks for more. Amounts in the token's smallest unit. */
export type LeaseRequest = {
  /** The runner whose mailbox asks. */
  runner: Hex
  /** Grows with each question of a mailbox, through all its lives: one that was overtaken on its way says what is no longer so. */
  turn: number
  /** What it holds: free, or for jobs that it has handed over and has no receipt for. */
  open: bigint
  /** What it needs at least, and what it would like. */
  least: bigint
  wish: bigint
  /** Until when anything of this can be claimed, unix seconds. */
  voidAt: number
  channels: ChannelSpent[]
}

/** Grants credit for so many milliseconds, or says how much there is where that is too little. */
export type LeaseAnswer = { granted: bigint; forMs: number } | { available: bigint }

/** Tells what a mailbox gives back when it is asked: what it still has to hold on to, and its channels; what it still has to hold on to, and its channels. */
export type Returned = { open: bigint; channels: ChannelSpent[] }

/** Reads a buyer's money as of one block: the deposit less what was asked back, and what each channel was paid. */
export type FundsReader = (channels: readonly Hex[]) => Promise<{ deposit: bigint; settled: bigint[] }>

/** What an account's credit works with; `now` in milliseconds. */
export type CreditDeps = {
  sql: SqlStorage
  now: () => number
  funds: FundsReader
  /** Asks a mailbox to give back what it does not need. Throws where it cannot be reached. */
  recall: (runner: Hex) => Promise<Returned>
}

/** How long a lease is good for, in milliseconds. */
const leaseMs = 60_000
/** How old what the chain said may be, in milliseconds: while credit suffices, and once it does not. */
const freshMs = 15_000
const freshWhenShortMs = 1_000
/** A mailbox gets at most this part of what is left at a time, unless it needs more: others want some too. */
const share = 4n

type ChannelRow = { channel: Hex; runner: Hex; spent: string; settled: string; void_at: number }
type LeaseRow = { runner: Hex; turn: number; held: string; expires_at: number; void_at: number }

const larger = (a: bigint, b: bigint) => (a > b ? a : b)

/** Keeps one buyer's credit: what runners may still be handed is the deposit, less what their receipts claim beyond what was settled, less what mailboxes hold. Nothing is counted in two places at once; what a mailbox holds is let go of once nothing of it can be claimed, should it never be heard of again. */
export class Credit {
  readonly #deps: CreditDeps
  #deposit = 0n
  #readAt = Number.NEGATIVE_INFINITY
  #last: Promise<unknown> = Promise.resolve()

  constructor(deps: CreditDeps) {
    this.#deps = deps
  }

  /** Tells whether anything was ever leased of this account: asking about any address must not make the edge store anything. */
  get #known(): boolean {
    return this.#rows(`SELECT name FROM sqlite_master WHERE name = 'leases'`).length > 0
  }

  #prepare(): void {
    this.#deps.sql.exec(`CREATE TABLE IF NOT EXISTS spent (
        channel TEXT PRIMARY KEY, runner TEXT NOT NULL, spent TEXT NOT NULL, settled TEXT NOT NULL, void_at INTEGER NOT NULL);
      CREATE TABLE IF NOT EXISTS leases (
        runner TEXT PRIMARY KEY, turn INTEGER NOT NULL, held TEXT NOT NULL, expires_at INTEGER NOT NULL, void_at INTEGER NOT NULL)`)
  }

  /** Takes a mailbox's account of itself and leases it more. Throws what reading the chain throws, and for a question that was overtaken; nothing is granted then. */
  lease(request: LeaseRequest): Promise<LeaseAnswer> {
    // One at a time: between reading what is left and giving it away nothing else may.
    return this.#inTurn(async () => {
      if (!this.#known) {
        const { deposit } = await this.#deps.funds([])
        if (deposit < request.least || deposit === 0n) return { available: deposit }
        this.#prepare()
      }
      this.#take(request)
      if (this.#deps.now() - this.#readAt > freshMs) await this.#read()
      if (this.#available < request.least) {
        await this.#recallExpired(request.runner)
        if (this.#deps.now() - this.#readAt > freshWhenShortMs) await this.#read()
      }
      const available = this.#available
      if (available < request.least) return { available: larger(available, 0n) }
      const granted = larger(request.least, request.wish < available / share ? request.wish : available / share)
      this.#hold({ ...request, held: request.open + granted, expiresAt: this.#deps.now() + leaseMs })
      return { granted, forMs: leaseMs }
    })
  }

  /** Shows the credit as it stands, as of the last reading of the chain. */
  view(): Promise<{ deposit: bigint; owed: bigint; leased: bigint; available: bigint }> {
    return this.#inTurn(async () => {
      if (!this.#known) {
        const { deposit } = await this.#deps.funds([])
        return { deposit, owed: 0n, leased: 0n, available: deposit }
      }
      await this.#read()
      const { owed, leased } = this.#sums()
      return { deposit: this.#deposit, owed, leased, available: larger(this.#available, 0n) }
    })
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#last.then(work)
    this.#last = next.catch(() => {})
    return next
  }

  #rows<R extends object>(query: string, ...values: (string | number)[]): R[] {
    return this.#deps.sql.exec(query, ...values).toArray() as unknown as R[]
  }

  /** What a mailbox says of itself replaces what was known of it. */
  #take({ runner, turn, open, channels, voidAt }: LeaseRequest): void {
    const [before] = this.#rows<LeaseRow>('SELECT * FROM leases WHERE runner = ?', runner)
    if (before && turn <= before.turn) throw new Error('The question was overtaken by a later one.')
    this.#note(runner, channels)
    const until = Math.max(voidAt, before?.void_at ?? 0)
    this.#hold({ runner, turn, held: open, expiresAt: this.#deps.now() + leaseMs, voidAt: until })
  }

  #note(runner: Hex, channels: readonly ChannelSpent[]): void {
    for (const { channel, spent, voidAt } of channels) {
      const [known] = this.#rows<ChannelRow>('SELECT * FROM spent WHERE channel = ?', channel)
      this.#deps.sql.exec(
        'INSERT OR REPLACE INTO spent (channel, runner, spent, settled, void_at) VALUES (?, ?, ?, ?, ?)',
        channel,
        runner,
        // A total only grows: an older word that comes late changes nothing.
        String(larger(spent, BigInt(known?.spent ?? 0))),
        known?.settled ?? '0',
        voidAt,
      )
    }
  }

  #hold({
    runner,
    turn,
    held,
    expiresAt,
    voidAt,
  }: {
    runner: Hex
    turn: number
    held: bigint
    expiresAt: number
    voidAt: number
  }): void {
    this.#deps.sql.exec(
      'INSERT OR REPLACE INTO leases (runner, turn, held, expires_at, void_at) VALUES (?, ?, ?, ?, ?)',
      runner,
      turn,
      String(held),
      expiresAt,
      voidAt,
    )
  }

  #sums(): { owed: bigint; leased: bigint } {
    const sum = (rows: { amount: bigint }[]) => rows.reduce((total, { amount }) => total + amount, 0n)
    const leased = sum(this.#rows<LeaseRow>('SELECT * FROM leases').map(({ held }) => ({ amount: BigInt(held) })))
    const owed = sum(
      this.#rows<ChannelRow>('SELECT * FROM spent').map(({ spent, settled }) => ({
        amount: larger(BigInt(spent) - BigInt(settled), 0n),
      })),
    )
    return { owed, leased }
  }

  get #available(): bigint {
    const { owed, leased } = this.#sums()
    return this.#deposit - owed - leased
  }

  /** Reads the chain, and lets go of what can no longer be claimed. */
  async #read(): Promise<void> {
    const { sql, now, funds } = this.#deps
    const seconds = Math.floor(now() / 1000)
    for (const table of ['spent', 'leases']) sql.exec(`DELETE FROM ${table} WHERE void_at <= ?`, seconds)
    const channels = this.#rows<ChannelRow>('SELECT * FROM spent').filter(
      ({ spent, settled }) => BigInt(spent) > BigInt(settled),
    )
    const { deposit, settled } = await funds(channels.map(({ channel }) => channel))
    channels.forEach(({ channel }, at) => {
      sql.exec('UPDATE spent SET settled = ? WHERE channel = ?', String(settled[at]!), channel)
    })
    this.#deposit = deposit
    this.#readAt = now()
  }

  /** Asks mailboxes whose lease is over for what they do not need. One that cannot be asked keeps what it has. */
  async #recallExpired(asking: Hex): Promise<void> {
    const { now, recall } = this.#deps
    for (const row of this.#rows<LeaseRow>('SELECT * FROM leases WHERE expires_at <= ?', now())) {
      const { runner, turn, held, void_at: voidAt } = row
      if (runner === asking || BigInt(held) === 0n) continue
      let returned: Returned
      try {
        returned = await recall(runner)
      } catch {
        continue
      }
      this.#note(runner, returned.channels)
      this.#hold({ runner, turn, held: returned.open, expiresAt: now(), voidAt })
    }
  }
}
