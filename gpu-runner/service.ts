import { equalBytes, type Hex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import { contextId, direction, envelopeInfo, envelopeKeys } from '../protocol/envelope.ts'
import { type Execution, executionDigest } from '../protocol/execution.ts'
import type { Cancel, JobRequest, RefusalReason } from '../protocol/frames.ts'
import { type HpkeKeyPair, setupRecipient } from '../protocol/hpke.ts'
import type { Listing } from '../protocol/listing.ts'
import type { Manifest } from '../protocol/manifest.ts'
import { checkTensors, decodeBody, saltOf, TensorError } from '../protocol/oip.ts'
import { jobStatus } from '../protocol/receipt.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import { type Tensor, tensorCommitment } from '../protocol/tensors.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import { type Channel, checkJob, checkTerms, type Finished, isTooOld, newChannel, noteEnded, rest } from './channels.ts'
import { byteText, digestText } from './digestText.ts'
import { Batcher, type QueuedRun, type RunResult } from './engine/batcher.ts'
import { RunDeadlineError } from './engine/executor.ts'
import { Funds, type FundsReader } from './funds.ts'
import { type Journal, JournalError } from './journal.ts'
import type { LinkResult } from './link.ts'
import type { Log } from './log.ts'
import type { Meter } from './meter.ts'
import { createNativeEnvelope, type NativeEnvelope } from './nativeEnvelope.ts'
import { type AcceptedJob, answerOf, type Outcome, Recorder } from './recorder.ts'
import { createRecoverer } from './signer.ts'

/** Holds a model this runner serves: what was listed, what the publisher feeds, how it is executed, and the engine's way to run it. */
export type ServedModel = {
  digest: Hex
  manifest: Manifest
  listing: Listing
  fixed: Tensor[]
  execution: Execution
  /** The numbers of rows a run may have, ascending; none where each job runs as it was sent. */
  batchSizes: readonly number[]
  run: (feeds: Tensor[], deadlineMs: number) => Promise<Tensor[]>
  /** How many of its jobs are taken on at once; as many as the runner's own, unless told. */
  capacity?: number
}

/** Reads the chain for what a runner must know before it works on credit. */
export type ChainReader = FundsReader & {
  /** Asks a contract wallet (ERC-1271); null when the buyer has no code. */
  contractSignature(buyer: Hex, digest: Uint8Array, signature: Uint8Array): Promise<boolean | null>
  /** Tells how much a key may still spend for a buyer in a channel of a model; 0 without a mandate. `at` in unix seconds. */
  mandateLeft(asked: { buyer: Hex; key: Hex; model: Hex; channel: Hex; at: number }): Promise<bigint>
}

/** Most channels kept that nobody has vouched for. */
const maxUnproven = 4_096

/** Most sealing contexts of a channel. */
const maxContexts = 64

/** How long new jobs are refused after the journal could not be written, in milliseconds; the next one tries it. */
const journalRestMs = 2_000

/** Opens a channel's envelope from an encapsulated key. Throws EncodingError on a key that is none. */
export type OpenEnvelope = (channel: Uint8Array, enc: Uint8Array) => Promise<NativeEnvelope>

/** Makes envelopes under the runner's HPKE key: one key encapsulation for each channel and context. */
export function envelopeOpener(hpke: HpkeKeyPair): OpenEnvelope {
  return async (channel, enc) =>
    createNativeEnvelope(channel, await envelopeKeys(await setupRecipient(hpke, enc, envelopeInfo(channel))))
}

/** Holds what the service needs; clock in milliseconds. */
export type ServiceDeps = {
  domain: Domain
  feeBps: number
  signer: Signer
  openEnvelope: OpenEnvelope
  journal: Journal
  chain: ChainReader
  log: Log
  meter?: Meter
  now: () => number
  /** How many runs of a model may be under way at a time; 1 unless told. */
  parallel?: number
  capacity: number
}

type Refused = { refusal: { reason: RefusalReason; detail: string } }

const refusal = (reason: RefusalReason, detail: string): Refused => ({ refusal: { reason, detail } })
const recoverAddress = createRecoverer()

type Served = { model: ServedModel; batcher: Batcher<AcceptedJob>; execution: Uint8Array; inFlight: number }

/** Takes sealed jobs to signed answers: accept, open, run, commit, journal, sign. One instance is one attested key. */
export class JobService {
  readonly #deps: ServiceDeps
  readonly #models = new Map<Hex, Served>()
  readonly #channels = new Map<string, Channel>()
  /** The channel found last, as long as it is one of them. */
  #latest: Channel | null = null
  /** Keys of channels nobody has vouched for yet, oldest first. */
  readonly #unproven = new Set<string>()
  readonly #funds: Funds
  readonly #recorder: Recorder
  #inFlight = 0
  #idle: (() => void)[] = []
  #draining = false
  #journalFailedAt = Number.NEGATIVE_INFINITY

  constructor(deps: ServiceDeps) {
    this.#deps = deps
    const { domain, signer, journal, chain, now, meter } = deps
    this.#funds = new Funds(chain, now)
    this.#recorder = new Recorder({ domain, signer, journal, now, ...(meter ? { meter } : {}) })
  }

  /** Starts serving a model. */
  serve(model: ServedModel): void {
    const batcher = new Batcher<AcceptedJob>({
      run: this.#metered(model.run),
      // Not waited for: the engine takes the next jobs while the disk takes these.
      finish: async (results) => this.#record(results.map(({ tag, result }) => outcomeOf(tag, result))),
      batchSizes: model.batchSizes,
      parallel: this.#deps.parallel ?? 1,
      now: this.#deps.now,
    })
    this.#models.set(model.digest, { model, batcher, execution: executionDigest(model.execution), inFlight: 0 })
  }

  /** Hands outcomes to the recorder, from where nothing takes them back. What was cancelled gets no receipt. */
  #record(outcomes: readonly Outcome[]): void {
    const wanted = outcomes.filter(({ job }) => job.stage === 'open')
    for (const { job } of wanted) job.stage = 'recorded'
    if (wanted.length > 0) this.#recorder.push(wanted)
  }

  #metered(run: ServedModel['run']): ServedModel['run'] {
    const { meter } = this.#deps
    if (!meter) return run
    return async (feeds, deadlineMs) => {
      const started = performance.now()
      try {
        return await run(feeds, deadlineMs)
      } finally {
        meter.ran(feeds[0]?.shape[0] ?? 1, performance.now() - started)
      }
    }
  }

  /** Lists the digests served. */
  get models(): Hex[] {
    return [...this.#models.keys()]
  }

  /** Counts the jobs accepted and not yet answered. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** Counts the jobs waiting for the engine. */
  get waiting(): number {
    let sum = 0
    for (const { batcher } of this.#models.values()) sum += batcher.waiting
    return sum
  }

  /** Tells whether no new job is taken. */
  get draining(): boolean {
    return this.#draining
  }

  /** Tells whether the journal refused the last batch, not long ago. */
  get journalFailing(): boolean {
    return this.#deps.now() - this.#journalFailedAt < journalRestMs
  }

  /** Takes no new job from now on and waits for those accepted. */
  async drain(): Promise<void> {
    this.#draining = true
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Takes note of what the chain has paid of a channel, which frees as much of the buyer's deposit. */
  noteSettled(channel: Hex, buyer: Hex, settled: bigint): void {
    this.#funds.noteSettled(channel, buyer, settled)
  }

  /** Handles the requests of one message, and gives each result to `reply` when it is there; never throws. */
  handleAll(requests: readonly JobRequest[], reply: (result: LinkResult) => void): void {
    if (requests.length > 1) this.#takeHighestVouchers(requests)
    for (const request of requests) this.#handle(request, reply)
  }

  /** Lets go of a job nobody waits for any more: one that has no receipt yet is refused and costs nothing. */
  cancel({ channel, job }: Cancel): void {
    this.#channels.get(byteText(channel))?.running.get(job)?.cancel()
  }

  /** Handles one request; never throws. */
  handle(request: JobRequest): Promise<LinkResult> {
    return new Promise((resolve) => this.#handle(request, resolve))
  }

  #handle(request: JobRequest, reply: (result: LinkResult) => void) {
    const { ticket } = request
    const end = (finished: Finished) => {
      if ('answer' in finished) {
        const { receipt, detail, signature, proof, body, frame } = finished.answer
        return reply({ ticket, receipt, detail, signature, proof, body, frame })
      }
      this.#deps.meter?.refused(finished.refusal.reason)
      reply({ ticket, ...finished.refusal })
    }
    const fail = (error: unknown) => {
      this.#deps.log('job_failed', { message: error instanceof Error ? error.message : 'unknown' })
      end(refusal('job_lost', 'The runner could not finish the job; nothing was charged.'))
    }
    try {
      const channel = this.#channelOf(request)
      if ('refusal' in channel) return end(channel)
      const bodyHash = digestText(request.body)
      if (this.#endsEarly(channel, request.job, bodyHash, end)) return
      const envelope = this.#openAtOnce(channel, request)
      if (envelope) return this.#begin(channel, request, bodyHash, envelope, end)
      const begin = (opened: NativeEnvelope | Refused) => {
        if ('refusal' in opened) return end(opened)
        // While this one waited, a copy of the job may have come.
        if (!this.#endsEarly(channel, request.job, bodyHash, end)) this.#begin(channel, request, bodyHash, opened, end)
      }
      this.#open(channel, request).then(begin).catch(fail)
    } catch (error) {
      fail(error)
    }
  }

  /** Finds the envelope of a request that nothing needs to be waited for: nearly every one. */
  #openAtOnce(channel: Channel, request: JobRequest): NativeEnvelope | null {
    const known = this.#contextAtOnce(channel, request.context)
    if (!known) return null
    const { buyer, price } = channel.terms
    if (price > 0n && !this.#funds.covers(buyer, price)) return null
    return isHigher(request, channel) && !this.#takeBuyersVoucher(channel, request.voucher!) ? null : known
  }

  #contextAtOnce(channel: Channel, id: Uint8Array): NativeEnvelope | null {
    if (channel.latest && equalBytes(channel.latest.context, id)) return channel.latest.envelope
    const known = channel.contexts.get(byteText(id))
    if (!known || known instanceof Promise) return null
    channel.latest = { context: id.slice(), envelope: known }
    return known
  }

  /** Does all that a request may have to wait for: a voucher of a wallet or a mandate, the buyer's deposit, a new sealing context. */
  async #open(channel: Channel, request: JobRequest): Promise<NativeEnvelope | Refused> {
    const bad = isHigher(request, channel) ? await this.#takeVoucher(channel, request) : null
    if (bad) return bad
    const context = this.#contextOf(channel, request)
    if ('refusal' in context) return context
    const envelope = context.envelope instanceof Promise ? await context.envelope.catch(() => null) : context.envelope
    if (!envelope) return refusal('bad_seal', 'The encapsulated key is not a point of X25519.')
    // Last, for a settlement noted while anything else is waited for makes what was read of the deposit old.
    const { buyer, price } = channel.terms
    if (price > 0n && !this.#funds.covers(buyer, price)) await this.#funds.refresh(buyer, channel.hex)
    return envelope
  }

  /** Deals with a job that is not to begin: it ended, is being run, or there is no room. Tells whether it did. */
  #endsEarly(channel: Channel, job: bigint, bodyHash: string, end: (finished: Finished) => void): boolean {
    const early = this.#settledAlready(channel, job, bodyHash) ?? this.#refuseAll()
    if (early === 'joins') channel.running.get(job)!.waiting.push(end)
    else if (early) end(early)
    return early !== null
  }

  /** Answers a job that ended, tells that one is being run, or refuses one whose number cannot be used; null for one to begin. */
  #settledAlready(channel: Channel, job: bigint, bodyHash: string): Finished | 'joins' | null {
    const { journal, now } = this.#deps
    const ended = channel.ended.get(job)
    const old = ended === undefined && isTooOld(channel, job) ? journal.find(channel.id, job) : null
    const known = ended ?? (old ? byteText(old.bodyHash) : null)
    const decision = checkJob(channel, job, bodyHash, known, Math.floor(now() / 1000))
    if (decision === 'join') return 'joins'
    if (decision === 'replay') {
      const entry = old ?? journal.find(channel.id, job)
      return entry ? { answer: answerOf(entry) } : refusal('job_too_old', `The answer of job ${job} is no longer kept.`)
    }
    // A voucher that covers the job may come with it.
    if (decision === 'run' || decision.refused === 'insufficient_cover') return null
    return refusal(decision.refused, decision.detail)
  }

  /** Refuses any new job while there is no room, no way to record it, or no tomorrow; null otherwise. */
  #refuseAll(): Refused | null {
    const { capacity } = this.#deps
    if (this.#draining) return refusal('draining', 'The runner is shutting down; ask another.')
    if (this.#inFlight >= capacity) return refusal('at_capacity', `The runner has ${this.#inFlight} jobs in hand.`)
    if (this.journalFailing) return refusal('at_capacity', 'The runner cannot record jobs at the moment; ask another.')
    return null
  }

  #begin(
    channel: Channel,
    request: JobRequest,
    bodyHash: string,
    envelope: NativeEnvelope,
    reply: (finished: Finished) => void,
  ) {
    // Nothing from here to the reservation waits, so two copies of a job cannot both pass.
    const { job } = request
    const served = this.#models.get(channel.terms.model)
    const refused = this.#refuse(channel, job, bodyHash, served)
    if (refused || !served) return reply(refused ?? refusal('unknown_model', 'The runner stopped serving this model.'))
    let plaintext: Uint8Array
    try {
      plaintext = envelope.open(job, direction.request, request.body)
    } catch {
      return reply(refusal('bad_seal', 'The body was not sealed to this runner for this channel and job.'))
    }

    this.#unproven.delete(channel.key)
    const begun = performance.now()
    const waiting = [reply]
    const end = (result: Finished) => {
      served.inFlight--
      this.#end(channel, job, bodyHash, result)
      for (const tell of waiting) tell(result)
    }
    const accepted: AcceptedJob = {
      channel,
      job,
      bodyHash,
      envelope,
      input: noCommitment,
      execution: served.execution,
      begun,
      stage: 'open',
      done: (answer) => {
        this.#deps.meter?.answered(answer.receipt.status, performance.now() - begun)
        end({ answer })
      },
      failed: (error) => {
        this.#deps.log('job_failed', { message: error.message })
        if (error instanceof JournalError) this.#journalFailedAt = this.#deps.now()
        end(refusal('job_lost', 'The runner could not record the job; nothing was charged.'))
      },
    }
    served.inFlight++
    this.#reserve(channel, job)
    let queued: QueuedRun<AcceptedJob> | null = null
    const cancel = () => {
      if (accepted.stage !== 'open') return
      accepted.stage = 'cancelled'
      // The batcher does not run what is late.
      if (queued) queued.deadline = 0
      end(refusal('cancelled', 'The job was cancelled before it was answered; nothing was charged.'))
    }
    channel.running.set(job, { bodyHash, waiting, cancel })
    queued = this.#run(served, accepted, plaintext, request.deadlineMs)
  }

  /** Refuses a job that is not covered, not funded, or too many; null for one to run. */
  #refuse(channel: Channel, job: bigint, bodyHash: string, served: Served | undefined): Refused | null {
    const { price, buyer } = channel.terms
    const decision = checkJob(channel, job, bodyHash, null, Math.floor(this.#deps.now() / 1000))
    if (typeof decision === 'object') return refusal(decision.refused, decision.detail)
    if (price > 0n && !this.#funds.covers(buyer, price)) {
      const { deposit, owed } = this.#funds.known(buyer)
      return refusal('unfunded', `The buyer's deposit is ${deposit}; ${owed + price} is needed. Deposit more.`)
    }
    if (served && served.inFlight >= (served.model.capacity ?? Number.POSITIVE_INFINITY))
      return refusal('at_capacity', `The runner has ${served.inFlight} jobs of this model in hand.`)
    return null
  }

  #reserve(channel: Channel, job: bigint): void {
    const { buyer, price } = channel.terms
    this.#inFlight++
    channel.reserved += price
    this.#funds.earn(channel.hex, buyer, price)
    if (job > channel.highestJob) channel.highestJob = job
  }

  #end(channel: Channel, job: bigint, bodyHash: string, result: Finished): void {
    const { buyer, price } = channel.terms
    const charged = 'answer' in result ? result.answer.detail.price : 0n
    this.#inFlight--
    channel.reserved -= price
    channel.running.delete(job)
    if (charged !== price) this.#funds.earn(channel.hex, buyer, charged - price)
    if ('answer' in result) noteEnded(channel, job, bodyHash)
    if (this.#inFlight === 0) for (const resolve of this.#idle.splice(0)) resolve()
  }

  #run({ model, batcher }: Served, job: AcceptedJob, plaintext: Uint8Array, deadlineMs: number) {
    try {
      const body = decodeBody('inputs', plaintext)
      if (body.error !== undefined) throw new TensorError('A request carries tensors, not an error.')
      const feeds = model.fixed.length > 0 ? [...body.tensors, ...model.fixed] : body.tensors
      job.input = tensorCommitment(saltOf(body), feeds)
      checkTensors(body.tensors, model.manifest.inputs)
      const queued = { tag: job, feeds: body.tensors, deadline: this.#deps.now() + deadlineMs }
      batcher.push(queued)
      return queued
    } catch (error) {
      const message = error instanceof Error ? error.message : 'The request cannot be read.'
      this.#record([{ job, status: jobStatus.badInput, outputs: [], error: message }])
      return null
    }
  }

  /** Finds a request's channel, or takes up a new one from its opening. */
  #channelOf({ channel: id, opening }: JobRequest): Channel | Refused {
    // Jobs of a message are mostly of one channel, and comparing bytes costs less than making a key of them.
    if (this.#latest && equalBytes(this.#latest.id, id)) return this.#latest
    const key = byteText(id)
    const known = this.#channels.get(key)
    if (known) {
      this.#latest = known
      return known
    }
    if (!opening) return refusal('unknown_context', 'Send the opening: this runner does not know the channel.')
    const { domain, feeBps, signer, now } = this.#deps
    const listing = this.#models.get(opening.terms.model)?.model.listing ?? null
    const refused = checkTerms(opening.terms, id, {
      domain,
      runner: signer.address,
      listing,
      feeBps,
      now: Math.floor(now() / 1000),
    })
    if (refused) return refusal(refused.refused, refused.detail)
    const channel = newChannel(id, opening.terms, key)
    this.#channels.set(key, channel)
    this.#unproven.add(key)
    this.#forgetUnproven()
    return channel
  }

  /** Finds a request's sealing context, or takes up a new one from its opening. */
  #contextOf(channel: Channel, request: JobRequest): { envelope: NativeEnvelope | Promise<NativeEnvelope> } | Refused {
    const { opening, context } = request
    const key = byteText(context)
    const known = channel.contexts.get(key)
    if (known) return { envelope: known }
    if (!opening)
      return refusal('unknown_context', 'Send the opening again: this runner does not know the sealing context.')
    if (!equalBytes(contextId(opening.enc), context))
      return refusal('bad_frame', 'The context id is not that of the encapsulated key.')
    if (channel.contexts.size >= maxContexts)
      return refusal('bad_terms', `A channel takes at most ${maxContexts} sealing contexts; open another.`)
    // Terms are public once a channel has settled: a context is taken only from whoever can vouch for its first job.
    if (!this.#vouchesForItself(channel, request))
      return refusal('insufficient_cover', 'A new sealing context comes with a voucher that covers its job.')
    const opened = this.#deps.openEnvelope(channel.id, opening.enc).then(
      (envelope) => {
        channel.contexts.set(key, envelope)
        return envelope
      },
      (error: unknown) => {
        channel.contexts.delete(key)
        throw error
      },
    )
    channel.contexts.set(key, opened)
    return { envelope: opened }
  }

  #vouchesForItself(channel: Channel, { voucher }: JobRequest): boolean {
    const { price, buyer } = channel.terms
    if (price === 0n) return true
    if (!voucher || voucher.cumulative < channel.cumulative + channel.reserved + price) return false
    if (channel.voucher?.cumulative === voucher.cumulative && equalBytes(channel.voucher.signature, voucher.signature))
      return true
    return recoverAddress(this.#voucherDigest(channel, voucher.cumulative), voucher.signature) === buyer
  }

  /** Lets go of the oldest channels that nobody has vouched for: openings are free, so their number must be bounded. */
  #forgetUnproven(): void {
    for (const key of this.#unproven) {
      if (this.#unproven.size <= maxUnproven) return
      this.#unproven.delete(key)
      this.#forget(key)
    }
  }

  /** Forgets channels whose terms ended before `termsBefore`, in unix seconds: they can neither be worked in nor claimed any more. Called now and then: what did not stir since the last time is left to the journal. */
  prune(termsBefore: number): void {
    for (const [key, channel] of this.#channels) {
      rest(channel)
      if (channel.terms.expiresAt >= BigInt(termsBefore) || channel.running.size > 0) continue
      this.#forget(key)
      this.#unproven.delete(key)
      this.#funds.forget(channel.hex)
    }
  }

  #forget(key: string): void {
    this.#channels.delete(key)
    if (this.#latest?.key === key) this.#latest = null
  }

  #voucherDigest({ hex }: Channel, cumulative: bigint): Uint8Array {
    return voucherDigest(this.#deps.domain, { channel: hex, cumulative })
  }

  /** Verifies the highest voucher of each channel in a message, so that those below it need no look. One that is not good is left to its own job. */
  #takeHighestVouchers(requests: readonly JobRequest[]): void {
    const highest = new Map<Channel, NonNullable<JobRequest['voucher']>>()
    for (const request of requests) {
      const channel = this.#channelOf(request)
      const { voucher } = request
      if ('refusal' in channel || !voucher || !isHigher(request, channel)) continue
      if (voucher.cumulative > (highest.get(channel)?.cumulative ?? 0n)) highest.set(channel, voucher)
    }
    for (const [channel, voucher] of highest) this.#takeBuyersVoucher(channel, voucher)
  }

  /** Verifies a voucher by the buyer's own key. Tells whether it is now the channel's. */
  #takeBuyersVoucher(channel: Channel, { cumulative, signature }: NonNullable<JobRequest['voucher']>): boolean {
    if (recoverAddress(this.#voucherDigest(channel, cumulative), signature) !== channel.terms.buyer) return false
    channel.voucher = { cumulative, signature: signature.slice() }
    return true
  }

  /** Verifies a voucher higher than any before, whoever may have signed it. Gives a refusal, or null. */
  async #takeVoucher(channel: Channel, { voucher }: JobRequest): Promise<Refused | null> {
    const cumulative = voucher!.cumulative
    const signature = voucher!.signature.slice()
    const { chain } = this.#deps
    const { buyer } = channel.terms
    const digest = this.#voucherDigest(channel, cumulative)
    const key = recoverAddress(digest, signature)
    if (key !== buyer && (await chain.contractSignature(buyer, digest, signature)) !== true) {
      const refused = await this.#refuseMandate(channel, key, cumulative)
      if (refused) return refused
    }
    if (cumulative > (channel.voucher?.cumulative ?? 0n)) channel.voucher = { cumulative, signature }
    return null
  }

  /** Checks that a key which is not the buyer's may sign for this much (a mandate in the escrow). Gives a refusal, or null. */
  async #refuseMandate({ hex, terms }: Channel, key: Hex | null, cumulative: bigint): Promise<Refused | null> {
    const { chain, now } = this.#deps
    const asked = { buyer: terms.buyer, model: terms.model, channel: hex, at: Math.floor(now() / 1000) }
    const left = key ? await chain.mandateLeft({ ...asked, key }) : 0n
    if (left === 0n)
      return refusal('bad_voucher', 'The voucher is signed neither by the buyer nor by a key with a mandate.')
    return cumulative - (await chain.settledOf(hex)) > left
      ? refusal('insufficient_cover', `The mandate of this key leaves ${left}.`)
      : null
  }
}

const noCommitment = new Uint8Array(32)

const isHigher = ({ voucher }: JobRequest, channel: Channel) =>
  voucher !== undefined && voucher.cumulative > (channel.voucher?.cumulative ?? 0n)

function outcomeOf(job: AcceptedJob, result: RunResult): Outcome {
  if ('outputs' in result) return { job, status: jobStatus.ok, outputs: result.outputs }
  const status = result.error instanceof RunDeadlineError ? jobStatus.deadline : jobStatus.modelError
  return { job, status, outputs: [], error: result.error.message }
}
