import { Assay } from '../../client/assay.ts'
import { developmentKey } from '../../dev/keys.ts'
import { createDevelopmentTee } from '../../gpu-runner/tee/development.ts'
import { batchDigest } from '../../protocol/batch.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { createEnvelope, direction, type Envelope, envelopeInfo, envelopeKeys } from '../../protocol/envelope.ts'
import { signedReceiptToJson } from '../../protocol/equivocation.ts'
import { collateralToJson, evidenceToJson } from '../../protocol/evidence/index.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { encodeStatement, reportDataOf, type Statement } from '../../protocol/evidence/statement.ts'
import {
  decodeFrame,
  encodeJobAnswer,
  encodeJobProblem,
  type Frame,
  type JobAnswer,
  type JobRequest,
  joinFrames,
  setTicket,
  splitFrames,
} from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { generateHpkeKeyPair, setupRecipient } from '../../protocol/hpke.ts'
import { listingDigest } from '../../protocol/listing.ts'
import { type Manifest, modelDigest } from '../../protocol/manifest.ts'
import { merkleTree } from '../../protocol/merkle.ts'
import { decodeBody, encodeBody, encodeErrorBody, saltOf } from '../../protocol/oip.ts'
import { detailDigest, receiptLeaf } from '../../protocol/receipt.ts'
import { createSigner, type Signer } from '../../protocol/secp256k1.ts'
import { type Tensor, tensorCommitment } from '../../protocol/tensors.ts'

export const now = Date.UTC(2026, 10, 21)
export const seconds = now / 1000
export const key = (name: string): Signer => createSigner(fromHex(developmentKey(name), 32))
export const address = (label: string) => toHex(sha256(new TextEncoder().encode(label))).slice(0, 42) as Hex
export const input: Tensor = {
  name: 'x',
  datatype: 'FP32',
  shape: [2],
  data: new Uint8Array(Float32Array.of(1, 2).buffer),
}

/** Says what the world does wrong; each hook sees an honest value and may give another. */
export type Lies = {
  faults?: Parameters<typeof createDevelopmentTee>[0]['faults']
  statement?: (statement: Statement) => Statement
  match?: (match: { runner: Record<string, unknown>; model: Record<string, unknown>; feeBps: number }) => object
  listing?: (model: { manifest: Manifest; listing: Record<string, unknown>; signature: Hex }) => object
  quote?: (quote: Uint8Array) => Uint8Array
  outputs?: (outputs: Tensor[]) => Tensor[]
  answer?: (answer: JobAnswer) => JobAnswer
  /** Changes what is signed, before the batch is made. */
  receipt?: (answer: JobAnswer) => JobAnswer
  domain?: (domain: Domain) => Domain
  signer?: Signer
  respond?: (attempt: number, request: JobRequest) => Response | 'throw' | undefined
  fail?: boolean
  /** What the edge shows of a channel's receipts, out of every answer given. */
  shown?: (answers: JobAnswer[]) => object[]
  coverOf?: (runner: Hex, until: bigint) => Promise<bigint>
  /** Signs the honest buyer's vouchers. */
  buyer?: Signer
  /** Takes one job a request and no more. */
  takesOne?: boolean
  /** Answers a request of several jobs, given what an honest edge would say of each, by its ticket. */
  several?: (
    frames: Uint8Array<ArrayBuffer>[],
    request: { path: string; init: RequestInit },
  ) => Response | Promise<Response> | 'throw'
}

