import { concat, EncodingError, equalBytes, fromHex, fromUtf8, type Hex, Reader, toHex, uint, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { addressOf } from '../secp256k1.ts'
import type { Refusal } from './verdict.ts'

/** Says what a quote vouches for: where the runner registers, its keys, a recent nonce, its GPU evidence and workload, until when (unix seconds). */
export type Statement = {
  root: 'vendor' | 'development'
  chainId: bigint
  registry: Hex
  /** Compressed secp256k1 key, 33 bytes. */
  signerKey: Uint8Array
  /** X25519 key, 32 bytes. */
  hpkeKey: Uint8Array
  nonce: Uint8Array
  gpuEvidence: Uint8Array
  workload: Hex
  notAfter: bigint
}

const tags = { vendor: ['ASY1stmt', 'ASY1'], development: ['ASYDstmt', 'ASYD'] } as const

function fixed(bytes: Uint8Array, size: number, field: string): Uint8Array {
  if (bytes.length !== size) throw new EncodingError(`${field} takes ${size} bytes, got ${bytes.length}.`)
  return bytes
}

/** Writes a statement in its fixed-width form. */
export function encodeStatement(statement: Statement): Uint8Array<ArrayBuffer> {
  return concat(
    utf8(tags[statement.root][0]),
    uint(statement.chainId, 8),
    fromHex(statement.registry, 20),
    fixed(statement.signerKey, 33, 'signerKey'),
    fixed(statement.hpkeKey, 32, 'hpkeKey'),
    fixed(statement.nonce, 32, 'nonce'),
    fixed(statement.gpuEvidence, 32, 'gpuEvidence'),
    fromHex(statement.workload, 32),
    uint(statement.notAfter, 8),
  )
}

/** Reads a statement. Throws EncodingError unless it is 205 bytes with a known tag. */
export function decodeStatement(bytes: Uint8Array): Statement {
  const reader = new Reader(bytes)
  const tag = fromUtf8(reader.take(8))
  const root = tag === tags.vendor[0] ? 'vendor' : tag === tags.development[0] ? 'development' : null
  if (!root) throw new EncodingError('Not a statement: unknown tag.')
  const statement: Statement = {
    root,
    chainId: reader.u64(),
    registry: toHex(reader.take(20)),
    signerKey: reader.take(33),
    hpkeKey: reader.take(32),
    nonce: reader.take(32),
    gpuEvidence: reader.take(32),
    workload: toHex(reader.take(32)),
    notAfter: reader.u64(),
  }
  reader.end()
  return statement
}

/** Builds the 64 bytes of report data that tie a quote to a statement. */
export function reportDataOf(statement: Statement): Uint8Array<ArrayBuffer> {
  return concat(
    fromHex(addressOf(statement.signerKey), 20),
    utf8(tags[statement.root][1]),
    uint(statement.notAfter, 8),
    sha256(encodeStatement(statement)),
  )
}

/** Derives the nonce a GPU must answer, so that its evidence is tied to these keys. */
export function gpuNonce(nonce: Uint8Array, signer: Hex, hpkeKey: Uint8Array): Uint8Array {
  return sha256(
    concat(utf8('ASY1gpu\0'), fixed(nonce, 32, 'nonce'), fromHex(signer, 20), fixed(hpkeKey, 32, 'hpkeKey')),
  )
}

/** Compares a quote's report data and measurement with the statement it should vouch for. Gives the first refusal, or the statement. */
export function checkStatement(
  statementBytes: Uint8Array,
  {
    reportData,
    workload,
    root,
    chainId,
    registry,
    now,
  }: {
    reportData: Uint8Array
    workload: Hex
    root: 'vendor' | 'development'
    chainId: number
    registry: Hex
    now: number
  },
): { ok: true; statement: Statement; signer: Hex } | { ok: false; refusal: Refusal } {
  const refuse = (reason: Refusal['reason'], detail: string) => ({ ok: false, refusal: { reason, detail } }) as const
  let statement: Statement
  let signer: Hex
  try {
    statement = decodeStatement(statementBytes)
    signer = addressOf(statement.signerKey)
  } catch (error) {
    return refuse(
      'statement',
      error instanceof EncodingError ? error.message : 'The signer key is not a point on secp256k1.',
    )
  }
  if (statement.root !== root) return refuse('statement', `A ${statement.root} statement under a ${root} root.`)
  if (!equalBytes(reportData, reportDataOf(statement))) {
    return refuse('report_data', 'The report data does not name this signer, expiry and statement.')
  }
  if (statement.chainId !== BigInt(chainId))
    return refuse('statement', `Made for chain ${statement.chainId}, not ${chainId}.`)
  if (statement.registry !== registry.toLowerCase())
    return refuse('statement', `Made for registry ${statement.registry}, not ${registry}.`)
  if (statement.workload !== workload)
    return refuse('statement', 'The statement names another workload than the quote measures.')
  if (statement.notAfter < BigInt(now)) return refuse('statement', `Expired at ${statement.notAfter}, now is ${now}.`)
  return { ok: true, statement, signer }
}
