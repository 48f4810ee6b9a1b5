import { type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import type { RefusalReason } from '../protocol/frames.ts'
import type { Listing } from '../protocol/listing.ts'
import { RenewedMap } from '../protocol/renewedMap.ts'
import { channelOf, type Terms } from '../protocol/terms.ts'
import { EndedJobs, jobWindow } from './endedJobs.ts'
import type { NativeEnvelope } from './nativeEnvelope.ts'
import type { RecordedAnswer } from './recorder.ts'

/** Refuses a job before it runs, with what the buyer should know. */
export type JobRefused = { refused: RefusalReason; detail: string }

/** Tells how a job ended for its buyer: an answer with a receipt, or a refusal. */
export type Finished = { answer: RecordedAnswer } | { refusal: { reason: RefusalReason; detail: string } }

/** Holds what a runner knows of one channel. Amounts in the token's smallest unit. */
export type Channel = {
  id: Uint8Array
  /** The id as the key of a map. */
  key: string
  hex: Hex
  terms: Terms
  voucher: { cumulative: bigint; signature: Uint8Array } | null
  /** Sum of the prices of jobs that finished well and are on disk. */
  cumulative: bigint
  /** Sum of the prices of jobs accepted and not yet finished. */
  reserved: bigint
  highestJob: bigint
  /** Jobs being run, with the digests of their sealed bodies, whom to tell how they end, and what lets go of them. */
  running: RenewedMap<bigint, { bodyHash: string; waiting: ((finished: Finished) => void)[]; cancel: () => void }>
  /** Digests of the sealed bodies of jobs that ended, as far back as a new job may lie. */
  ended: EndedJobs
  /** Up to this number only the journal knows which jobs ended; one it does not know may have been, so it is not begun. */
  forgotten: bigint
  /** Whether a job ended since the last look. */
  stirred: boolean
  /** Sealing contexts by their id, or on their way. */
  contexts: Map<string, NativeEnvelope | Promise<NativeEnvelope>>
  /** The context used last. */
  latest: { context: Uint8Array; envelope: NativeEnvelope } | null
}

/** Makes a channel that has done nothing. */
export function newChannel(id: Uint8Array, terms: Terms, key: string): Channel {
  return {
    id: id.slice(),
    key,
    hex: toHex(id),
    terms,
    voucher: null,
    cumulative: 0n,
    reserved: 0n,
    highestJob: 0n,
    running: new RenewedMap(),
    ended: new EndedJobs(),
    forgotten: -1n,
    stirred: false,
    contexts: new Map(),
    latest: null,
  }
}

/** Tells whether a job number lies too far below the highest seen to begin, or among those only the journal knows. */
export const isTooOld = (channel: Channel, job: bigint) =>
  job + jobWindow <= channel.highestJob || job <= channel.forgotten

/** Remembers that a job ended; those too old to begin again are left to the journal. */
export function noteEnded(channel: Channel, job: bigint, bodyHash: string): void {
  channel.ended.set(job, bodyHash)
  channel.stirred = true
}

/** Leaves what a channel at rest did to the journal: there may be very many of them. */
export function rest(channel: Channel): void {
  if (!channel.stirred && channel.running.size === 0 && !channel.ended.empty) {
    channel.ended.clear()
    channel.forgotten = channel.highestJob
  }
  channel.stirred = false
}

const refuse = (refused: RefusalReason, detail: string): JobRefused => ({ refused, detail })

/** Checks terms against this runner and the listing its publisher signed. Gives a refusal or null; pure, `now` in unix seconds. */
export function checkTerms(
  terms: Terms,
  claimedChannel: Uint8Array,
  {
    domain,
    runner,
    listing,
    feeBps,
    now,
  }: { domain: Domain; runner: Hex; listing: Listing | null; feeBps: number; now: number },
): JobRefused | null {
  if (channelOf(domain, terms) !== toHex(claimedChannel))
    return refuse('bad_terms', 'The channel is not the digest of these terms on this chain.')
  if (terms.runner !== runner) return refuse('bad_terms', `These terms are for runner ${terms.runner}.`)
  if (!listing) return refuse('unknown_model', `This runner does not serve ${terms.model}.`)
  if (terms.price !== listing.price)
    return refuse('wrong_price', `The listing's price is ${listing.price}, the terms say ${terms.price}.`)
  if (terms.royaltyBps !== listing.royaltyBps || terms.publisher !== listing.payout.toLowerCase()) {
    return refuse('bad_terms', 'Royalty or payout differ from the signed listing.')
  }
  if (terms.feeBps !== feeBps)
    return refuse('bad_terms', `The fee is ${feeBps} basis points, the terms say ${terms.feeBps}.`)
  // A job that finishes after the terms expire is never paid, so one that could is not begun.
  if (terms.expiresAt < BigInt(now) + 60n)
    return refuse('expired_terms', `The terms expire at ${terms.expiresAt}; open a new channel.`)
  return null
}

/** Decides about a job in an open channel. `known` is the digest of the sealed body if the job has finished before. Pure: reserving is the caller's. */
export function checkJob(
  channel: Channel,
  job: bigint,
  bodyHash: string,
  known: string | null,
  now: number,
): JobRefused | 'run' | 'join' | 'replay' {
  const conflict = () => refuse('job_conflict', `Job ${job} was used with another body; take a new number.`)
  if (known !== null) return known === bodyHash ? 'replay' : conflict()
  const running = channel.running.get(job)
  if (running) return running.bodyHash === bodyHash ? 'join' : conflict()
  if (isTooOld(channel, job))
    return refuse('job_too_old', `Job ${job} lies too far below ${channel.highestJob}; take a higher number.`)
  if (channel.terms.expiresAt < BigInt(now) + 60n)
    return refuse('expired_terms', `The terms expire at ${channel.terms.expiresAt}; open a new channel.`)
  const due = channel.cumulative + channel.reserved + channel.terms.price
  const covered = channel.voucher?.cumulative ?? 0n
  if (due > covered) return refuse('insufficient_cover', `The voucher covers ${covered}; this job needs ${due}.`)
  return 'run'
}
