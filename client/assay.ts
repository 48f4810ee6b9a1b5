import type { Bundle } from '../protocol/bundle.ts'
import { equalBytes, fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import { canonicalJson } from '../protocol/canonicalJson.ts'
import type { Domain } from '../protocol/eip712.ts'
import { contextId, direction, envelopeInfo, envelopeKeys } from '../protocol/envelope.ts'
import {
  type EquivocationJson,
  equivocationToJson,
  judgeEquivocation,
  type SignedReceipt,
} from '../protocol/equivocation.ts'
import {
  type Collateral,
  collateralFromJson,
  collateralToJson,
  defaultPolicy,
  type Evidence,
  evidenceFromJson,
  evidenceToJson,
  type Policy,
  type Roots,
  type Verdict,
  vendorRoots,
} from '../protocol/evidence/index.ts'
import { decodeFrame, encodeJobRequest, type JobAnswer } from '../protocol/frames.ts'
import { setupSender } from '../protocol/hpke.ts'
import { type BatchSigner, rememberBatches } from '../protocol/knownBatches.ts'
import type { Recover } from '../protocol/knownKeys.ts'
import type { Listing } from '../protocol/listing.ts'
import type { Manifest } from '../protocol/manifest.ts'
import { type Body, checkTensors, decodeBody, encodeBody } from '../protocol/oip.ts'
import { type Detail, detailToJson, jobStatus, type Receipt, receiptToJson } from '../protocol/receipt.ts'
import { RenewedMap } from '../protocol/renewedMap.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import { coverUntil } from '../protocol/stake.ts'
import { type Tensor, tensorCommitment } from '../protocol/tensors.ts'
import { channelOf, type Terms } from '../protocol/terms.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import { rememberSigners } from './batchSigners.ts'
import {
  connectEdge,
  type Edge,
  type JobJson,
  listingFromJson,
  type Match,
  type ModelJson,
  type Network,
} from './edge.ts'
import { findEquivocations, keepReceipt, wordsFor } from './equivocations.ts'
import { EdgeError, EquivocationError, JobFailedError, VerificationError } from './errors.ts'
import { JobPost } from './jobPost.ts'
import { checkRequirements, checkStake, type Requirements } from './requirements.ts'
import { createSealer, type Sealer } from './sealer.ts'
import { checkListing, checkReceipt, checkRunner } from './verify.ts'

/** Configures a buyer. `network` pins the chain and contracts; without it the edge's word is taken once. */
export type AssayOptions = {
  edge: string
  /** Signs vouchers; its address is the buyer's, unless it signs under a mandate. */
  signer: Signer
  /** The buyer whose deposit pays, where the signer is a key that buyer has given a mandate in the escrow. */
  onBehalfOf?: Hex
  network?: Network
  /** Trusts these roots; vendor roots only unless told otherwise. */
  roots?: readonly Roots[]
  policy?: Policy
  fetch?: typeof fetch
  /** Gives unix milliseconds. */
  now?: () => number
  random?: (bytes: number) => Uint8Array<ArrayBuffer>
  sleep?: (ms: number) => Promise<void>
  /** Reads from the chain what of a runner's stake stands until a time, in unix seconds; needed where a stake is required. */
  coverOf?: (runner: Hex, until: bigint) => Promise<bigint>
  /** Recovers who signed a digest: portable JavaScript unless told. What it gives decides which answers are believed; clients of one process may share one that remembers (`rememberSigners`). */
  recover?: Recover
  /** Signs vouchers this many jobs ahead in a channel: fewer signatures, and exactly that many prices at risk. */
  coverJobs?: number
}

/** Configures one inference. Prices in the token's smallest unit. */
export type InferOptions = {
  maxPrice?: bigint
  deadlineMs?: number
  requirements?: Requirements
}

/** Configures a job nobody waits on the line for: where its end is announced, and the secret announcements are signed with (Standard Webhooks). */
export type StartOptions = InferOptions & { webhook?: { url: string; secret?: string } }

/** Holds an asynchronous job. Its keys live in this process: only here can its answer be opened. */
export type StartedJob = {
  id: string
  runner: Hex
  /** What webhooks are signed with, when one was asked for. */
  webhookSecret: string | undefined
  /** Says where it stands. */
  status(): Promise<JobJson>
  /** Cancels it. Throws EdgeError `conflict` once the runner has it. */
  cancel(): Promise<JobJson>
  /** Waits for the answer and verifies it as `infer` does. Throws what `infer` throws, and EdgeError when it was refused, expired or cancelled. */
  result(): Promise<Inference>
}

/** Holds a verified answer: outputs, and everything that proves them. */
export type Inference = {
  outputs: Tensor[]
  price: bigint
  runner: Hex
  verdict: Verdict
  terms: Terms
  receipt: Receipt
  detail: Detail
  /** Makes the file a person can keep: it verifies offline, for years. */
  bundle(options?: { reveal?: boolean }): Bundle
}

type Model = { digest: Hex; manifest: Manifest; listing: Listing; json: ModelJson; fixed: Tensor[] }
type Attested = {
  signer: Hex
  hpkeKey: Uint8Array
  verdict: Verdict
  statement: Uint8Array
  evidence: Evidence
  collateral: Collateral
  verifiedAt: number
  validUntil: number
}
type Voucher = { cumulative: bigint; signature: Uint8Array }
type Channel = {
  terms: Terms
  id: Uint8Array
  runner: Attested
  enc: Uint8Array
  context: Uint8Array
  envelope: Sealer
  nextJob: bigint
  /** Jobs sent whose price may become due. */
  asked: bigint
  /** Jobs whose receipts say they cost nothing. */
  free: bigint
  voucher: Voucher | null
  /** The voucher about to be signed: jobs of one turn share it. */
  signing: Promise<Voucher> | null
  /** The newest receipts, by job: what a second answer is held against. */
  receipts: RenewedMap<bigint, SignedReceipt>
  opened: boolean
  dead: boolean
}

/** Who refused a job already, and whom the edge names next. */
type Tried = { exclude: Hex[]; next?: Match }
type MatchBody = { model: Hex; requirements: object }
type Sealed = { job: bigint; salt: Uint8Array; input: Uint8Array; body: Uint8Array; tensors: readonly Tensor[] }

/** How long a channel lasts at most, in seconds. */
export const channelSeconds = 86_400n
const defaultDeadlineMs = 30_000
/** How long a listing is taken as it was read: a name may move to another version, and a price change. */
const listingMs = 60_000
/** How long past its deadline a job's answer is still waited for. */
const silenceMs = 2_000
/** Receipts of a channel that later answers are held against: the newest. */
const keptReceipts = 1_024
/** Most runners and channels tried for one job, however long its deadline. */
const maxPlacements = 40
/** Codes after which the same bytes may be sent again: the job number makes it safe. */
const retryable = new Set(['network', 'runner_unreachable', 'deadline', 'internal'])
/** Codes that say the runner took nothing and will take nothing now: another one is asked. */
const elsewhere = new Set(['at_capacity', 'draining', 'runner_unreachable', 'unknown_model', 'deadline'])
/** Codes after which a new channel is opened, at the same runner or another. */
const afresh = new Set(['job_lost', 'unknown_context', 'expired_terms'])

/** Tells whether a refusal says for certain that the runner does not have the job. */
const notAccepted = (error: EdgeError) => error.details.accepted === false

/** Buys inferences and believes nobody: verifies the machine before it seals, and the receipt before it opens. */
export class Assay {
  readonly #options: Required<Omit<AssayOptions, 'network' | 'edge' | 'coverOf' | 'recover'>> &
    Pick<AssayOptions, 'coverOf'>
  readonly edge: Edge
  readonly #post: JobPost
  #network: Network | undefined
  readonly #models = new Map<string, { pending: Promise<Model>; until: number }>()
  readonly #recover: Recover
  readonly #signerOf: BatchSigner
  readonly #fixed = new Map<string, Promise<Tensor[]>>()
  readonly #attested = new Map<string, Promise<Attested>>()
  readonly #channels = new Map<string, Promise<Channel>>()

  constructor(options: AssayOptions) {
    this.#network = options.network
    this.edge = connectEdge(options.edge, options.fetch)
    this.#post = new JobPost(this.edge)
    this.#recover = options.recover ?? rememberSigners()
    this.#signerOf = rememberBatches(this.#recover)
    this.#options = {
      signer: options.signer,
      onBehalfOf: (options.onBehalfOf ?? options.signer.address).toLowerCase() as Hex,
      roots: options.roots ?? [vendorRoots],
      policy: options.policy ?? defaultPolicy,
      fetch: options.fetch ?? fetch,
      now: options.now ?? Date.now,
      random: options.random ?? ((bytes) => crypto.getRandomValues(new Uint8Array(bytes))),
      sleep: options.sleep ?? ((ms) => new Promise((resolve) => setTimeout(resolve, ms))),
      coverJobs: options.coverJobs ?? 1,
      ...(options.coverOf ? { coverOf: options.coverOf } : {}),
    }
  }

  /** Gives the address whose deposit pays. */
  get buyer(): Hex {
    return this.#options.onBehalfOf
  }

  /** Gives the chain and contracts in use. */
  async network(): Promise<Network> {
    this.#network ??= await this.edge.json<Network>('/v1/network')
    return this.#network
  }

  #seconds(): number {
    return Math.floor(this.#options.now() / 1000)
  }

  async #domain(): Promise<Domain> {
    const { chainId, escrow } = await this.network()
    return { chainId, escrow }
  }

  /** Resolves a model by digest, `owner/name` or bare name, and checks its publisher's signature. */
  async model(reference: string): Promise<Model> {
    const known = this.#models.get(reference)
    if (known && known.until > this.#options.now()) return known.pending
    const pending = this.#readModel(reference)
    this.#models.set(reference, { pending, until: this.#options.now() + listingMs })
    pending.catch(() => this.#models.delete(reference))
    return pending
  }

  async #readModel(reference: string): Promise<Model> {
    let json: ModelJson
    if (/^0x[0-9a-fA-F]{64}$/.test(reference) || reference.includes('/'))
      json = await this.edge.json<ModelJson>(`/v1/models/${reference}`)
    else {
      const { models } = await this.edge.json<{ models: ModelJson[] }>(
        `/v1/models?limit=2&name=${encodeURIComponent(reference)}`,
      )
      if (models.length === 0)
        throw new EdgeError(
          'not_found',
          404,
          `No model is named ${reference}.`,
          'Run `assay models` to see what is listed.',
        )
      if (new Set(models.map(({ owner }) => owner)).size > 1)
        throw new EdgeError(
          'conflict',
          409,
          `Several publishers list a model named ${reference}.`,
          'Name it owner/name or by digest.',
        )
      json = models[0]!
    }
    const listing = listingFromJson(json.listing)
    const manifest = checkListing(
      { digest: json.digest, manifest: json.manifest, listing, signature: json.signature },
      { domain: await this.#domain(), now: this.#seconds() },
    )
    let fixed = this.#fixed.get(json.digest)
    if (!fixed) {
      fixed = this.#readFixed(manifest)
      this.#fixed.set(json.digest, fixed)
      fixed.catch(() => this.#fixed.delete(json.digest))
    }
    return { digest: json.digest, manifest, listing, json, fixed: await fixed }
  }

  async #readFixed(manifest: Manifest): Promise<Tensor[]> {
    return Promise.all(
      manifest.fixedInputs.map(async ({ name, path, datatype, shape }) => {
        const file = manifest.files.find((candidate) => candidate.path === path)!
        const data = await this.edge.bytes(`/v1/artifacts/${file.sha256}`)
        const actual = toHex(
          new Uint8Array(await crypto.subtle.digest('SHA-256', data as Uint8Array<ArrayBuffer>)),
        ).slice(2)
        if (actual !== file.sha256)
          throw new VerificationError('listing_digest', `The bytes of fixed input "${name}" do not match the manifest.`)
        return { name, datatype, shape, data }
      }),
    )
  }

  async #attest({ runner }: Match): Promise<Attested> {
    const key = `${runner.signer}:${runner.evidenceDigest}`
    const known = await this.#attested.get(key)
    if (known && known.validUntil > this.#seconds()) return known
    const pending = this.#readEvidence(runner)
    this.#attested.set(key, pending)
    pending.catch(() => this.#attested.delete(key))
    return pending
  }

  async #readEvidence(runner: Match['runner']): Promise<Attested> {
    const { chainId, registry } = await this.network()
    const json = await this.edge.json<{ statement: Hex; evidence: unknown; collateral: unknown }>(
      `/v1/runners/${runner.signer}/evidence`,
    )
    const statement = fromHex(json.statement)
    const evidence = evidenceFromJson(json.evidence)
    const collateral = collateralFromJson(json.collateral)
    const { roots, policy } = this.#options
    const now = this.#seconds()
    const checked = await checkRunner(
      { signer: runner.signer, hpkeKey: runner.hpkeKey, statement, evidence, collateral },
      { roots, policy, now, chainId, registry },
    )
    return {
      signer: runner.signer,
      hpkeKey: checked.statement.hpkeKey,
      verdict: checked.verdict,
      statement,
      evidence,
      collateral,
      verifiedAt: now,
      validUntil: Math.min(checked.verdict.validUntil, Number(checked.statement.notAfter)),
    }
  }

  async #openChannel(model: Model, options: InferOptions, tried: Tried): Promise<Channel> {
    const match =
      tried.next ??
      (await this.edge.json<Match>('/v1/matches', { method: 'POST', body: matchBody(model, options, tried.exclude) }))
    const { listing } = model
    const network = await this.network()
    const asListed =
      BigInt(match.model.price) === listing.price &&
      match.model.royaltyBps === listing.royaltyBps &&
      match.model.payout.toLowerCase() === listing.payout.toLowerCase() &&
      match.feeBps === network.feeBps
    if (!asListed)
      throw new VerificationError('price_changed', 'The match does not offer the terms its publisher signed.')
    const runner = await this.#attest(match)
    checkRequirements(runner.verdict, options.requirements ?? {})
    const { random } = this.#options
    const terms: Terms = {
      buyer: this.buyer,
      runner: runner.signer,
      model: model.digest,
      publisher: listing.payout.toLowerCase() as Hex,
      price: listing.price,
      royaltyBps: listing.royaltyBps,
      feeBps: network.feeBps,
      // Never past the machine's attestation: a receipt after it would not be payable, nor worth having.
      expiresAt: BigInt(Math.min(this.#seconds() + Number(channelSeconds), runner.validUntil)),
      salt: toHex(random(32)),
    }
    const minStake = options.requirements?.minStake
    await checkStake({ runner: terms.runner, until: coverUntil(terms.expiresAt), minStake }, this.#options.coverOf)
    const id = fromHex(channelOf(await this.#domain(), terms), 32)
    const { enc, context } = await setupSender(runner.hpkeKey, envelopeInfo(id))
    return {
      terms,
      id,
      runner,
      enc,
      context: contextId(enc),
      envelope: await createSealer(id, await envelopeKeys(context)),
      nextJob: 1n,
      asked: 0n,
      free: 0n,
      voucher: null,
      signing: null,
      receipts: new RenewedMap(),
      opened: false,
      dead: false,
    }
  }

  /** Gives the channel for a model and what is required of its machine: a channel opened for less would break a stricter promise. */
  async #channel(model: Model, options: InferOptions, tried: Tried): Promise<Channel> {
    // Under the publisher's signature, since a channel's terms are those of one listing.
    const key = `${model.json.signature} ${canonicalJson(options.requirements ?? {})}`
    const usable = (channel: Channel | undefined) =>
      channel !== undefined &&
      !channel.dead &&
      channel.terms.expiresAt > BigInt(this.#seconds() + 120) &&
      !tried.exclude.includes(channel.runner.signer)
    // The map holds the promise, so that parallel calls share one channel instead of opening one each; another call may have replaced it while this one waited.
    for (let seen: Promise<Channel> | undefined; ; ) {
      const current = this.#channels.get(key)
      if (!current || current === seen) break
      seen = current
      const known = await current.catch(() => undefined)
      if (known && usable(known)) return known
    }
    const pending = this.#openChannel(model, options, tried)
    this.#channels.set(key, pending)
    pending.catch(() => {
      if (this.#channels.get(key) === pending) this.#channels.delete(key)
    })
    return pending
  }

  /** Covers the jobs asked so far, and as many ahead as the options say: one signature for all that are asked in a turn of the loop. */
  async #cover(channel: Channel): Promise<Voucher> {
    if (channel.voucher && channel.voucher.cumulative >= dueOf(channel)) return channel.voucher
    channel.signing ??= this.#sign(channel)
    return channel.signing
  }

  async #sign(channel: Channel): Promise<Voucher> {
    await turn()
    // Whoever asks from here on is not in the sum, and needs the next one.
    channel.signing = null
    const cumulative = dueOf(channel) + BigInt(this.#options.coverJobs - 1) * channel.terms.price
    const digest = voucherDigest(await this.#domain(), { channel: toHex(channel.id), cumulative })
    const voucher = { cumulative, signature: await this.#options.signer.sign(digest) }
    // A signer may finish them in another order.
    if (!channel.voucher || channel.voucher.cumulative < cumulative) channel.voucher = voucher
    return voucher
  }

  /** Buys one inference. Throws VerificationError when anything does not verify, EdgeError when nobody could serve it, JobFailedError when the model refused it; the last two cost nothing. */
  async infer(reference: string, tensors: readonly Tensor[], options: InferOptions = {}): Promise<Inference> {
    const model = await this.model(reference)
    checkTensors(tensors, model.manifest.inputs)
    this.#checkPrice(model, options)
    return this.#place(model, options, (channel, until) => this.#ask(model, channel, tensors, options, until))
  }

  #checkPrice({ listing }: Model, { maxPrice }: InferOptions): void {
    if (maxPrice !== undefined && listing.price > maxPrice)
      throw new VerificationError(
        'price_above_cap',
        `The price is ${listing.price}, your cap is ${maxPrice}. Raise the cap, or choose another model.`,
      )
  }

  /** Places a job: at the channel's runner, at another when that one says for certain it did not take it, and again later when nobody else serves the model, until the deadline. A job that may have been taken is never placed twice. */
  async #place<T>(
    model: Model,
    options: InferOptions,
    place: (channel: Channel, until: number) => Promise<T>,
  ): Promise<T> {
    const until = this.#options.now() + (options.deadlineMs ?? defaultDeadlineMs)
    let tried: Tried = { exclude: [] }
    let reached = false
    for (let attempt = 0; ; attempt++) {
      let channel: Channel | undefined
      let refused: unknown
      try {
        channel = await this.#channel(model, options, tried)
        return await place(channel, until)
      } catch (error) {
        refused = error
      }
      reached ||= channel !== undefined
      if (channel && (refused instanceof VerificationError || refused instanceof EdgeError)) channel.dead = true
      if (!(refused instanceof EdgeError)) throw refused
      const waitMs = Math.min(2_000, 50 * 2 ** attempt)
      const late = attempt >= maxPlacements || this.#options.now() + waitMs > until
      if (!channel) {
        // Those reached before were busy or are away; with nobody else to ask they are asked again.
        if (refused.code !== 'no_match' || !reached || late) throw refused
        tried = { exclude: [] }
      } else if (elsewhere.has(refused.code) && notAccepted(refused)) {
        if (late) throw refused
        const next = refused.details.next as Match | undefined
        tried = { exclude: [...tried.exclude, channel.runner.signer], ...(next ? { next } : {}) }
        // The first move is free; more of them mean that the market is full.
        if (attempt === 0) continue
      } else if (!afresh.has(refused.code) || late) throw refused
      else tried = { exclude: tried.exclude }
      await this.#options.sleep(waitMs)
    }
  }

  /** Seals a job, and gives what its answer is checked against. */
  async #seal(model: Model, channel: Channel, tensors: readonly Tensor[]): Promise<Sealed> {
    const job = channel.nextJob++
    channel.asked++
    const salt = this.#options.random(32)
    const input = tensorCommitment(salt, [...tensors, ...model.fixed])
    const plaintext = encodeBody('inputs', tensors, { salt: toHex(salt) })
    const body = await channel.envelope.seal(job, direction.request, plaintext)
    return { job, salt, input, body, tensors }
  }

  async #ask(
    model: Model,
    channel: Channel,
    tensors: readonly Tensor[],
    options: InferOptions,
    until: number,
  ): Promise<Inference> {
    const sealed = await this.#seal(model, channel, tensors)
    const answer = await this.#send(channel, sealed, until, matchBody(model, options, []))
    return this.#open(model, channel, sealed, answer)
  }

  /** Checks an answer against what was asked and opens it. */
  async #open(
    model: Model,
    channel: Channel,
    { job, salt, input, tensors }: Sealed,
    answer: JobAnswer,
  ): Promise<Inference> {
    const domain = await this.#domain()
    const { price } = channel.terms
    this.#compare(channel, answer, domain)
    checkReceipt(
      answer,
      {
        channel: channel.id,
        job,
        input,
        price,
        runner: channel.runner.signer,
        maxTotal: channel.asked * price,
        now: this.#seconds(),
      },
      domain,
      this.#signerOf,
    )
    channel.opened = true
    channel.receipts.set(job, keepReceipt(answer))
    channel.receipts.trim(keptReceipts)

    let plaintext: Uint8Array
    try {
      plaintext = await channel.envelope.open(job, direction.answer, answer.body)
    } catch {
      throw new VerificationError('answer_seal', 'The answer was changed on its way, or is not for this job.')
    }
    const decoded = readAnswer(plaintext)
    if (answer.receipt.status !== jobStatus.ok) {
      channel.free++
      throw new JobFailedError(answer.receipt.status, decoded.error ?? 'The job failed.')
    }
    const outputSalt = await channel.envelope.outputSalt(job)
    if (!equalBytes(answer.detail.output, tensorCommitment(outputSalt, decoded.tensors)))
      throw new VerificationError('receipt_output', 'The receipt commits to another output.')
    try {
      checkTensors(decoded.tensors, model.manifest.outputs)
    } catch (error) {
      throw new VerificationError(
        'answer_form',
        `The outputs are not what the manifest says. ${(error as Error).message}`,
      )
    }
    return {
      outputs: decoded.tensors,
      price,
      runner: channel.runner.signer,
      verdict: channel.runner.verdict,
      terms: channel.terms,
      receipt: answer.receipt,
      detail: answer.detail,
      bundle: ({ reveal = false } = {}) =>
        makeBundle(
          domain,
          model,
          channel,
          answer,
          reveal ? { salt, tensors: [...tensors, ...model.fixed], outputSalt, outputs: decoded.tensors } : null,
        ),
    }
  }

  /** Holds an answer against an earlier one to the same job. Throws EquivocationError where the runner signed both and they differ. */
  #compare({ terms, receipts }: Channel, answer: JobAnswer, domain: Domain): void {
    const first = receipts.get(answer.receipt.job)
    if (!first) return
    const equivocation = { terms, first, second: keepReceipt(answer) }
    if (judgeEquivocation(domain, equivocation, this.#recover).proven)
      throw new EquivocationError(wordsFor(equivocation), equivocationToJson(domain, equivocation))
  }

  /** Compares the receipts of this process's newest channels with those the edge shows. Gives what proves that a runner answered a job twice: report each with `slashRunner`. Throws EdgeError. */
  async audit(): Promise<EquivocationJson[]> {
    const domain = await this.#domain()
    const channels = (await Promise.allSettled(this.#channels.values())).flatMap((channel) =>
      channel.status === 'fulfilled' ? [channel.value] : [],
    )
    const found = await Promise.all(
      channels.map((channel) => findEquivocations(this.edge, domain, channel, this.#recover)),
    )
    return found.flat().map((equivocation) => equivocationToJson(domain, equivocation))
  }

  async #frame(
    channel: Channel,
    { job, body }: Sealed,
    leftMs: number,
    opening: boolean,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const voucher = await this.#cover(channel)
    return encodeJobRequest({
      ticket: 0,
      channel: channel.id,
      job,
      context: channel.context,
      deadlineMs: Math.max(1, Math.min(0xffff_ffff, leftMs)),
      ...(opening ? { opening: { terms: channel.terms, enc: channel.enc } } : {}),
      voucher,
      body,
    })
  }

  /** Posts a job, and again with the very same body while the network or the edge stumbles: once the runner may have it, it is asked of this runner and no other until the deadline, and then let go. */
  async #send(channel: Channel, sealed: Sealed, until: number, wanted: MatchBody): Promise<JobAnswer> {
    const { now, sleep } = this.#options
    const match = JSON.stringify(wanted)
    let perhapsAccepted = false
    for (let attempt = 0; ; attempt++) {
      const frame = await this.#frame(channel, sealed, until - now(), !channel.opened || attempt > 0)
      try {
        // The edge ends a job at its deadline; a connection that stays silent beyond it is dead.
        const timeoutMs = Math.max(0, until - now()) + silenceMs
        return await this.#post.post({ runner: channel.runner.signer, match, frame, timeoutMs })
      } catch (error) {
        if (!(error instanceof EdgeError)) throw error
        const reopen = error.code === 'unknown_context' && channel.opened && attempt === 0
        if (!reopen && !retryable.has(error.code) && !(perhapsAccepted && elsewhere.has(error.code))) throw error
        if (!reopen && !notAccepted(error)) perhapsAccepted = true
        // Another runner may have it only if this one certainly has not.
        else if (!reopen && !perhapsAccepted) throw error
        const waitMs = Math.min(2_000, 100 * 2 ** attempt)
        if (now() + waitMs > until) throw perhapsAccepted ? released(error) : error
        await sleep(waitMs)
      }
    }
  }

  /** Starts one inference and does not wait for it: the edge keeps the sealed job, hands it over until its deadline (an hour at most), and announces its end. Throws what `infer` throws before an answer. */
  async start(reference: string, tensors: readonly Tensor[], options: StartOptions = {}): Promise<StartedJob> {
    const model = await this.model(reference)
    checkTensors(tensors, model.manifest.inputs)
    this.#checkPrice(model, options)
    const { webhook } = options
    const headers: Record<string, string> = { prefer: 'respond-async' }
    if (webhook) headers['assay-webhook-url'] = webhook.url
    if (webhook?.secret) headers['assay-webhook-secret'] = webhook.secret
    return this.#place(model, options, async (channel, until) => {
      const sealed = await this.#seal(model, channel, tensors)
      const frame = await this.#frame(channel, sealed, until - this.#options.now(), true)
      const path = `/v1/runners/${channel.runner.signer}/jobs`
      const job = await this.edge.json<JobJson>(path, { method: 'POST', body: frame, headers })
      return {
        id: job.id,
        runner: channel.runner.signer,
        webhookSecret: job.webhookSecret,
        status: () => this.edge.json<JobJson>(`${path}/${job.id}`),
        cancel: () => this.edge.json<JobJson>(`${path}/${job.id}`, { method: 'DELETE' }),
        result: () => this.#result(model, channel, sealed, `${path}/${job.id}`),
      }
    })
  }

  /** Waits for an asynchronous job and opens its answer. */
  async #result(model: Model, channel: Channel, sealed: Sealed, path: string): Promise<Inference> {
    for (let attempt = 0; ; attempt++) {
      const { state } = await this.edge.json<JobJson>(path)
      if (state !== 'queued' && state !== 'running') break
      await this.#options.sleep(Math.min(2_000, 50 * 1.5 ** attempt))
    }
    const decoded = decodeFrame(await this.edge.bytes(`${path}/result`))
    if (decoded.type !== 'jobAnswer')
      throw new VerificationError('answer_form', 'The edge answered with something that is not a job answer.')
    return this.#open(model, channel, sealed, decoded)
  }
}

/** Gives what may become due of a channel. */
const dueOf = ({ asked, free, terms }: Channel): bigint => (asked - free) * terms.price

const { setImmediate: soon = (run: () => void) => setTimeout(run) } = globalThis as {
  setImmediate?: (run: () => void) => unknown
}
/** Waits for what else happens in this turn of the loop. */
const turn = () => new Promise<void>((resolve) => void soon(resolve))

/** Reads what a runner sealed: one that writes it wrongly has answered wrongly. */
function readAnswer(plaintext: Uint8Array): Body {
  try {
    return decodeBody('outputs', plaintext)
  } catch (error) {
    throw new VerificationError('answer_form', `The answer cannot be read. ${(error as Error).message}`)
  }
}

/** Says of a job whose time is over what it may still cost. */
function released({ code, status, message, hint, details }: EdgeError): EdgeError {
  const detail = hint === undefined ? message : message.slice(0, -hint.length - 1)
  const cost = 'It is let go and its channel closed: it costs nothing unless its runner shows a receipt for it.'
  return new EdgeError(code, status, detail, cost, { ...details, accepted: true })
}

function matchBody(model: Model, { maxPrice, requirements = {} }: InferOptions, exclude: Hex[]): MatchBody {
  return {
    model: model.digest,
    requirements: {
      ...requirements,
      ...(maxPrice === undefined ? {} : { maxPrice: maxPrice.toString() }),
      ...(exclude.length > 0 ? { exclude } : {}),
    },
  }
}

function makeBundle(
  domain: Domain,
  model: Model,
  channel: Channel,
  answer: JobAnswer,
  openings: { salt: Uint8Array; tensors: Tensor[]; outputSalt: Uint8Array; outputs: Tensor[] } | null,
): Bundle {
  const { runner, terms } = channel
  const tensor = ({ name, datatype, shape, data }: Tensor) => ({ name, datatype, shape: [...shape], data: toHex(data) })
  return {
    format: 'assay-bundle-1',
    chainId: Number(domain.chainId),
    escrow: domain.escrow,
    registry: toHex(runner.statement.slice(16, 36)),
    terms: { ...terms, price: terms.price.toString(), expiresAt: terms.expiresAt.toString() },
    receipt: receiptToJson(answer.receipt),
    detail: detailToJson(answer.detail),
    proof: { index: answer.proof.index, count: answer.proof.count, path: answer.proof.path.map(toHex) },
    signature: toHex(answer.signature),
    statement: toHex(runner.statement),
    evidence: evidenceToJson(runner.evidence),
    collateral: collateralToJson(runner.collateral),
    verifiedAt: runner.verifiedAt,
    model: { manifest: model.json.manifest, listing: model.json.listing, signature: model.json.signature },
    ...(openings
      ? {
          openings: {
            inputSalt: toHex(openings.salt),
            inputs: openings.tensors.map(tensor),
            outputSalt: toHex(openings.outputSalt),
            outputs: openings.outputs.map(tensor),
          },
        }
      : {}),
  }
}
