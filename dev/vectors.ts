import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { attestedVerdictDigest } from '../protocol/attestedVerdict.ts'
import { batchDigest } from '../protocol/batch.ts'
import { fromHex, type Hex, toHex, uint, utf8 } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import { encodeStatement, reportDataOf } from '../protocol/evidence/statement.ts'
import { executionDigest } from '../protocol/execution.ts'
import { sha256 } from '../protocol/hash.ts'
import { listingDigest } from '../protocol/listing.ts'
import { type Manifest, modelDigest } from '../protocol/manifest.ts'
import { merkleTree } from '../protocol/merkle.ts'
import { detailDigest, encodeDetail, encodeReceipt, receiptLeaf } from '../protocol/receipt.ts'
import { connectDigest, registrationDigest, successionDigest } from '../protocol/registration.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import { canonicalTensors, type Tensor, tensorCommitment } from '../protocol/tensors.ts'
import { channelOf, encodeTerms } from '../protocol/terms.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import { developmentKey } from './keys.ts'

/** Makes the protocol's test vectors from fixed seeds: hexadecimal and decimal text only, so that Solidity reads them as well. */
export function makeVectors(): Record<string, object> {
  const bytes = (label: string) => sha256(utf8(`assay vector ${label}`))
  const hex = (label: string) => toHex(bytes(label))
  const signer = (name: string) => createSigner(fromHex(developmentKey(name), 32))
  const domain: Domain = { chainId: 31_337, escrow: hex('escrow').slice(0, 42) as Hex }
  const terms = {
    buyer: signer('buyer').address,
    runner: signer('runner').address,
    model: hex('model'),
    publisher: signer('publisher').address,
    price: 1_234_567_890_123_456_789n,
    royaltyBps: 1_250,
    feeBps: 100,
    expiresAt: 1_800_000_000n,
    salt: hex('salt'),
  }
  const channel = channelOf(domain, terms)
  const detail = { input: bytes('input'), output: bytes('output'), execution: bytes('execution'), price: terms.price }
  const receipt = {
    channel: fromHex(channel),
    job: 42n,
    status: 0,
    cumulative: 5n * terms.price,
    finishedAt: 1_790_000_000n,
    detail: detailDigest(detail),
  }
  const trees = Array.from({ length: 9 }, (_, size) => {
    const leaves = Array.from({ length: size + 1 }, (_, index) => bytes(`leaf ${index}`))
    const { root, proofs } = merkleTree(leaves)
    return { leaves: leaves.map(toHex), root: toHex(root), proofs: proofs.map(({ path }) => path.map(toHex)) }
  })
  const tensors: Tensor[] = [
    { name: 'pixels', datatype: 'FP32', shape: [1, 2], data: new Uint8Array(Float32Array.of(0.5, -1).buffer) },
    { name: 'count', datatype: 'INT64', shape: [], data: uint(7, 8).reverse() },
    { name: 'words', datatype: 'BYTES', shape: [1], data: fromHex('0x03000000616263') },
  ]
  const manifest: Manifest = {
    name: 'digits',
    version: '1',
    licence: 'Apache-2.0',
    files: [{ path: 'model.onnx', size: 3, sha256: toHex(sha256(utf8('abc'))).slice(2) }],
    inputs: [{ name: 'pixels', datatype: 'FP32', shape: [-1, 64] }],
    outputs: [{ name: 'probabilities', datatype: 'FP32', shape: [-1, 10] }],
    fixedInputs: [],
    execution: { class: 'tolerant', atol: 1e-7, rtol: 0.001 },
    opsets: [{ domain: '', version: 13 }],
  }
  const execution = {
    runtime: 'onnxruntime-node',
    runtimeVersion: '1.30.0',
    provider: 'cpu',
    optimization: 'all',
    threads: 1,
    class: 'exact',
    batch: 'free',
    measurement: hex('workload'),
  } as const
  const statement = {
    root: 'development',
    chainId: 31_337n,
    registry: hex('registry').slice(0, 42) as Hex,
    signerKey: signer('runner').publicKey,
    hpkeKey: bytes('hpke'),
    nonce: bytes('nonce'),
    gpuEvidence: new Uint8Array(32),
    workload: hex('workload'),
    notAfter: 1_800_000_000n,
  } as const
  const listing = {
    model: terms.model,
    publisher: terms.publisher,
    payout: terms.publisher,
    price: terms.price,
    royaltyBps: 1_250,
    unit: 'inference',
    validUntil: 1_800_000_000n,
    nonce: 3n,
  }
  const runner = terms.runner
  const verdict = {
    evidenceDigest: hex('evidence'),
    signer: runner,
    provider: terms.publisher,
    workload: hex('workload'),
    tee: 130,
    tcbTier: 1,
    validUntil: 1_800_000_000n,
    policyEpoch: 7,
  }
  const typed = {
    voucher: { cumulative: '777', digest: toHex(voucherDigest(domain, { channel, cumulative: 777n })) },
    batch: { root: hex('root'), count: '9', digest: toHex(batchDigest(domain, { root: bytes('root'), count: 9 })) },
    registration: {
      runner,
      provider: terms.publisher,
      statement: hex('statement'),
      digest: toHex(registrationDigest(domain, { runner, provider: terms.publisher, statement: hex('statement') })),
    },
    connect: { at: '1790000000', digest: toHex(connectDigest(domain, { runner, at: 1_790_000_000n })) },
    succession: { digest: toHex(successionDigest(domain, { predecessor: runner, successor: terms.buyer })) },
    listing: { unit: 'inference', nonce: '3', digest: toHex(listingDigest(domain, listing)) },
  }
  const text = (record: Record<string, unknown>) =>
    Object.fromEntries(
      Object.entries(record).map(([key, value]) => [
        key,
        value instanceof Uint8Array
          ? toHex(value)
          : typeof value === 'bigint' || typeof value === 'number'
            ? String(value)
            : value,
      ]),
    )
  return {
    domain: text(domain),
    terms: { ...text(terms), encoded: toHex(encodeTerms(terms)), channel },
    typed,
    attestedVerdict: {
      registry: statement.registry,
      ...text(verdict),
      digest: toHex(attestedVerdictDigest({ chainId: domain.chainId, registry: statement.registry }, verdict)),
    },
    receipt: {
      ...text(receipt),
      encoded: toHex(encodeReceipt(receipt)),
      leaf: toHex(receiptLeaf(receipt)),
      detailInput: toHex(detail.input),
      detailOutput: toHex(detail.output),
      detailExecution: toHex(detail.execution),
      detailPrice: String(detail.price),
      detailEncoded: toHex(encodeDetail(detail)),
    },
    merkle: { trees },
    tensors: {
      tensors: tensors.map((tensor) => ({ ...tensor, data: toHex(tensor.data) })),
      canonical: toHex(canonicalTensors(tensors)),
      salt: hex('tensor salt'),
      commitment: toHex(tensorCommitment(bytes('tensor salt'), tensors)),
    },
    manifest: { manifest, digest: modelDigest(manifest) },
    execution: { execution, digest: toHex(executionDigest(execution)) },
    statement: {
      ...text(statement),
      encoded: toHex(encodeStatement(statement)),
      reportData: toHex(reportDataOf(statement)),
    },
  }
}

/** Gives the text of a vector file. */
export function vectorText(vector: object): string {
  return `${JSON.stringify(vector, null, 2)}\n`
}

if (import.meta.main) {
  const folder = join(import.meta.dirname, '../protocol/vectors')
  mkdirSync(folder, { recursive: true })
  for (const [name, vector] of Object.entries(makeVectors()))
    writeFileSync(join(folder, `${name}.json`), vectorText(vector))
}
