/** How long a runner's own word about its load stands before it counts for less, in milliseconds. */
const staleMs = 5_000

/** Remembers how loaded runners are, in columns, so that a choice reads two numbers and nothing else. Load is jobs in hand / jobs taken at once. */
export class Loads {
  readonly #slots = new Map<string, number>()
  #load = new Float64Array(1_024)
  #capacity = new Float64Array(1_024)
  #notedAt = new Float64Array(1_024)

  /** Gives a runner's place in the columns; `capacity` is how many jobs it takes at once. */
  slotOf(signer: string, capacity: number): number {
    let slot = this.#slots.get(signer)
    if (slot === undefined) {
      slot = this.#slots.size
      this.#slots.set(signer, slot)
      if (slot === this.#load.length) this.#grow()
    }
    this.#capacity[slot] = Math.max(1, capacity)
    return slot
  }

  #grow(): void {
    const grown = (column: Float64Array) => {
      const wider = new Float64Array(column.length * 2)
      wider.set(column)
      return wider
    }
    this.#load = grown(this.#load)
    this.#capacity = grown(this.#capacity)
    this.#notedAt = grown(this.#notedAt)
  }

  /** Reads the load at a slot. */
  at(slot: number): number {
    return this.#load[slot]!
  }

  /** Takes a runner's word for its load; `now` in milliseconds. */
  note(signer: string, { queued, capacity }: { queued: number; capacity: number }, now: number): void {
    const slot = this.#slots.get(signer)
    if (slot === undefined) return
    this.#capacity[slot] = Math.max(1, capacity)
    this.#load[slot] = queued / this.#capacity[slot]!
    this.#notedAt[slot] = now
  }

  /** Notes that a runner is not connected: any other is better. */
  noteAway(signer: string, now: number): void {
    const slot = this.#slots.get(signer)
    if (slot === undefined) return
    this.#load[slot] = Number.POSITIVE_INFINITY
    this.#notedAt[slot] = now
  }

  /** Tells whether a runner's word is at most `maxAgeMs` old. */
  isFresh(slot: number, now: number, maxAgeMs: number): boolean {
    return now - this.#notedAt[slot]! <= maxAgeMs
  }

  /** Counts one job more on the way to a runner: until it speaks itself, nobody else tells this isolate. */
  anticipate(slot: number): void {
    this.#load[slot] = this.#load[slot]! + 1 / this.#capacity[slot]!
  }

  /** Halves what is believed of a runner that has said nothing lately; `now` in milliseconds. */
  decay(slot: number, now: number): void {
    if (now - this.#notedAt[slot]! <= staleMs) return
    const load = this.#load[slot]!
    this.#load[slot] = Number.isFinite(load) ? load / 2 : 0
  }
}
