import { type Hex, toHex } from '../protocol/bytes.ts'
import type { Journal } from './journal.ts'

/** How long a sum over the journal is relied on, in milliseconds: whoever watches asks more often than it changes. */
const freshMs = 5_000

/** Adds up what was earned, beside what the chain has paid of it. Amounts in the token's smallest unit; clock in milliseconds. */
export class Earnings {
  readonly #journal: Pick<Journal, 'totals'>
  readonly #now: () => number
  #settled = new Map<Hex, bigint>()
  #sum: { claimable: bigint; settled: bigint } | null = null
  #readAt = 0

  constructor(journal: Pick<Journal, 'totals'>, now: () => number) {
    this.#journal = journal
    this.#now = now
  }

  /** Takes note of what the chain has paid of a channel in all. */
  noteSettled(channel: Hex, settled: bigint): void {
    this.#settled.set(channel, settled)
    this.#sum = null
  }

  /** Gives what receipt and voucher both cover and the chain has not paid, and what it has. */
  read(): { claimable: bigint; settled: bigint } {
    if (this.#sum && this.#now() - this.#readAt < freshMs) return this.#sum
    let claimable = 0n
    let settled = 0n
    // What the journal has let go of is let go of here.
    const known = new Map<Hex, bigint>()
    for (const { channel, vouched, cumulative } of this.#journal.totals()) {
      const paid = this.#settled.get(toHex(channel)) ?? 0n
      if (paid > 0n) known.set(toHex(channel), paid)
      const earned = vouched < cumulative ? vouched : cumulative
      settled += paid
      if (earned > paid) claimable += earned - paid
    }
    this.#settled = known
    this.#readAt = this.#now()
    this.#sum = { claimable, settled }
    return this.#sum
  }
}
