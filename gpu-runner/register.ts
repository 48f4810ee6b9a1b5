import { secp256k1 } from '@noble/curves/secp256k1.js'
import { concat, fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import { gpuEvidenceDigest } from '../protocol/evidence/gpu.ts'
import { type CollateralOf, type EvidenceOf, evidenceToJson, type GpuEvidence } from '../protocol/evidence/index.ts'
import { parseTdxQuote, tdxWorkload } from '../protocol/evidence/quote.ts'
import { encodeStatement, gpuNonce, reportDataOf } from '../protocol/evidence/statement.ts'
import { sha256 } from '../protocol/hash.ts'
import { registrationDigest } from '../protocol/registration.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import type { RunnerChain } from './chain.ts'
import { TeeUnavailableError } from './tee/configfsTsm.ts'
import type { Tee } from './tee/tee.ts'

/** Holds what a registration at the edge carries. */
export type EdgeRegistration = {
  statement: Hex
  evidence: ReturnType<typeof evidenceToJson>
  gpus?: ReturnType<typeof evidenceToJson>[]
  registration: { provider: Hex; signature: Hex }
}

/** How often a registration that is already on chain is offered to the edge: for about a minute. */
const postAttempts = 6

/** How long a statement is good for, in seconds: as long as the registry keeps a registration. */
export const statementSeconds = 86_400

/** Narrows evidence to what the registry verifies by itself; other formats reach it through a set of verifiers. */
function onChain(evidence: EvidenceOf<'tdx' | 'snp'>): EvidenceOf<'tdx'> {
  if (evidence.format === 'tdx') return evidence
  throw new TeeUnavailableError(
    'This machine gives SNP reports, which the chain takes through verifiers only: register with their signed verdict.',
  )
}

/** Attests and registers: nonce, statement, quote, collateral, chain, edge, in this order. `workload` is measured by a first quote, since a guest cannot name it otherwise. Gives the expiry in unix seconds and the workload. */
export async function registerRunner({
  tee,
  chain,
  chainId,
  registry,
  domain,
  signer,
  hpkeKey,
  gpus = async () => [],
  collateralFor,
  postToEdge,
  now,
  sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
}: {
  tee: Tee
  chain: RunnerChain
  chainId: number
  registry: Hex
  domain: Domain
  signer: Signer
  hpkeKey: Uint8Array
  /** Collects evidence of this machine's GPUs for a nonce. */
  gpus?: (nonce: Uint8Array) => Promise<GpuEvidence[]>
  /** Gets what the vendor says of the platform, for the chain to verify. */
  collateralFor: (evidence: EvidenceOf<'tdx'>) => Promise<CollateralOf<'tdx'>>
  postToEdge: (registration: EdgeRegistration) => Promise<void>
  now: () => number
  /** Waits, in milliseconds. */
  sleep?: (ms: number) => Promise<unknown>
}): Promise<{ validUntil: number; workload: Hex }> {
  const measured = onChain(await tee.evidence(new Uint8Array(64)))
  const workload = tdxWorkload(parseTdxQuote(measured.quote).body)
  const { number, hash } = await chain.recentBlock()
  const validUntil = Math.floor(now() / 1000) + statementSeconds
  const nonce = fromHex(hash, 32)
  // The GPUs answer a nonce that names the keys, and the statement names their answer: the link goes both ways.
  const gpuEvidence = await gpus(gpuNonce(nonce, signer.address, hpkeKey))
  const statement = {
    root: tee.root,
    chainId: BigInt(chainId),
    registry,
    signerKey: signer.publicKey,
    hpkeKey,
    nonce,
    gpuEvidence: gpuEvidenceDigest(gpuEvidence),
    workload,
    notAfter: BigInt(validUntil),
  } as const
  const bytes = encodeStatement(statement)
  const evidence = onChain(await tee.evidence(reportDataOf(statement)))
  const signature = await signer.sign(
    registrationDigest(domain, { runner: signer.address, provider: chain.provider, statement: toHex(sha256(bytes)) }),
  )
  await chain.register({
    quote: evidence.quote,
    collateral: await collateralFor(evidence),
    now: Math.floor(now() / 1000),
    statement: bytes,
    nonceBlock: number,
    signerKey: concat(secp256k1.Point.fromBytes(signer.publicKey).toBytes(false)),
    signature,
  })
  const registration: EdgeRegistration = {
    statement: toHex(bytes),
    evidence: evidenceToJson(evidence),
    ...(gpuEvidence.length > 0 ? { gpus: gpuEvidence.map((each) => evidenceToJson({ format: 'gpu', ...each })) } : {}),
    registration: { provider: chain.provider, signature: toHex(signature) },
  }
  // The chain has been paid: what is left to do is said again, never paid again.
  for (let attempt = 1; ; attempt++) {
    try {
      await postToEdge(registration)
      return { validUntil, workload }
    } catch (error) {
      if (attempt === postAttempts) throw error
      await sleep(500 * 2 ** attempt)
    }
  }
}
