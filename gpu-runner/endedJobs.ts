/** How far below the highest job number seen a new one may lie, so that parallel requests can arrive in any order. */
export const jobWindow = 1_024n

/** Slots a ring begins with, and those it doubles to at most: one for each number of the window. */
const fewest = 16
const most = Number(jobWindow)

/**
 * Remembers the sealed bodies' digests of jobs that ended, as far back as a new job may lie, in a ring: within the window no two numbers share
 * a slot. Each job pushes one out, so a map would be built anew all the time, and keep its old tables alive (`RenewedMap`).
 */
export class EndedJobs {
  #jobs: (bigint | null)[] = []
  #digests: string[] = []

  /** Gives a job's digest, or undefined where the job did not end or lies a window or more below one that did. */
  get(job: bigint): string | undefined {
    const slot = slotOf(job, this.#jobs.length)
    return this.#jobs[slot] === job ? this.#digests[slot] : undefined
  }

  /** Remembers a job, unless one a window or more above it has its place. */
  set(job: bigint, digest: string): void {
    while (this.#isTakenFor(job) && this.#jobs.length < most) this.#grow()
    const slot = slotOf(job, this.#jobs.length)
    const there = this.#jobs[slot]!
    if (there !== null && there > job) return
    this.#jobs[slot] = job
    this.#digests[slot] = digest
  }

  /** Tells whether no job is remembered. */
  get empty(): boolean {
    return this.#jobs.length === 0
  }

  /** Forgets every job, and gives the memory back. */
  clear(): void {
    this.#jobs = []
    this.#digests = []
  }

  /** Tells whether another job has the place of this one. */
  #isTakenFor(job: bigint): boolean {
    if (this.#jobs.length === 0) return true
    const there = this.#jobs[slotOf(job, this.#jobs.length)]!
    return there !== null && there !== job
  }

  #grow(): void {
    const jobs = this.#jobs
    const digests = this.#digests
    const slots = Math.max(fewest, jobs.length * 2)
    this.#jobs = Array(slots).fill(null)
    this.#digests = Array(slots).fill('')
    for (const [at, job] of jobs.entries()) {
      if (job === null) continue
      const slot = slotOf(job, slots)
      this.#jobs[slot] = job
      this.#digests[slot] = digests[at]!
    }
  }
}

const slotOf = (job: bigint, slots: number) => Number(BigInt.asUintN(10, job)) & (slots - 1)
