import { joinFrames } from '../../protocol/frames.ts'
import type { MailboxNamespace, Relayed } from '../platform.ts'
import { outcomesOf } from './relayTogether.ts'

/** Longest job that shares a call, in bytes: what is large pays for its own call, and a call shared in vain costs little. */
const maxSharedBytes = 64 * 1024
/** Most jobs of one call. */
const maxJobs = 256
/** Most bytes of one call. */
const maxCallBytes = 1024 * 1024
/** Longest a job waits for a call it shares, in milliseconds: longer than a mailbox takes to return one, so that it only passes when who made the call is gone. */
const sharedMs = 12_000
/** Longest a call gathers jobs, in milliseconds, should whoever has to make it be gone. */
const gatheringMs = 1_000

/** What a carrier needs: the mailboxes, the clock in milliseconds, and timers; `after` gives what stops one. */
export type CarrierDeps = {
  mailbox: MailboxNamespace
  now: () => number
  after: (ms: number, run: () => void) => () => void
}

/** Hands one job to a runner's mailbox and gives what becomes of it; `keepAlive` keeps the request alive for those that share its call. */
export type Carry = (runner: string, body: ArrayBuffer, keepAlive: (work: Promise<void>) => void) => Promise<Relayed>

/** One call to be made: its jobs, and what becomes of them, or null where nothing is known of it. */
type Call = { jobs: Uint8Array[]; bytes: number; openedAt: number; ended: Promise<(Relayed | null)[] | null> }
type Lane = { underWay: number; gathering: Call | null }

/** Carries the jobs of one isolate to the mailboxes. While a call to a mailbox is under way, the next jobs for it are gathered for one turn and share a call, since a call costs many times what a job does. A job whose shared call brings it no answer asks by itself: the mailbox joins the two. */
export class Carrier {
  readonly #deps: CarrierDeps
  readonly #lanes = new Map<string, Lane>()

  constructor(deps: CarrierDeps) {
    this.#deps = deps
  }

  /** Carries one job. Throws what the mailbox's call throws. */
  readonly carry: Carry = async (runner, body, keepAlive) => {
    const lane = this.#laneOf(runner)
    if (lane.underWay === 0 || body.byteLength > maxSharedBytes) return this.#alone(lane, runner, body)
    const call = this.#gather(lane, runner, body.byteLength, keepAlive)
    const place = call.jobs.push(new Uint8Array(body)) - 1
    call.bytes += body.byteLength
    const ended = await this.#within(sharedMs, call.ended)
    return ended?.[place] ?? this.#alone(lane, runner, body)
  }

  #laneOf(runner: string): Lane {
    const known = this.#lanes.get(runner)
    if (known) return known
    const lane: Lane = { underWay: 0, gathering: null }
    this.#lanes.set(runner, lane)
    return lane
  }

  #stub(runner: string) {
    const { mailbox } = this.#deps
    return mailbox.get(mailbox.idFromName(runner))
  }

  /** Counts a call while it is under way. */
  async #counted<T>(lane: Lane, runner: string, call: () => Promise<T>): Promise<T> {
    lane.underWay++
    try {
      return await call()
    } finally {
      if (--lane.underWay === 0 && !lane.gathering && this.#lanes.get(runner) === lane) this.#lanes.delete(runner)
    }
  }

  #alone(lane: Lane, runner: string, body: ArrayBuffer): Promise<Relayed> {
    return this.#counted(lane, runner, () => this.#stub(runner).job(runner, body))
  }

  /** Gives the call that a job of so many bytes can still join, or opens one. */
  #gather(lane: Lane, runner: string, bytes: number, keepAlive: (work: Promise<void>) => void): Call {
    const { now, after } = this.#deps
    const open = lane.gathering
    const fits = open && open.jobs.length < maxJobs && open.bytes + bytes <= maxCallBytes
    if (fits && now() - open.openedAt <= gatheringMs) return open
    const call: Call = { jobs: [], bytes: 0, openedAt: now(), ended: Promise.resolve(null) }
    call.ended = new Promise((resolve) => {
      after(0, () => {
        if (lane.gathering === call) lane.gathering = null
        // A call that fails says nothing of its jobs: each asks by itself, and hears the same or better.
        void this.#counted(lane, runner, () => this.#together(runner, call.jobs)).then(resolve, () => resolve(null))
      })
    })
    lane.gathering = call
    // Its buyer may hang up; the others must not lose their call for it.
    keepAlive(call.ended.then(() => {}))
    return call
  }

  async #together(runner: string, jobs: Uint8Array[]): Promise<(Relayed | null)[]> {
    const together = await this.#stub(runner).jobs(runner, joinFrames(jobs).buffer)
    return outcomesOf(together).map((outcome) => outcome && { ...together.load, ...outcome })
  }

  /** Waits so long for what may never be known, and gives null then. */
  async #within<T>(ms: number, work: Promise<T | null>): Promise<T | null> {
    let stop = () => {}
    const late = new Promise<null>((resolve) => {
      stop = this.#deps.after(ms, () => resolve(null))
    })
    const ended = await Promise.race([work, late])
    // Stopped in this request's own turn: where `work` ends it is that of whoever made the call.
    stop()
    return ended
  }
}
