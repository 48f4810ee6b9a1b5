import type { ListingJson } from '../services/models.ts'
import { Loads } from './loads.ts'
import type { Candidate } from './requirements.ts'
import { Snapshot } from './snapshot.ts'

/** How old a snapshot may be before it is read again behind the answer, in milliseconds. */
const freshMs = 2_000
/** How long one reading may take before another caller starts its own, in milliseconds. */
const readMs = 2_000
/** Most models remembered in one isolate. */
const maxModels = 1_000

/** Reads the directory's truth. `runnersOf` gives at most what one isolate should hold, and says when there are more. */
export type DirectoryReader = {
  runnersOf(model: string): Promise<{ candidates: Candidate[]; sampled: boolean }>
  listingOf(model: string): Promise<ListingJson | null>
  countOnline(): Promise<number>
}

type Clock = { now: () => number; sleep: (ms: number) => Promise<void> }

/** Caches the directory in one isolate, a snapshot a model. Only the first question about a model waits for the database; later ones are answered from memory while a newer copy is fetched behind them, for as long as the database is away. */
export class Directory {
  readonly #snapshots = new Map<string, Snapshot>()
  readonly #listings = new Map<string, ListingJson>()
  readonly #readingSince = new Map<string, number>()
  readonly #reader: DirectoryReader
  readonly #clock: Clock
  readonly loads = new Loads()

  constructor(reader: DirectoryReader, clock: Clock) {
    this.#reader = reader
    this.#clock = clock
  }

  /** Gives a model's listing, which never changes for a digest, or null. Throws what the reader throws. */
  async listing(model: string): Promise<ListingJson | null> {
    const known = this.#listings.get(model)
    if (known) return known
    const listing = await this.#reader.listingOf(model)
    if (listing) remember(this.#listings, model, listing)
    return listing
  }

  /** Gives the runners of a model; `later` keeps a reading behind the answer alive. Throws what the reader throws when nothing is known yet. */
  async snapshot(model: string, later: (work: Promise<unknown>) => void): Promise<Snapshot> {
    const known = this.#snapshots.get(model)
    if (!known) return this.#first(model)
    // A reading that fails leaves the older snapshot standing: its runners' attestations carry their own end.
    if (this.#clock.now() - known.readAt >= freshMs && !this.#reading(model)) later(this.read(model).catch(() => {}))
    return known
  }

  /** Gives a snapshot at most `maxAgeMs` old. Throws what the reader throws. */
  async newer(model: string, maxAgeMs: number): Promise<Snapshot> {
    const known = this.#snapshots.get(model)
    return known && this.#clock.now() - known.readAt < maxAgeMs ? known : this.read(model)
  }

  /** Waits for a reading another request has begun, and reads itself when that one takes too long. */
  async #first(model: string): Promise<Snapshot> {
    // Requests of one isolate must not wait on each other's promises: one that is cancelled would leave the rest waiting.
    while (this.#reading(model)) {
      await this.#clock.sleep(10)
      const snapshot = this.#snapshots.get(model)
      if (snapshot) return snapshot
    }
    return this.read(model)
  }

  /** Counts the runners online, whatever they serve; asked only when a model has none. */
  countOnline(): Promise<number> {
    return this.#reader.countOnline()
  }

  #reading(model: string): boolean {
    const since = this.#readingSince.get(model)
    return since !== undefined && this.#clock.now() - since < readMs
  }

  /** Reads the runners of a model now. */
  async read(model: string): Promise<Snapshot> {
    const { now } = this.#clock
    const startedAt = now()
    this.#readingSince.set(model, startedAt)
    try {
      const { candidates, sampled } = await this.#reader.runnersOf(model)
      const snapshot = new Snapshot(candidates, { loads: this.loads, readAt: now(), sampled })
      remember(this.#snapshots, model, snapshot)
      return snapshot
    } finally {
      if (this.#readingSince.get(model) === startedAt) this.#readingSince.delete(model)
    }
  }
}

function remember<T>(map: Map<string, T>, key: string, value: T): void {
  map.delete(key)
  map.set(key, value)
  if (map.size > maxModels) map.delete(map.keys().next().value!)
}
