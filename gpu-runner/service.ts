import { batchDigest } from '../protocol/batch.ts'
import { equalBytes, type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import {
  contextId,
  createEnvelope,
  direction,
  type Envelope,
  envelopeInfo,
  envelopeKeys,
} from '../protocol/envelope.ts'
import { type Execution, executionDigest } from '../protocol/execution.ts'
import type { JobAnswer, JobRefusal, JobRequest, RefusalReason } from '../protocol/frames.ts'
import { sha256 } from '../protocol/hash.ts'
import { type HpkeKeyPair, setupRecipient } from '../protocol/hpke.ts'
import type { Listing } from '../protocol/listing.ts'
import type { Manifest } from '../protocol/manifest.ts'
import { merkleTree } from '../protocol/merkle.ts'
import { checkTensors, decodeBody, encodeBody, encodeErrorBody, saltOf, TensorError } from '../protocol/oip.ts'
import { type Detail, detailDigest, jobStatus, type Receipt, receiptLeaf } from '../protocol/receipt.ts'
import { recoverAddress, type Signer } from '../protocol/secp256k1.ts'
import { type Tensor, tensorCommitment } from '../protocol/tensors.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import { type Channel, checkJob, checkTerms } from './channels.ts'
import { Batcher, type RunResult } from './engine/batcher.ts'
import { RunDeadlineError } from './engine/executor.ts'
import type { Journal, JournalEntry } from './journal.ts'
import type { Log } from './log.ts'

/** Holds a model this runner serves: what was listed, what the publisher feeds, how it is executed, and the engine's way to run it. */
export type ServedModel = {
  digest: Hex
  manifest: Manifest
  listing: Listing
  fixed: Tensor[]
  execution: Execution
  /** The numbers of rows at which jobs may share a run, ascending. */
  batchSizes: readonly number[]
  run: (feeds: Tensor[], deadlineMs: number) => Promise<Tensor[]>
}

/** Reads the chain for what a runner must know before it works on credit. */
export type ChainReader = {
  /** Reads what a buyer has deposited and not asked back. */
  depositOf(buyer: Hex): Promise<bigint>
  settledOf(channel: Hex): Promise<bigint>
  /** Asks a contract wallet (ERC-1271); null when the buyer has no code. */
  contractSignature(buyer: Hex, digest: Uint8Array, signature: Uint8Array): Promise<boolean | null>
  /** Tells how much a key may still spend for a buyer in a channel of a model; 0 without a mandate. `at` in unix seconds. */
  mandateLeft(asked: { buyer: Hex; key: Hex; model: Hex; channel: Hex; at: number }): Promise<bigint>
}

/** How long a deposit that was read is relied on: a withdrawal takes longer than this to leave. */
const depositFreshMs = 60_000

/** Most channels kept that nobody has vouched for. */
const maxUnproven = 4_096

/** Holds what the service needs; clock in milliseconds. */
export type ServiceDeps = {
  domain: Domain
  feeBps: number
  signer: Signer
  hpke: HpkeKeyPair
  journal: Journal
  chain: ChainReader
  log: Log
  now: () => number
  /** How many runs of a model may be under way at a time; 1 unless told. */
  parallel?: number
  capacity: number
}

type Finished = { answer: Omit<JobAnswer, 'ticket'> } | { refusal: Omit<JobRefusal, 'ticket'> }
type Tag = {
  channel: Channel
  job: bigint
  bodyHash: Uint8Array
  envelope: Envelope
  model: ServedModel
  input: Uint8Array
  resolve: (finished: Finished) => void
}
type Outcome = { tag: Tag; status: number; outputs: Tensor[]; error?: string }

const refusal = (reason: RefusalReason, detail: string): Finished => ({ refusal: { reason, detail } })

/** Takes sealed jobs to signed answers: accept, open, run, commit, journal, sign. One instance is one attested key. */
export class JobService {
  readonly #deps: ServiceDeps
  readonly #models = new Map<Hex, { model: ServedModel; batcher: Batcher<Tag>; execution: Uint8Array }>()
  readonly #channels = new Map<Hex, Channel>()
  /** Channels nobody has vouched for yet, oldest first. */
  readonly #unproven = new Set<Hex>()
  readonly #waiting = new Map<string, Promise<Finished>>()
  readonly #deposits = new Map<Hex, { amount: bigint; readAt: number }>()
  #draining = false

  constructor(deps: ServiceDeps) {
    this.#deps = deps
  }

  /** Starts serving a model. */
  serve(model: ServedModel): void {
    const batcher = new Batcher<Tag>({
      run: model.run,
      finish: (results) => this.#finish(results.map(({ tag, result }) => outcomeOf(tag, result))),
      batchSizes: model.batchSizes,
      fixed: model.fixed,
      parallel: this.#deps.parallel ?? 1,
      now: this.#deps.now,
    })
    this.#models.set(model.digest, { model, batcher, execution: executionDigest(model.execution) })
  }

  /** Lists the digests served. */
  get models(): Hex[] {
    return [...this.#models.keys()]
  }

  /** Counts the jobs accepted and not yet answered. */
  get inFlight(): number {
    return this.#waiting.size
  }

  /** Takes no new job from now on and waits for those accepted. */
  async drain(): Promise<void> {
    this.#draining = true
    await Promise.allSettled(this.#waiting.values())
  }

  /** Handles one request; never throws. */
  async handle(request: JobRequest): Promise<JobAnswer | JobRefusal> {
    let finished: Finished
    try {
      finished = await this.#accept(request)
    } catch (error) {
      this.#deps.log('job_failed', { message: error instanceof Error ? error.message : 'unknown' })
      finished = refusal('job_lost', 'The runner could not finish the job; nothing was charged.')
    }
    return 'answer' in finished
      ? { ticket: request.ticket, ...finished.answer }
      : { ticket: request.ticket, ...finished.refusal }
  }

  async #accept(request: JobRequest): Promise<Finished> {
    const opened = await this.#open(request)
    if ('refusal' in opened) return opened
    const { channel } = opened
    const bodyHash = sha256(request.body)
    const key = `${toHex(channel.id)}:${request.job}`
    const decide = () => {
      const known = this.#deps.journal.find(channel.id, request.job)
      return {
        known,
        decision: checkJob(
          channel,
          request.job,
          bodyHash,
          known?.bodyHash ?? null,
          Math.floor(this.#deps.now() / 1000),
        ),
      }
    }

    let { known, decision } = decide()
    if (decision === 'replay') return { answer: answerOf(known!) }
    if (decision === 'join') return this.#waiting.get(key)!
    const improved = await this.#takeVoucher(channel, request)
    if (improved) return improved
    const unfunded = await this.#checkFunds(channel)
    if (unfunded)
      return unfunded

      // Everything above may have waited; from here to the reservation nothing does, so two copies of a job cannot both pass.
    ;({ known, decision } = decide())
    if (decision === 'replay') return { answer: answerOf(known!) }
    if (decision === 'join') return this.#waiting.get(key)!
    if (decision !== 'run') return refusal(decision.refused, decision.detail)
    this.#prove(channel)
    if (this.#draining) return refusal('draining', 'The runner is shutting down; ask another.')
    if (this.#waiting.size >= this.#deps.capacity)
      return refusal('at_capacity', `The runner has ${this.#waiting.size} jobs in hand.`)
    const envelope = channel.contexts.get(toHex(request.context))
    if (!envelope)
      return refusal('unknown_context', 'Send the opening again: this runner does not know the sealing context.')

    channel.running.set(request.job, bodyHash)
    channel.reserved += channel.terms.price
    if (request.job > channel.highestJob) channel.highestJob = request.job
    const promise = this.#run(request, channel, bodyHash, envelope).finally(() => {
      channel.running.delete(request.job)
      channel.reserved -= channel.terms.price
      this.#waiting.delete(key)
    })
    this.#waiting.set(key, promise)
    return promise
  }

  async #open({
    channel: id,
    opening,
    context,
  }: JobRequest): Promise<{ channel: Channel } | { refusal: Omit<JobRefusal, 'ticket'> }> {
    const key = toHex(id)
    let channel = this.#channels.get(key)
    if (!channel) {
      if (!opening)
        return {
          refusal: { reason: 'unknown_context', detail: 'Send the opening: this runner does not know the channel.' },
        }
      const { domain, feeBps, signer, now } = this.#deps
      const listing = this.#models.get(opening.terms.model)?.model.listing ?? null
      const refused = checkTerms(opening.terms, id, {
        domain,
        runner: signer.address,
        listing,
        feeBps,
        now: Math.floor(now() / 1000),
      })
      if (refused) return { refusal: { reason: refused.refused, detail: refused.detail } }
      channel = {
        id: id.slice(),
        terms: opening.terms,
        voucher: null,
        cumulative: 0n,
        reserved: 0n,
        highestJob: 0n,
        running: new Map(),
        contexts: new Map(),
      }
      this.#channels.set(key, channel)
      this.#unproven.add(key)
      this.#forgetUnproven()
    }
    if (opening && !channel.contexts.has(toHex(context))) {
      if (!equalBytes(contextId(opening.enc), context))
        return { refusal: { reason: 'bad_frame', detail: 'The context id is not that of the encapsulated key.' } }
      if (channel.contexts.size >= 64)
        return {
          refusal: { reason: 'bad_terms', detail: 'A channel takes at most 64 sealing contexts; open another.' },
        }
      const hpke = await setupRecipient(this.#deps.hpke, opening.enc, envelopeInfo(channel.id))
      channel.contexts.set(toHex(context), await createEnvelope(channel.id, await envelopeKeys(hpke)))
    }
    return { channel }
  }

  /** Writes a channel down once a voucher covers a job of it: a stranger's openings never reach the disk. */
  #prove(channel: Channel): void {
    if (!this.#unproven.has(toHex(channel.id)) || !channel.voucher) return
    this.#deps.journal.saveChannel(channel.id, { terms: channel.terms, voucher: channel.voucher })
    this.#unproven.delete(toHex(channel.id))
  }

  /** Lets go of the oldest channels that nobody has vouched for: openings are free, so their number must be bounded. */
  #forgetUnproven(): void {
    for (const key of this.#unproven) {
      if (this.#unproven.size <= maxUnproven) return
      this.#unproven.delete(key)
      this.#channels.delete(key)
    }
  }

  /** Verifies a voucher if it is the highest yet. Gives a refusal, or null. */
  async #takeVoucher(channel: Channel, { voucher }: JobRequest): Promise<Finished | null> {
    if (!voucher || voucher.cumulative <= (channel.voucher?.cumulative ?? 0n)) return null
    const { domain, chain } = this.#deps
    const digest = voucherDigest(domain, { channel: toHex(channel.id), cumulative: voucher.cumulative })
    const signature = voucher.signature.slice()
    const { buyer } = channel.terms
    const key = signature.length === 65 ? recoverAddress(digest, signature) : null
    const good = key === buyer || (await chain.contractSignature(buyer, digest, signature)) === true
    if (!good) {
      const refused = await this.#refuseMandate(channel, key, voucher.cumulative)
      if (refused) return refused
    }
    if (voucher.cumulative > (channel.voucher?.cumulative ?? 0n))
      channel.voucher = { cumulative: voucher.cumulative, signature }
    return null
  }

  /** Checks that a key which is not the buyer's may sign for this much (a mandate in the escrow). Gives a refusal, or null. */
  async #refuseMandate({ id, terms }: Channel, key: Hex | null, cumulative: bigint): Promise<Finished | null> {
    const { chain, now } = this.#deps
    const channel = toHex(id)
    const left = key
      ? await chain.mandateLeft({ buyer: terms.buyer, key, model: terms.model, channel, at: Math.floor(now() / 1000) })
      : 0n
    if (left === 0n)
      return refusal('bad_voucher', 'The voucher is signed neither by the buyer nor by a key with a mandate.')
    return cumulative - (await chain.settledOf(channel)) > left
      ? refusal('insufficient_cover', `The mandate of this key leaves ${left}.`)
      : null
  }

  /** Checks that the buyer's deposit reaches for what this runner is owed and one job more; asks the chain only when what it knew does not suffice. */
  async #checkFunds(channel: Channel): Promise<Finished | null> {
    const { buyer, price } = channel.terms
    const owed = async () => {
      let sum = price
      for (const other of this.#channels.values()) {
        if (other.terms.buyer !== buyer) continue
        const total = other.cumulative + other.reserved
        if (total > 0n) sum += total - (this.#settled.get(toHex(other.id)) ?? 0n)
      }
      return sum
    }
    const { chain, now } = this.#deps
    const known = this.#deposits.get(buyer)
    if (known && now() - known.readAt < depositFreshMs && (await owed()) <= known.amount) return null
    const deposit = await chain.depositOf(buyer)
    this.#deposits.set(buyer, { amount: deposit, readAt: now() })
    this.#settled.set(toHex(channel.id), await chain.settledOf(toHex(channel.id)))
    const due = await owed()
    return due <= deposit
      ? null
      : refusal('unfunded', `The buyer's deposit is ${deposit}; ${due} is needed. Deposit more.`)
  }
  readonly #settled = new Map<Hex, bigint>()

  /** Tells the service what the chain has paid of a channel, which frees as much of the buyer's deposit. */
  noteSettled(channel: Hex, buyer: Hex, settled: bigint): void {
    this.#settled.set(channel, settled)
    this.#deposits.delete(buyer)
  }

  async #run(request: JobRequest, channel: Channel, bodyHash: Uint8Array, envelope: Envelope): Promise<Finished> {
    const served = this.#models.get(channel.terms.model)
    if (!served) return refusal('unknown_model', 'The runner stopped serving this model.')
    let plaintext: Uint8Array
    try {
      plaintext = await envelope.open(request.job, direction.request, request.body)
    } catch {
      return refusal('bad_seal', 'The body was not sealed to this runner for this channel and job.')
    }
    return new Promise((resolve) => {
      const tag: Tag = {
        channel,
        job: request.job,
        bodyHash,
        envelope,
        model: served.model,
        input: new Uint8Array(32),
        resolve,
      }
      const badInput = (error: string) => void this.#finish([{ tag, status: jobStatus.badInput, outputs: [], error }])
      let feeds: Tensor[]
      try {
        const body = decodeBody('inputs', plaintext)
        if (body.error !== undefined) throw new TensorError('A request carries tensors, not an error.')
        feeds = body.tensors
        tag.input = tensorCommitment(saltOf(body), [...feeds, ...served.model.fixed])
        checkTensors(body.tensors, served.model.manifest.inputs)
      } catch (error) {
        return badInput(error instanceof Error ? error.message : 'The request cannot be read.')
      }
      served.batcher.push({ tag, feeds, deadline: this.#deps.now() + request.deadlineMs })
    })
  }

  /** Turns the results of one engine batch into receipts under one signature, journals them, and only then lets the answers go. */
  async #finish(outcomes: Outcome[]): Promise<void> {
    try {
      const { signer, domain, journal, now } = this.#deps
      const prepared: { outcome: Outcome; receipt: Receipt; detail: Detail; answer: Uint8Array }[] = []
      const totals = new Map<Channel, bigint>()
      for (const outcome of outcomes) {
        const { tag, status } = outcome
        const { channel } = tag
        const ok = status === jobStatus.ok
        const price = ok ? channel.terms.price : 0n
        const output = ok
          ? tensorCommitment(await tag.envelope.outputSalt(tag.job), outcome.outputs)
          : new Uint8Array(32)
        const plaintext = ok ? encodeBody('outputs', outcome.outputs) : encodeErrorBody(outcome.error ?? 'failed')
        const answer = await tag.envelope.seal(tag.job, direction.answer, plaintext)
        const execution = this.#models.get(tag.model.digest)!.execution
        const detail: Detail = { input: tag.input, output, execution, price }
        prepared.push({
          outcome,
          detail,
          answer,
          receipt: {
            channel: channel.id,
            job: tag.job,
            status,
            cumulative: 0n,
            finishedAt: 0n,
            detail: detailDigest(detail),
          },
        })
      }
      // No waiting between reading a running total and raising it: two batches of one channel would otherwise claim the same sum.
      const finishedAt = BigInt(Math.floor(now() / 1000))
      for (const { outcome, receipt, detail } of prepared) {
        const { channel } = outcome.tag
        const total = (totals.get(channel) ?? channel.cumulative) + detail.price
        totals.set(channel, total)
        receipt.cumulative = total
        receipt.finishedAt = finishedAt
      }
      const before = new Map([...totals.keys()].map((channel) => [channel, channel.cumulative]))
      for (const [channel, total] of totals) channel.cumulative = total
      const { root, proofs } = merkleTree(prepared.map(({ receipt }) => receiptLeaf(receipt)))
      try {
        const signature = await signer.sign(batchDigest(domain, { root, count: prepared.length }))
        const entries: JournalEntry[] = prepared.map(({ outcome, receipt, detail, answer }, index) => ({
          channel: outcome.tag.channel.id,
          job: outcome.tag.job,
          bodyHash: outcome.tag.bodyHash,
          receipt,
          detail,
          signature,
          proof: proofs[index]!,
          answer,
        }))
        const vouchers = [...totals.keys()].flatMap(({ id, voucher }) => (voucher ? [{ channel: id, ...voucher }] : []))
        journal.commit(entries, vouchers)
        prepared.forEach(({ outcome }, index) => {
          outcome.tag.resolve({ answer: answerOf(entries[index]!) })
        })
      } catch (error) {
        for (const [channel, total] of before) channel.cumulative -= totals.get(channel)! - total
        throw error
      }
    } catch (error) {
      this.#deps.log('batch_failed', {
        jobs: outcomes.length,
        message: error instanceof Error ? error.message : 'unknown',
      })
      for (const { tag } of outcomes)
        tag.resolve(refusal('job_lost', 'The runner could not record the job; nothing was charged.'))
    }
  }
}

function outcomeOf(tag: Tag, result: RunResult): Outcome {
  if ('outputs' in result) return { tag, status: jobStatus.ok, outputs: result.outputs }
  const status = result.error instanceof RunDeadlineError ? jobStatus.deadline : jobStatus.modelError
  return { tag, status, outputs: [], error: result.error.message }
}

/** Turns a journalled job back into the answer that was, or would have been, sent. */
export function answerOf({ receipt, detail, signature, proof, answer }: JournalEntry): Omit<JobAnswer, 'ticket'> {
  return { receipt, detail, signature, proof, body: answer }
}
