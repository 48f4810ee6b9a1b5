import { batchDigest } from '../protocol/batch.ts'
import { fromLatin1 } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import { direction } from '../protocol/envelope.ts'
import { encodeJobAnswers, type JobAnswer } from '../protocol/frames.ts'
import { merkleTree } from '../protocol/merkle.ts'
import { encodeBody, encodeErrorBody } from '../protocol/oip.ts'
import { type Detail, detailDigests, jobStatus, type Receipt, receiptLeaves } from '../protocol/receipt.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import { hashRows } from '../protocol/sha256Lanes.ts'
import { type Tensor, tensorCommitment, tensorCommitments } from '../protocol/tensors.ts'
import type { Channel } from './channels.ts'
import type { Journal, JournalEntry } from './journal.ts'
import type { Meter } from './meter.ts'
import type { NativeEnvelope } from './nativeEnvelope.ts'

/** Holds an answer as it was journalled: `frame` is its frame with ticket 0. */
export type RecordedAnswer = Omit<JobAnswer, 'ticket'> & { frame: Uint8Array }

/** Holds an accepted job on its way through the engine, and whom to tell. */
export type AcceptedJob = {
  channel: Channel
  job: bigint
  /** Digest of the sealed body, as `digestText` gives it. */
  bodyHash: string
  envelope: NativeEnvelope
  /** Commitment to the input, and digest of the execution descriptor: 32 bytes each. */
  input: Uint8Array
  execution: Uint8Array
  /** When it was taken on, in milliseconds of the recorder's `elapsed`. */
  begun: number
  /** Whether it may still be let go of: what is recorded has a receipt, what was cancelled gets none. */
  stage: 'open' | 'recorded' | 'cancelled'
  done: (answer: RecordedAnswer) => void
  failed: (error: Error) => void
}

/** Tells how a job ended. */
export type Outcome = { job: AcceptedJob; status: number; outputs: Tensor[]; error?: string }

/** Holds what a recorder needs; clock in milliseconds. `elapsed` measures how long things take, and `after` does something in so many milliseconds and gives what stops it: the process's own unless told. */
export type RecorderDeps = {
  domain: Domain
  signer: Signer
  journal: Journal
  now: () => number
  elapsed?: () => number
  after?: (ms: number, run: () => void) => () => void
  meter?: Pick<Meter, 'sealed' | 'recorded'>
}

type Sealed = { outcome: Outcome; detail: Detail; receipt: Receipt; answer: Uint8Array }

/** Most jobs under one signature: a path of twelve nodes. */
const maxLeaves = 4_096
/** Part of what a job has waited that its receipt may wait for others, and the longest that is, in milliseconds. */
const patience = 1 / 16
const longestMs = 16
/** What a timer can tell, in milliseconds: a shorter wait is none. */
const shortestMs = 1
/** Receipts for which nothing is waited: one more would save little of a signature. */
const enough = 32

function timer(ms: number, run: () => void): () => void {
  const timeout = setTimeout(run, ms)
  return () => clearTimeout(timeout)
}

/**
 * Turns outcomes into receipts under one signature, journals them, and only then lets the answers go. Whatever ends while the disk is busy
 * goes into the next batch, so durability costs one fsync however many jobs, and no receipt is made on top of a sum that may still fail. Where
 * jobs stand in line and end one by one, a receipt waits for the next ones a sixteenth of what its job has waited already: who was answered at
 * once waits for nobody, and a runner with much to do signs, syncs and sends a few times less.
 */
export class Recorder {
  readonly #deps: RecorderDeps
  readonly #elapsed: () => number
  readonly #after: NonNullable<RecorderDeps['after']>
  #queue: Sealed[] = []
  #busy = false
  /** Stops waiting for more, while that is done. */
  #stopWaiting: (() => void) | null = null

  constructor(deps: RecorderDeps) {
    this.#deps = deps
    this.#elapsed = deps.elapsed ?? (() => performance.now())
    this.#after = deps.after ?? timer
    // The first call compiles what hashes, for which no job should wait.
    hashRows(new Uint8Array(0), 1)
  }

  /** Takes the outcomes of a run; never throws. */
  push(outcomes: readonly Outcome[]): void {
    const started = this.#elapsed()
    this.#queue.push(...sealAll(outcomes))
    this.#deps.meter?.sealed(this.#elapsed() - started)
    if (this.#busy) return
    const waitMs = this.#queue.length >= enough ? 0 : this.#waitMs(outcomes)
    if (waitMs < shortestMs) return void this.#drain()
    this.#stopWaiting ??= this.#after(waitMs, () => void this.#drain())
  }

  /** Tells how long the least patient of outcomes may wait. */
  #waitMs(outcomes: readonly Outcome[]): number {
    const now = this.#elapsed()
    let waitMs = longestMs
    for (const { job } of outcomes) waitMs = Math.min(waitMs, (now - job.begun) * patience)
    return waitMs
  }

  async #drain(): Promise<void> {
    this.#stopWaiting?.()
    this.#stopWaiting = null
    this.#busy = true
    while (this.#queue.length > 0) await this.#record(this.#queue.splice(0, maxLeaves))
    this.#busy = false
  }

