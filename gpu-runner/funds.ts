import type { Hex } from '../protocol/bytes.ts'

/** Reads what the chain knows of a buyer's money. Amounts in the token's smallest unit. */
export type FundsReader = {
  /** Reads what a buyer has deposited and not asked back. */
  depositOf(buyer: Hex): Promise<bigint>
  settledOf(channel: Hex): Promise<bigint>
}

/** How long a deposit that was read is relied on: a withdrawal takes longer than this to leave. */
const depositFreshMs = 60_000

type Buyer = { deposit: bigint; readAt: number; reading: Promise<void> | null; owed: bigint }
type Account = { buyer: Hex; earned: bigint; settled: bigint }

const owedOf = ({ earned, settled }: Account) => (earned > settled ? earned - settled : 0n)

/** Keeps what each buyer owes this runner beside what the chain holds for it, so that a job is not begun on credit nobody has. Clock in milliseconds. */
export class Funds {
  readonly #chain: FundsReader
  readonly #now: () => number
  readonly #buyers = new Map<Hex, Buyer>()
  readonly #accounts = new Map<Hex, Account>()

  constructor(chain: FundsReader, now: () => number) {
    this.#chain = chain
    this.#now = now
  }

  /** Tells whether a deposit read not long ago reaches for all that is owed and `price` more. */
  covers(buyer: Hex, price: bigint): boolean {
    const known = this.#buyers.get(buyer)
    return known !== undefined && this.#now() - known.readAt < depositFreshMs && known.owed + price <= known.deposit
  }

  /** Gives what is owed and what was last read, for saying what is missing. */
  known(buyer: Hex): { deposit: bigint; owed: bigint } {
    return this.#buyers.get(buyer) ?? { deposit: 0n, owed: 0n }
  }

  /** Reads a buyer's deposit anew, and what was settled of a channel; callers at the same time share one reading. Throws what the chain throws. */
  refresh(buyer: Hex, channel: Hex): Promise<void> {
    const known = this.#buyer(buyer)
    known.reading ??= this.#read(buyer, channel).finally(() => {
      known.reading = null
    })
    return known.reading
  }

  async #read(buyer: Hex, channel: Hex): Promise<void> {
    const readAt = this.#now()
    const [deposit, settled] = await Promise.all([this.#chain.depositOf(buyer), this.#chain.settledOf(channel)])
    this.#change(channel, buyer, (account) => {
      account.settled = settled
    })
    Object.assign(this.#buyer(buyer), { deposit, readAt })
  }

  /** Adds to what a channel earns: the price of a job taken on, or less than nothing for one that then cost nothing. */
  earn(channel: Hex, buyer: Hex, amount: bigint): void {
    this.#change(channel, buyer, (account) => {
      account.earned += amount
    })
  }

  /** Takes note of what the chain has paid of a channel: as much less is owed, and the deposit is no longer what it was. */
  noteSettled(channel: Hex, buyer: Hex, settled: bigint): void {
    const account = this.#accounts.get(channel)
    if (account?.settled === settled) return
    const known = this.#buyers.get(buyer)
    if (known) known.readAt = Number.NEGATIVE_INFINITY
    // What a predecessor of this runner earned was never counted here, so its payment takes nothing off.
    if (account)
      this.#change(channel, buyer, (own) => {
        own.settled = settled
      })
  }

  /** Forgets a channel that can be paid no more. */
  forget(channel: Hex): void {
    const account = this.#accounts.get(channel)
    if (!account) return
    this.#accounts.delete(channel)
    const known = this.#buyer(account.buyer)
    known.owed -= owedOf(account)
    for (const other of this.#accounts.values()) if (other.buyer === account.buyer) return
    this.#buyers.delete(account.buyer)
  }

  #buyer(buyer: Hex): Buyer {
    let known = this.#buyers.get(buyer)
    if (!known) {
      known = { deposit: 0n, readAt: Number.NEGATIVE_INFINITY, reading: null, owed: 0n }
      this.#buyers.set(buyer, known)
    }
    return known
  }

  #change(channel: Hex, buyer: Hex, change: (account: Account) => void): void {
    let account = this.#accounts.get(channel)
    if (!account) {
      account = { buyer, earned: 0n, settled: 0n }
      this.#accounts.set(channel, account)
    }
    const before = owedOf(account)
    change(account)
    this.#buyer(buyer).owed += owedOf(account) - before
  }
}
