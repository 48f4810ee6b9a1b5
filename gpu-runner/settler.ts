import { type Hex, toHex } from '../protocol/bytes.ts'
import type { JournalTotal } from './journal.ts'
import type { Log } from './log.ts'
import { type SettleDeps, type Settlement, settleJournal } from './settle.ts'
import {
  type SettlementDecision,
  type SettlementPolicy,
  type SettlementState,
  settlementDue,
} from './settlementPolicy.ts'

/** How long after their terms' end the escrow still takes claims, in seconds (`Escrow.CLAIM_WINDOW`). */
const claimWindowSeconds = 86_400

/** How often the journal is looked at, in seconds. */
const lookSeconds = 10

/** Holds what a settler works with; `now` in milliseconds, `registrationEnd` in unix seconds. */
export type SettlerDeps = SettleDeps & {
  policy: SettlementPolicy
  registrationEnd: () => number
  now: () => number
  log: Log
}

/** Claims a runner's earnings when its policy says so, one claim at a time. */
export class Settler {
  readonly #deps: SettlerDeps
  /** What the chain is known to have paid, by channel. */
  readonly #settled = new Map<Hex, bigint>()
  #triedAt: number
  #lookedAt = Number.NEGATIVE_INFINITY
  #claims = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(deps: SettlerDeps) {
    this.#deps = {
      ...deps,
      noteSettled: (channel, buyer, settled) => {
        this.#settled.set(channel, settled)
        deps.noteSettled(channel, buyer, settled)
      },
    }
    this.#triedAt = this.#now()
  }

  #now(): number {
    return Math.floor(this.#deps.now() / 1000)
  }

  /** Counts the transactions that claimed something. */
  get claims(): number {
    return this.#claims
  }

  /** Claims everything now. Two at a time would claim the same sums, so each waits for the one before. Throws what settling throws. */
  settle(): Promise<Settlement> {
    const next = this.#last.then(async () => {
      this.#triedAt = this.#now()
      const settlement = await settleJournal(this.#deps)
      this.#claims += settlement.transactions.length
      return settlement
    })
    this.#last = next.catch(() => {})
    return next
  }

  /** Claims if it is time to. Gives why, or why not; null where it looked a moment ago. Throws what settling throws. */
  async look(): Promise<SettlementDecision | null> {
    if (this.#now() - this.#lookedAt < lookSeconds) return null
    return this.#act(false)
  }

  /** Claims what is unsettled before the runner goes, whatever gas costs. Gives why, or that nothing is. Throws what settling throws. */
  stop(): Promise<SettlementDecision> {
    return this.#act(true)
  }

  async #act(stopping: boolean): Promise<SettlementDecision> {
    this.#lookedAt = this.#now()
    const decision = await this.#decide(stopping)
    if (!decision.due) return decision
    const { channels, transactions } = await this.settle()
    this.#deps.log('settled', { because: decision.because, channels, transactions: transactions.length })
    return decision
  }

  async #decide(stopping: boolean): Promise<SettlementDecision> {
    const { policy, registrationEnd, chain } = this.#deps
    const now = this.#now()
    const unsettled = await this.#unsettled(now)
    const state: SettlementState = {
      unsettled: unsettled.reduce((sum, { amount }) => sum + amount, 0n),
      termsEnd: unsettled.length > 0 ? Math.min(...unsettled.map(({ terms }) => Number(terms.expiresAt))) : null,
      registrationEnd: registrationEnd(),
      gas: null,
      triedAt: this.#triedAt,
      stopping,
    }
    const decision = settlementDue(state, policy, now)
    // The price is asked only where it decides.
    return decision.due ? settlementDue({ ...state, gas: await chain.gasPrice() }, policy, now) : decision
  }

  /** Lists what channels may still claim. What the chain has paid is asked once a channel and then known from claiming: where others claim for this runner it is less, and claiming finds out. */
  async #unsettled(now: number): Promise<(JournalTotal & { amount: bigint })[]> {
    const { journal, chain } = this.#deps
    const list: (JournalTotal & { amount: bigint })[] = []
    for (const total of journal.totals()) {
      if (total.terms.expiresAt + BigInt(claimWindowSeconds) < BigInt(now)) continue
      const owed = total.cumulative < total.vouched ? total.cumulative : total.vouched
      if (owed === 0n) continue
      const id = toHex(total.channel)
      const known = this.#settled.get(id) ?? (await chain.settledOf(id))
      this.#settled.set(id, known)
      if (owed > known) list.push({ ...total, amount: owed - known })
    }
    return list
  }
}
