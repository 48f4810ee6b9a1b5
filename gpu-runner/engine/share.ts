/** Rows from which a run is worth sharing, and milliseconds it must take: below, what surrounds a run costs more than overlapping it saves. */
const fewestRows = 16
const shortestMs = 1
/** Rests that the mean is of, about, and longer times of a run until they are half believed, about. */
const memory = 4
const doubt = 32
/** Part of a run that must be rested before anything is done about it, and that must then be gained. */
const noticed = 0.05
const worth = 0.1
/** Starts from rest after which a size not seen since is tried again. */
const staleAfter = 256

type Estimate = { ms: number; at: number }

/**
 * Decides how many of the rows at hand a run takes that is not the only one who could. Executors that have nothing to do share them, where a
 * run is long enough to be worth another. And when buyers wait for answers before they ask again, all
 * jobs meet in one run, and engine and everything around it take turns: each rests while the other works. Taken in two halves they overlap from
 * then on, which pays where a half costs little more than half the time. Whether it does is measured: runs by size, and rests between them.
 */
export class Share {
  readonly #runs: (Estimate | undefined)[] = []
  #restMs = 0
  #restedSince: number | null = null
  #starts = 0
  /** Rows of a half, as long as halves are taken. */
  #half: number | null = null

  /** Takes note of a run. Times in milliseconds. */
  ran(rows: number, ms: number): void {
    const size = sizeOf(rows)
    const old = this.#runs[size]
    // What a run takes is known late where the runner is busy, never early: so a shorter time is believed at once, a longer one slowly.
    const slower = old !== undefined && ms > old.ms
    this.#runs[size] = { ms: slower ? old.ms + (ms - old.ms) / doubt : ms, at: this.#starts }
  }

  /** Takes note that the engine has nothing to do from `at` on. */
  rests(at: number): void {
    this.#restedSince = at
  }

  /** Decides how many of the rows at hand each run now starting takes, where `lanes` can start; `resting` where none is under way. A trial is a run in two parts. */
  plan({ rows, lanes, resting, at }: { rows: number; lanes: number; resting: boolean; at: number }): {
    rows: number
    trial: boolean
  } {
    const each = lanes > 1 && this.#isLong(rows) ? Math.ceil(rows / lanes) : rows
    if (!resting || (this.#half !== null && each <= this.#half)) return { rows: this.next(each, lanes), trial: false }
    const way = this.#start(each, at)
    this.#half = way === 'halves' ? Math.ceil(each / 2) : null
    return { rows: this.#half ?? each, trial: way === 'trial' }
  }

  /** Tells how many rows are a half, as long as halves are taken and `next` may say less than all; null otherwise. */
  get half(): number | null {
    return this.#half
  }

  /** Decides how many of the rows at hand the next run takes: while halves are taken no more than a half, or the other would be done before this one's answers are dealt with. More rows than all halves had are a load that has grown. */
  next(rows: number, lanes: number): number {
    if (this.#half !== null && rows > 2 * lanes * this.#half) this.#half = null
    return Math.min(rows, this.#half ?? rows)
  }

  /** Tells whether a run of so many rows takes long enough to be worth two; one of fewer rows takes no longer. */
  #isLong(rows: number): boolean {
    const known = this.#runs.slice(0, sizeOf(rows) + 1).findLast((run) => run !== undefined)
    return known !== undefined && known.ms >= shortestMs
  }

  #start(rows: number, at: number): 'whole' | 'halves' | 'trial' {
    this.#starts++
    // A rest much longer than a run is nobody's waiting for answers: there was nothing to do.
    const whole = this.#runs[sizeOf(rows)]?.ms ?? 0
    const rest = this.#restedSince === null ? 0 : at - this.#restedSince
    this.#restedSince = null
    if (rest < 4 * whole) this.#restMs += (rest - this.#restMs) / memory
    if (rows < fewestRows || whole < shortestMs || this.#restMs < noticed * whole) return 'whole'
    const half = this.#runs[sizeOf(rows / 2)]
    if (!half || this.#starts - half.at > staleAfter) return 'trial'
    const extra = 2 * half.ms - whole
    return Math.min(this.#restMs, half.ms) - extra > worth * whole ? 'halves' : 'whole'
  }
}

/** Groups sizes by powers of two. */
const sizeOf = (rows: number) => Math.ceil(Math.log2(Math.max(1, rows)))
