/** Entries set before the first renewal, and after one of a map that has become small. */
const fewest = 64

/**
 * Keeps entries that come and go by the thousand, as jobs do, in the order they were set. It is a map that is copied into a fresh one now and
 * then, for V8 builds a map's table anew every so many entries and has the old table point at the next: once one has lived long enough to leave
 * the young generation, all that follow are kept alive behind it, with what they held, until a full collection. Its test
 * shows what a plain map keeps.
 */
export class RenewedMap<K, V> {
  #map = new Map<K, V>()
  #left = fewest

  /** Counts the entries. */
  get size(): number {
    return this.#map.size
  }

  get(key: K): V | undefined {
    return this.#map.get(key)
  }

  has(key: K): boolean {
    return this.#map.has(key)
  }

  /** Sets an entry; one that was there keeps its place. */
  set(key: K, value: V): void {
    if (--this.#left < 0) this.#renew()
    this.#map.set(key, value)
  }

  /** Removes an entry. Tells whether there was one. */
  delete(key: K): boolean {
    return this.#map.delete(key)
  }

  /** Gives the key set first, or undefined where there is none. */
  get oldest(): K | undefined {
    return this.#map.keys().next().value
  }

  /** Removes the entries set first, until no more than so many are left. */
  trim(most: number): void {
    while (this.size > most) this.delete(this.oldest!)
  }

  /** Lists the values as they are now. */
  values(): V[] {
    return [...this.#map.values()]
  }

  clear(): void {
    this.#map = new Map()
    this.#left = fewest
  }

  #renew(): void {
    const fresh = new Map<K, V>()
    for (const [key, value] of this.#map) fresh.set(key, value)
    this.#map = fresh
    this.#left = Math.max(fewest, 2 * fresh.size)
  }
}
