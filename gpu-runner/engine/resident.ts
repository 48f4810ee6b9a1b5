/** Keeps account of what a process holds in memory: the least recently used leave when a budget, in bytes, is passed. */
export class Resident {
  readonly #budget: number
  /** Oldest use first. */
  readonly #bytes = new Map<string, number>()

  constructor(budget: number) {
    this.#budget = budget
  }

  get digests(): string[] {
    return [...this.#bytes.keys()]
  }

  get total(): number {
    let sum = 0
    for (const bytes of this.#bytes.values()) sum += bytes
    return sum
  }

  has(digest: string): boolean {
    return this.#bytes.has(digest)
  }

  /** Notes a use. */
  touch(digest: string): void {
    const bytes = this.#bytes.get(digest)
    if (bytes === undefined) return
    this.#bytes.delete(digest)
    this.#bytes.set(digest, bytes)
  }

  add(digest: string, bytes: number): void {
    this.#bytes.set(digest, bytes)
  }

  remove(digest: string): void {
    this.#bytes.delete(digest)
  }

  /** Lists what must leave, oldest first, before as many bytes more fit. What is larger than the whole budget is let in alone. */
  leavingFor(bytes: number): string[] {
    const leaving: string[] = []
    let total = this.total
    for (const [digest, size] of this.#bytes) {
      if (total + bytes <= this.#budget) break
      leaving.push(digest)
      total -= size
    }
    return leaving
  }
}
