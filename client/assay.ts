import type { Bundle } from '../protocol/bundle.ts'
import { equalBytes, fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import {
  contextId,
  createEnvelope,
  direction,
  type Envelope,
  envelopeInfo,
  envelopeKeys,
} from '../protocol/envelope.ts'
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
import type { Listing } from '../protocol/listing.ts'
import type { Manifest } from '../protocol/manifest.ts'
import { checkTensors, decodeBody, encodeBody } from '../protocol/oip.ts'
import { type Detail, detailToJson, jobStatus, type Receipt, receiptToJson } from '../protocol/receipt.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import { type Tensor, tensorCommitment } from '../protocol/tensors.ts'
import { channelOf, type Terms } from '../protocol/terms.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import { connectEdge, type Edge, listingFromJson, type Match, type ModelJson, type Network } from './edge.ts'
import { EdgeError, JobFailedError, VerificationError } from './errors.ts'
import { checkListing, checkReceipt, checkRunner } from './verify.ts'

/** Configures a buyer. `network` pins the chain and contracts; without it the edge's word is taken once. */
export type AssayOptions = {
  edge: string
  /** Signs vouchers; its address is the buyer's. */
  signer: Signer
  network?: Network
  /** Trusts these roots; vendor roots only unless told otherwise. */
  roots?: readonly Roots[]
  policy?: Policy
  fetch?: typeof fetch
  /** Gives unix milliseconds. */
  now?: () => number
  random?: (bytes: number) => Uint8Array<ArrayBuffer>
  sleep?: (ms: number) => Promise<void>
  /** Signs vouchers this many jobs ahead in a channel: fewer signatures, and exactly that many prices at risk. */
  coverJobs?: number
}

/** Configures one inference. Prices in the token's smallest unit. */
export type InferOptions = {
  maxPrice?: bigint
  deadlineMs?: number
  requirements?: { tee?: string; measurement?: Hex; maxAttestationAgeSeconds?: number }
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
type Channel = {
  terms: Terms
  id: Uint8Array
  runner: Attested
  enc: Uint8Array
  context: Uint8Array
  envelope: Envelope
  nextJob: bigint
  /** Jobs sent whose price may become due. */
  asked: bigint
  /** Jobs whose receipts say they cost nothing. */
  free: bigint
  voucher: { cumulative: bigint; signature: Uint8Array } | null
  opened: boolean
  dead: boolean
}

const channelSeconds = 86_400n
/** Codes after which the same bytes may be sent again: the job number makes it safe. */
const retryable = new Set(['network', 'runner_unreachable', 'deadline', 'internal'])
/** Codes after which another runner, or a new channel, is tried. */
const movable = new Set(['at_capacity', 'draining', 'job_lost', 'unknown_context', 'expired_terms', 'unknown_model'])

/** Buys inferences and believes nobody: verifies the machine before it seals, and the receipt before it opens. */
export class Assay {
  readonly #options: Required<Omit<AssayOptions, 'network' | 'edge'>>
  readonly edge: Edge
  #network: Network | undefined
  readonly #models = new Map<string, Promise<Model>>()
  readonly #attested = new Map<string, Promise<Attested>>()
  readonly #channels = new Map<Hex, Promise<Channel>>()

  constructor(options: AssayOptions) {
    this.#network = options.network
    this.edge = connectEdge(options.edge, options.fetch)
    this.#options = {
      signer: options.signer,
      roots: options.roots ?? [vendorRoots],
      policy: options.policy ?? defaultPolicy,
      fetch: options.fetch ?? fetch,
      now: options.now ?? Date.now,
      random: options.random ?? ((bytes) => crypto.getRandomValues(new Uint8Array(bytes))),
      sleep: options.sleep ?? ((ms) => new Promise((resolve) => setTimeout(resolve, ms))),
      coverJobs: options.coverJobs ?? 1,
    }
  }

  /** Gives the address vouchers are signed with. */
  get buyer(): Hex {
    return this.#options.signer.address
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
    let pending = this.#models.get(reference)
    if (!pending) {
      pending = this.#readModel(reference)
      this.#models.set(reference, pending)
      pending.catch(() => this.#models.delete(reference))
    }
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
    const fixed = await Promise.all(
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
    return { digest: json.digest, manifest, listing, json, fixed }
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

  async #openChannel(model: Model, options: InferOptions, exclude: Hex[]): Promise<Channel> {
    const { maxPrice, requirements = {} } = options
    const match = await this.edge.json<Match>('/v1/matches', {
      method: 'POST',
      body: {
        model: model.digest,
        requirements: {
          ...requirements,
          ...(maxPrice === undefined ? {} : { maxPrice: maxPrice.toString() }),
          ...(exclude.length > 0 ? { exclude } : {}),
        },
      },
    })
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
    const { random, signer } = this.#options
    const terms: Terms = {
      buyer: signer.address,
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
    const id = fromHex(channelOf(await this.#domain(), terms), 32)
    const { enc, context } = await setupSender(runner.hpkeKey, envelopeInfo(id))
    return {
      terms,
      id,
      runner,
      enc,
      context: contextId(enc),
      envelope: await createEnvelope(id, await envelopeKeys(context)),
      nextJob: 1n,
      asked: 0n,
      free: 0n,
      voucher: null,
      opened: false,
      dead: false,
    }
  }

  async #channel(model: Model, options: InferOptions, exclude: Hex[]): Promise<Channel> {
    const known = await this.#channels.get(model.digest)?.catch(() => undefined)
    const usable =
      known &&
      !known.dead &&
      known.terms.expiresAt > BigInt(this.#seconds() + 120) &&
      !exclude.includes(known.runner.signer)
    if (usable) return known
    // The map holds the promise, so that parallel calls share one channel instead of opening one each.
    const current = this.#channels.get(model.digest)
    const settled = current ? await current.catch(() => undefined) : undefined
    if (settled && settled !== known && !settled.dead) return settled
    const pending = this.#openChannel(model, options, exclude)
    this.#channels.set(model.digest, pending)
    pending.catch(() => this.#channels.delete(model.digest))
    return pending
  }

  /** Covers the jobs asked so far, and as many ahead as the options say. */
  async #cover(channel: Channel): Promise<{ cumulative: bigint; signature: Uint8Array } | undefined> {
    const { price } = channel.terms
    const due = (channel.asked - channel.free) * price
    if (channel.voucher && channel.voucher.cumulative >= due) return channel.voucher
    const cumulative = due + BigInt(this.#options.coverJobs - 1) * price
    const digest = voucherDigest(await this.#domain(), { channel: toHex(channel.id), cumulative })
    channel.voucher = { cumulative, signature: await this.#options.signer.sign(digest) }
    return channel.voucher
  }

  /** Buys one inference. Throws VerificationError when anything does not verify, EdgeError when nobody could serve it, JobFailedError when the model refused it; the last two cost nothing. */
  async infer(reference: string, tensors: readonly Tensor[], options: InferOptions = {}): Promise<Inference> {
    const model = await this.model(reference)
    checkTensors(tensors, model.manifest.inputs)
    if (options.maxPrice !== undefined && model.listing.price > options.maxPrice) {
      throw new VerificationError(
        'price_above_cap',
        `The price is ${model.listing.price}, your cap is ${options.maxPrice}.`,
      )
    }
    const exclude: Hex[] = []
    for (let attempt = 0; ; attempt++) {
      const channel = await this.#channel(model, options, exclude)
      try {
        return await this.#ask(model, channel, tensors, options.deadlineMs ?? 30_000)
      } catch (error) {
        if (error instanceof VerificationError) channel.dead = true
        const gone = error instanceof EdgeError && (movable.has(error.code) || retryable.has(error.code))
        if (!gone || attempt >= 2) throw error
        channel.dead = true
        if (error.code === 'at_capacity' || error.code === 'draining') exclude.push(channel.runner.signer)
      }
    }
  }

  async #ask(model: Model, channel: Channel, tensors: readonly Tensor[], deadlineMs: number): Promise<Inference> {
    const job = channel.nextJob++
    channel.asked++
    const salt = this.#options.random(32)
    const input = tensorCommitment(salt, [...tensors, ...model.fixed])
    const body = await channel.envelope.seal(
      job,
      direction.request,
      encodeBody('inputs', tensors, { salt: toHex(salt) }),
    )
    const answer = await this.#send(channel, job, body, deadlineMs)
    const domain = await this.#domain()
    const { price } = channel.terms
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
    )
    channel.opened = true

    let plaintext: Uint8Array
    try {
      plaintext = await channel.envelope.open(job, direction.answer, answer.body)
    } catch {
      throw new VerificationError('answer_seal', 'The answer was changed on its way, or is not for this job.')
    }
    const decoded = decodeBody('outputs', plaintext)
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

  /** Posts a job, and again with the very same bytes while the network or the edge stumbles. */
  async #send(channel: Channel, job: bigint, body: Uint8Array, deadlineMs: number): Promise<JobAnswer> {
    const until = this.#options.now() + deadlineMs
    const voucher = await this.#cover(channel)
    for (let attempt = 0; ; attempt++) {
      const frame = encodeJobRequest({
        ticket: 0,
        channel: channel.id,
        job,
        context: channel.context,
        deadlineMs: Math.max(1, Math.min(0xffff_ffff, until - this.#options.now())),
        ...(channel.opened && attempt === 0 ? {} : { opening: { terms: channel.terms, enc: channel.enc } }),
        ...(voucher ? { voucher } : {}),
        body,
      })
      try {
        const decoded = decodeFrame(
          await this.edge.bytes(`/v1/runners/${channel.runner.signer}/jobs`, { method: 'POST', body: frame }),
        )
        if (decoded.type !== 'jobAnswer')
          throw new VerificationError('answer_form', 'The edge answered with something that is not a job answer.')
        return decoded
      } catch (error) {
        const waitMs = Math.min(2_000, 100 * 2 ** attempt)
        const again =
          error instanceof EdgeError &&
          (retryable.has(error.code) || (error.code === 'unknown_context' && channel.opened && attempt === 0))
        if (!again || this.#options.now() + waitMs > until) throw error
        await this.#options.sleep(waitMs)
      }
    }
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
