import { secp256k1 } from '@noble/curves/secp256k1.js'
import {
  judgeRegistration,
  type RegistrationClaim,
  type RegistrationJson,
  registrationToJson,
} from '../protocol/attestRegistration.ts'
import { concat, fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import { gpuEvidenceDigest } from '../protocol/evidence/gpu.ts'
import {
  type Collateral,
  type CollateralOf,
  defaultPolicy,
  type Evidence,
  type GpuEvidence,
  type Roots,
} from '../protocol/evidence/index.ts'
import { remedyFor } from '../protocol/evidence/remedies.ts'
import { encodeStatement, gpuNonce, reportDataOf } from '../protocol/evidence/statement.ts'
import { workloadOf } from '../protocol/evidence/workload.ts'
import { sha256 } from '../protocol/hash.ts'
import { registrationDigest } from '../protocol/registration.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import type { RunnerChain } from './chain.ts'
import { TeeUnavailableError } from './tee/configfsTsm.ts'
import type { Tee } from './tee/tee.ts'
import type { AgreedVerdict } from './verdicts.ts'

/** How often a registration that is already on chain is offered to the edge: for about a minute. */
const postAttempts = 6

/** How long a statement is good for, in seconds: as long as the registry keeps a registration. */
const statementSeconds = 86_400

/** Reports that this machine would be refused, before anything is paid, and what to do. */
export class MachineRefusedError extends Error {
  override name = 'MachineRefusedError'
}

/** Attests and registers: nonce, GPUs, statement, quote, collateral, a look of one's own by the policy the edge judges by, chain, edge, in this order. The chain verifies a TDX quote by itself and takes other evidence on the word of its verifiers. `workload` is measured by a first quote, since a guest cannot name it otherwise. Gives the expiry in unix seconds and the workload. */
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
  roots,
  agreedVerdict,
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
  /** Gets what the vendor says of the platform. */
  collateralFor: (evidence: Evidence) => Promise<Collateral | null>
  /** What this machine's evidence must stand on. */
  roots: readonly Roots[]
  /** Asks the verifiers for a verdict on evidence the chain cannot verify; absent where none are known. */
  agreedVerdict?: (claim: RegistrationClaim, nonceBlock: bigint) => Promise<AgreedVerdict>
  postToEdge: (registration: RegistrationJson) => Promise<void>
  now: () => number
  /** Waits, in milliseconds. */
  sleep?: (ms: number) => Promise<unknown>
}): Promise<{ validUntil: number; workload: Hex }> {
  const workload = workloadOf(await tee.evidence(new Uint8Array(64)))
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
  const evidence = await tee.evidence(reportDataOf(statement))
  const signature = await signer.sign(
    registrationDigest(domain, { runner: signer.address, provider: chain.provider, statement: toHex(sha256(bytes)) }),
  )
  const claim: RegistrationClaim = {
    statement: bytes,
    evidence,
    gpus: gpuEvidence.map((each) => ({ format: 'gpu', ...each })),
    provider: chain.provider,
    signature,
  }
  const collateral = await collateralFor(evidence)
  const judged = await judgeRegistration(claim, collateral, {
    now: Math.floor(now() / 1000),
    roots,
    policy: defaultPolicy,
    gpuCollateral: { rims: [], ocsp: null },
    domain,
    registry,
  })
  if (!judged.ok) {
    const { reason, detail } = judged.refusal
    throw new MachineRefusedError(`This machine would be refused: ${reason}: ${detail} ${remedyFor(reason)}`)
  }
  if (evidence.format === 'tdx')
    await chain.register({
      quote: evidence.quote,
      collateral: collateral as CollateralOf<'tdx'>,
      now: Math.floor(now() / 1000),
      statement: bytes,
      nonceBlock: number,
      signerKey: concat(secp256k1.Point.fromBytes(signer.publicKey).toBytes(false)),
      signature,
    })
  else if (agreedVerdict) await chain.registerVerdict(await agreedVerdict(claim, number))
  else
    throw new TeeUnavailableError(
      'This machine gives SNP reports, which the chain takes on the word of its verifiers: name them in ASSAY_VERIFIERS.',
    )
  const registration = registrationToJson(claim)
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