/** Makes an honest edge and runner out of the protocol itself, then lets it lie. */
export async function world(lies: Lies = {}) {
  const tee = createDevelopmentTee({ seed: new Uint8Array(32).fill(5), now: () => seconds, faults: lies.faults ?? [] })
  const network = {
    chainId: 31_337,
    escrow: address('escrow'),
    registry: address('registry'),
    policy: address('policy'),
    attestedInference: address('ai'),
    token: address('token'),
    feeBps: 100,
    developmentRoots: true,
  }
  const domain: Domain = { chainId: network.chainId, escrow: network.escrow }
  const publisher = key('publisher')
  const runner = key('runner')
  const hpke = await generateHpkeKeyPair()
  const manifest: Manifest = {
    name: 'double',
    version: '1',
    licence: 'Apache-2.0',
    files: [{ path: 'model.onnx', size: 1, sha256: '0'.repeat(64) }],
    inputs: [{ name: 'x', datatype: 'FP32', shape: [-1] }],
    outputs: [{ name: 'y', datatype: 'FP32', shape: [-1] }],
    fixedInputs: [],
    execution: { class: 'exact' },
    opsets: [{ domain: '', version: 13 }],
  }
  const digest = modelDigest(manifest)
  const listing = {
    model: digest,
    publisher: publisher.address,
    payout: publisher.address,
    price: 10n,
    royaltyBps: 500,
    unit: 'inference',
    validUntil: BigInt(seconds + 10_000),
    nonce: 1n,
  }
  const signature = toHex(await publisher.sign(listingDigest(domain, listing)))
  const listingJson = { ...listing, price: '10', validUntil: String(listing.validUntil), nonce: '1' }

  const base: Statement = {
    root: 'development',
    chainId: 31_337n,
    registry: network.registry,
    signerKey: runner.publicKey,
    hpkeKey: hpke.rawPublicKey,
    nonce: new Uint8Array(32),
    gpuEvidence: new Uint8Array(32),
    workload: tdxWorkload(parseTdxQuote(tee.quote(new Uint8Array(64))).body),
    notAfter: BigInt(seconds + 3_600),
  }
  const statement = lies.statement?.(base) ?? base
  const honestQuote = tee.quote(reportDataOf(statement))
  const quote = lies.quote?.(honestQuote) ?? honestQuote
  const requests: JobRequest[] = []
  const answers: JobAnswer[] = []
  const given = new Map<string, JobAnswer>()
  const paths: string[] = []
  /** How many jobs each request carried. */
  const posts: number[] = []
  const envelopes = new Map<string, Envelope>()
  const totals = new Map<string, bigint>()

  async function run(request: JobRequest): Promise<JobAnswer> {
    if (request.opening) {
      const context = await setupRecipient(hpke, request.opening.enc, envelopeInfo(request.channel))
      envelopes.set(toHex(request.context), await createEnvelope(request.channel, await envelopeKeys(context)))
    }
    const envelope = envelopes.get(toHex(request.context))!
    const body = decodeBody('inputs', await envelope.open(request.job, direction.request, request.body))
    const honest: Tensor[] = body.tensors.map((tensor) => {
      const doubled = new Float32Array(tensor.data.slice().buffer).map((value) => value * 2)
      return { name: 'y', datatype: 'FP32', shape: tensor.shape, data: new Uint8Array(doubled.buffer) }
    })
    const outputs = lies.outputs?.(honest) ?? honest
    const price = lies.fail ? 0n : 10n
    const total = (totals.get(toHex(request.channel)) ?? 0n) + price
    totals.set(toHex(request.channel), total)
    const detail = {
      input: tensorCommitment(saltOf(body), body.tensors),
      output: lies.fail ? new Uint8Array(32) : tensorCommitment(await envelope.outputSalt(request.job), honest),
      execution: sha256(new Uint8Array(1)),
      price,
    }
    let answer: JobAnswer = {
      ticket: 0,
      receipt: {
        channel: request.channel,
        job: request.job,
        status: lies.fail ? 2 : 0,
        cumulative: total,
        finishedAt: BigInt(seconds),
        detail: detailDigest(detail),
      },
      detail,
      signature: new Uint8Array(65),
      proof: { index: 0, count: 1, path: [] },
      body: await envelope.seal(
        request.job,
        direction.answer,
        lies.fail ? encodeErrorBody('division by zero') : encodeBody('outputs', outputs),
      ),
    }
    answer = lies.receipt?.(answer) ?? answer
    const neighbour = sha256(new Uint8Array([1]))
    const { root, proofs } = merkleTree([neighbour, receiptLeaf(answer.receipt)])
    const signed = await (lies.signer ?? runner).sign(batchDigest(lies.domain?.(domain) ?? domain, { root, count: 2 }))
    answer = { ...answer, signature: signed, proof: proofs[1]! }
    answers.push(answer)
    return lies.answer?.(answer) ?? answer
  }

  const fake = async (target: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const path = new URL(String(target)).pathname
    paths.push(path)
    if (path === '/v1/network') return Response.json(network)
    if (path.startsWith('/v1/models/')) {
      const model = {
        digest,
        owner: publisher.address,
        name: 'double',
        version: '1',
        card: '',
        createdAt: '',
        manifest,
        listing: listingJson,
        signature,
      }
      return Response.json({ ...model, ...lies.listing?.({ manifest, listing: listingJson, signature }) })
    }
    if (path === '/v1/matches') {
      const match = {
        runner: {
          signer: runner.address,
          hpkeKey: toHex(hpke.rawPublicKey),
          provider: address('provider'),
          evidenceDigest: toHex(sha256(quote)),
          validUntil: '',
        },
        model: { digest, price: '10', royaltyBps: 500, payout: publisher.address },
        feeBps: 100,
        validUntil: '',
      }
      return Response.json({ ...match, ...lies.match?.(match) })
    }
    if (path.startsWith('/v1/channels/'))
      return Response.json({ receipts: (lies.shown ?? shownAs)(answers), nextCursor: null })
    if (path.endsWith('/evidence'))
      return Response.json({
        statement: toHex(encodeStatement(statement)),
        evidence: evidenceToJson({ format: 'tdx', quote }),
        collateral: collateralToJson(tee.collateral()),
      })
    const bytes = new Uint8Array(init!.body as Uint8Array<ArrayBuffer>)
    const several = (init!.headers as Record<string, string>)['content-type'] === 'application/vnd.assay.jobs'
    if (!several) {
      posts.push(1)
      return one(decodeFrame(bytes))
    }
    const asked = splitFrames(bytes).map((each) => decodeFrame(each))
    posts.push(asked.length)
    if (lies.takesOne) return problem('bad_frame', 422)
    const frames: Uint8Array<ArrayBuffer>[] = []
    for (const frame of asked) {
      const { ticket } = frame as JobRequest
      const response = await one(frame)
      const answer = response.ok
        ? new Uint8Array(await response.arrayBuffer())
        : encodeJobProblem({ ticket, problem: (await response.json()) as Record<string, unknown> })
      setTicket(answer, ticket)
      frames.push(answer)
    }
    const response = (await lies.several?.(frames, { path, init: init! })) ?? new Response(joinFrames(frames))
    if (response === 'throw') throw new TypeError('connection reset')
    return response
  }
  async function one(frame: Frame): Promise<Response> {
    if (frame.type !== 'jobRequest') throw new Error('not a job')
    requests.push(frame)
    const response = lies.respond?.(requests.length, frame)
    if (response === 'throw') throw new TypeError('connection reset')
    if (response) return response
    // A job that comes again is answered as it was.
    const name = `${toHex(frame.channel)}:${frame.job}`
    const answer = given.get(name) ?? (await run(frame))
    given.set(name, answer)
    return new Response(encodeJobAnswer(answer))
  }
  const roots = [developmentRoots({ chainId: 31_337, intel: tee.rootDer })]
  const clock = { ms: now }
  const buy = new Assay({
    edge: 'http://edge.test',
    signer: lies.buyer ?? key('buyer'),
    roots,
    fetch: fake as typeof fetch,
    now: () => clock.ms,
    sleep: async () => {},
    ...(lies.coverOf ? { coverOf: lies.coverOf } : {}),
  })
  const strict = new Assay({
    edge: 'http://edge.test',
    signer: key('buyer'),
    fetch: fake as typeof fetch,
    now: () => now,
  })
  return { buy, strict, digest, requests, paths, posts, roots, runner, domain, clock }
}

export const shownAs = (answers: JobAnswer[]) => answers.map(signedReceiptToJson)

export const problem = (code: string, status: number) =>
  new Response(JSON.stringify({ code, status, detail: code }), {
    status,
    headers: { 'content-type': 'application/problem+json' },
  })
