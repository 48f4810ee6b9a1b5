import type { Loads } from './loads.ts'
import { type Candidate, type MismatchReason, type Miss, missesOf, type Requirements } from './requirements.ts'

/** What a model that is only on disk costs in a comparison: as much as a runner with all its slots taken. */
const coldPenalty = 1
/** Draws tried before every candidate is looked at. */
const maxDraws = 8
/** Most sets of requirements remembered in one snapshot. */
const maxRemembered = 256

/** Holds the runners that serve one model, as they were when the directory was read. */
export class Snapshot {
  readonly candidates: readonly Candidate[]
  /** When it was read, in milliseconds. */
  readonly readAt: number
  /** Whether there are more runners than were read. */
  readonly sampled: boolean
  readonly #loads: Loads
  readonly #slots: Uint32Array
  readonly #fitting = new Map<string, Uint32Array>()

  constructor(
    candidates: readonly Candidate[],
    { loads, readAt, sampled = false }: { loads: Loads; readAt: number; sampled?: boolean },
  ) {
    this.candidates = candidates
    this.readAt = readAt
    this.sampled = sampled
    this.#loads = loads
    this.#slots = Uint32Array.from(candidates, ({ signer, capacity }) => loads.slotOf(signer, capacity))
    for (const slot of this.#slots) loads.decay(slot, readAt)
  }

  /** Draws two random runners that fit, by their places here; one when only one is found, none when none fits. `now` in unix seconds. */
  draw({ exclude, ...wanted }: Requirements, now: number, random: () => number): number[] {
    const fitting = this.#fittingOf(wanted, now)
    const usable = (index: number) => {
      const { signer, validUntil } = this.candidates[index]!
      return validUntil > now && (exclude === undefined || !exclude.includes(signer))
    }
    const size = fitting.length
    for (let draw = 0; draw < maxDraws && size > 0; draw++) {
      const first = Math.floor(random() * size)
      // The second is another one: drawing the same twice would be no choice.
      const second = size === 1 ? first : (first + 1 + Math.floor(random() * (size - 1))) % size
      const drawn = first === second ? [fitting[first]!] : [fitting[first]!, fitting[second]!]
      const kept = drawn.filter(usable)
      if (kept.length > 0) return kept
    }
    const left = fitting.filter(usable)
    return left.length === 0 ? [] : [left[Math.floor(random() * left.length)]!]
  }

  /** Takes the less loaded of those drawn, and counts the job that is on its way to it. */
  take(drawn: readonly number[]): Candidate {
    let lightest = drawn[0]!
    for (const index of drawn) if (this.#cost(index) < this.#cost(lightest)) lightest = index
    this.#loads.anticipate(this.#slots[lightest]!)
    return this.candidates[lightest]!
  }

  /** Chooses the less loaded of two random runners that fit: nearly as even as asking all, at the cost of two. Gives null when none fits; `now` in unix seconds. */
  choose(requirements: Requirements, now: number, random: () => number): Candidate | null {
    const drawn = this.draw(requirements, now, random)
    return drawn.length === 0 ? null : this.take(drawn)
  }

  /** Lists those drawn whose load nobody has told lately; `now` in milliseconds. */
  unheard(drawn: readonly number[], now: number, maxAgeMs: number): Candidate[] {
    return drawn
      .filter((index) => !this.#loads.isFresh(this.#slots[index]!, now, maxAgeMs))
      .map((index) => this.candidates[index]!)
  }

  /** Tells whether every one of those drawn is known to be away. */
  allAway(drawn: readonly number[]): boolean {
    return drawn.every((index) => this.#loads.at(this.#slots[index]!) === Number.POSITIVE_INFINITY)
  }

  #cost(index: number): number {
    return this.#loads.at(this.#slots[index]!) + (this.candidates[index]!.warm ? 0 : coldPenalty)
  }

  /** Lists the runners that fit, worked out once per set of requirements: a snapshot lives for seconds, so ages may stand still. */
  #fittingOf(wanted: Requirements, now: number): Uint32Array {
    const key = JSON.stringify(wanted)
    let fitting = this.#fitting.get(key)
    if (fitting) return fitting
    const indices: number[] = []
    this.candidates.forEach((candidate, index) => {
      if (missesOf(candidate, wanted, now).length === 0) indices.push(index)
    })
    fitting = Uint32Array.from(indices)
    if (this.#fitting.size >= maxRemembered) this.#fitting.clear()
    this.#fitting.set(key, fitting)
    return fitting
  }

  /** Counts what the runners miss, one runner under each of its reasons, and names the one that misses least; of two that miss as much, the one with more at stake. */
  explain(
    wanted: Requirements,
    now: number,
  ): { reasons: { reason: MismatchReason; count: number }[]; nearest: { signer: string; misses: Miss[] } | null } {
    const counts = new Map<MismatchReason, number>()
    let nearest: { signer: string; misses: Miss[] } | null = null
    let staked = 0n
    for (const candidate of this.candidates) {
      const misses = missesOf(candidate, wanted, now)
      for (const { reason } of misses) counts.set(reason, (counts.get(reason) ?? 0) + 1)
      const { signer, stake } = candidate
      const fewer = nearest === null || misses.length < nearest.misses.length
      if (misses.length === 0 || !(fewer || (misses.length === nearest!.misses.length && stake.amount > staked)))
        continue
      nearest = { signer, misses }
      staked = stake.amount
    }
    return { reasons: [...counts].map(([reason, count]) => ({ reason, count })), nearest }
  }
}