  async #record(batch: Sealed[]): Promise<void> {
    const { domain, signer, journal, now, meter } = this.#deps
    const started = this.#elapsed()
    const totals = addUp(batch, BigInt(Math.floor(now() / 1000)))
    try {
      const { root, proofs } = merkleTree(
        receiptLeaves(
          batch.map(({ receipt }) => receipt),
          hashRows,
        ),
        hashRows,
      )
      const signature = await signer.sign(batchDigest(domain, { root, count: batch.length }))
      const entries = entriesOf(batch, signature, proofs)
      const signed = this.#elapsed()
      await journal.commit(
        entries,
        [...totals.keys()].map(({ id, terms, voucher }) => ({ channel: id, terms, voucher })),
      )
      // Nothing reads a running total between the batch before and here, so it is raised only once it is on disk.
      for (const [channel, total] of totals) channel.cumulative = total
      meter?.recorded({ jobs: batch.length, signMs: signed - started, journalMs: this.#elapsed() - signed })
      for (const [index, { outcome }] of batch.entries()) outcome.job.done(answerOf(entries[index]!))
    } catch (error) {
      for (const { outcome } of batch) outcome.job.failed(error as Error)
    }
  }
}

/** Commits to outputs and seals them: everything that does not depend on other batches. A job that cannot be sealed fails alone. */
function sealAll(outcomes: readonly Outcome[]): Sealed[] {
  const sealed: { outcome: Outcome; detail: Detail; answer: Uint8Array }[] = []
  const commitments = commitTo(outcomes)
  for (let at = 0; at < outcomes.length; at++) {
    const outcome = outcomes[at]!
    try {
      sealed.push(seal(outcome, commitments[at]))
    } catch (error) {
      outcome.job.failed(error as Error)
    }
  }
  const digests = detailDigests(
    sealed.map(({ detail }) => detail),
    hashRows,
  )
  return sealed.map(({ outcome, detail, answer }, at) => {
    const { job, status } = outcome
    const id = job.channel.id
    const receipt = { channel: id, job: job.job, status, cumulative: 0n, finishedAt: 0n, detail: digests[at]! }
    return { outcome, detail, receipt, answer }
  })
}

const isOk = ({ status }: Outcome) => status === jobStatus.ok

/** Commits to the outputs of jobs that all have some; none otherwise, or where one is in no order: each is then committed to by itself. */
function commitTo(outcomes: readonly Outcome[]): readonly Uint8Array[] {
  if (outcomes.length < 2 || !outcomes.every(isOk)) return []
  const salts = outcomes.map(({ job }) => job.envelope.outputSalt(job.job))
  try {
    return tensorCommitments(
      salts,
      outcomes.map(({ outputs }) => outputs),
      hashRows,
    )
  } catch {
    return []
  }
}

function seal(outcome: Outcome, commitment: Uint8Array | undefined) {
  const { job, outputs, error } = outcome
  const ok = isOk(outcome)
  const output = !ok ? new Uint8Array(32) : (commitment ?? tensorCommitment(job.envelope.outputSalt(job.job), outputs))
  const plaintext = ok ? encodeBody('outputs', outputs) : encodeErrorBody(error ?? 'failed')
  const answer = job.envelope.seal(job.job, direction.answer, plaintext)
  const price = ok ? job.channel.terms.price : 0n
  const detail: Detail = { input: job.input, output, execution: job.execution, price }
  return { outcome, detail, answer }
}

/** Puts the running totals into the receipts and gives where they end. */
function addUp(batch: readonly Sealed[], finishedAt: bigint): Map<Channel, bigint> {
  const totals = new Map<Channel, bigint>()
  for (const { outcome, receipt, detail } of batch) {
    const { channel } = outcome.job
    const total = (totals.get(channel) ?? channel.cumulative) + detail.price
    totals.set(channel, total)
    receipt.cumulative = total
    receipt.finishedAt = finishedAt
  }
  return totals
}

function entriesOf(
  batch: readonly Sealed[],
  signature: Uint8Array,
  proofs: readonly JournalEntry['proof'][],
): JournalEntry[] {
  const answers = batch.map(({ receipt, detail, answer }, index) => {
    return { ticket: 0, receipt, detail, signature, proof: proofs[index]!, body: answer }
  })
  const frames = encodeJobAnswers(answers)
  return batch.map(({ outcome, receipt, detail, answer }, index) => {
    const { channel, job, bodyHash } = outcome.job
    const proof = proofs[index]!
    const frame = frames[index]!
    return {
      channel: channel.id,
      job,
      bodyHash: fromLatin1(bodyHash),
      receipt,
      detail,
      signature,
      proof,
      answer,
      frame,
    }
  })
}

/** Turns a journalled job back into the answer that was, or would have been, sent. */
export function answerOf({ receipt, detail, signature, proof, answer, frame }: JournalEntry): RecordedAnswer {
  return { receipt, detail, signature, proof, body: answer, frame }
}
