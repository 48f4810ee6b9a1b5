import { EncodingError, fromHex, type Hex, toHex } from './bytes.ts'
import { type StructType, typedDataDigest } from './eip712.ts'

/** Numbers the kinds of TEE as the registry stores them; `gpu` is added when a GPU was attested with it. */
export const teeNumbers = { tdx: 1, snp: 2, nitro: 3, gpu: 128 } as const

/** Says what a verifier found of evidence that no chain can afford to verify. `tcbTier` counts TCB statuses best first, `validUntil` is unix seconds, `policyEpoch` the registry's when the verdict was given. */
export type AttestedVerdict = {
  /** SHA-256 of the evidence as published, so that anyone can replay the verdict. */
  evidenceDigest: Hex
  signer: Hex
  provider: Hex
  workload: Hex
  tee: number
  tcbTier: number
  validUntil: bigint
  policyEpoch: number
}

const verdictType: StructType = {
  name: 'AttestedVerdict',
  fields: [
    ['evidenceDigest', 'bytes32'],
    ['signer', 'address'],
    ['provider', 'address'],
    ['workload', 'bytes32'],
    ['tee', 'uint8'],
    ['tcbTier', 'uint8'],
    ['validUntil', 'uint64'],
    ['policyEpoch', 'uint16'],
  ],
}

/** Computes what verifiers sign of a verdict (EIP-712, with the registry as verifying contract). Throws EncodingError when a field does not fit. */
export function attestedVerdictDigest(
  { chainId, registry }: { chainId: number | bigint; registry: Hex },
  verdict: AttestedVerdict,
): Uint8Array {
  return typedDataDigest({ chainId, escrow: registry }, verdictType, verdict)
}

/** Puts verifiers' signatures in the order the contract asks for: ascending by signer. */
export function sortSignatures(signatures: readonly { signer: Hex; signature: Hex }[]): Hex[] {
  return [...signatures]
    .sort((a, b) => (BigInt(a.signer) < BigInt(b.signer) ? -1 : 1))
    .map(({ signature }) => signature)
}

/** Shows a verdict as JSON: its 64-bit time in decimal. */
export type AttestedVerdictJson = Omit<AttestedVerdict, 'validUntil'> & { validUntil: string }

/** Turns a verdict into JSON. */
export function attestedVerdictToJson(verdict: AttestedVerdict): AttestedVerdictJson {
  return { ...verdict, validUntil: verdict.validUntil.toString() }
}

/** Reads a verdict from parsed JSON. Throws EncodingError naming what is wrong. */
export function attestedVerdictFromJson(json: unknown): AttestedVerdict {
  const given = (json ?? {}) as Partial<Record<keyof AttestedVerdict, unknown>>
  const bytes = (field: keyof AttestedVerdict, size: number): Hex => {
    const value = given[field]
    if (typeof value !== 'string') throw new EncodingError(`A verdict: ${field} must be hexadecimal text.`)
    return toHex(fromHex(value, size))
  }
  const small = (field: keyof AttestedVerdict, most: number): number => {
    const value = given[field]
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > most)
      throw new EncodingError(`A verdict: ${field} must be a whole number up to ${most}.`)
    return value
  }
  if (typeof given.validUntil !== 'string' || !/^\d{1,20}$/.test(given.validUntil))
    throw new EncodingError('A verdict: validUntil must be decimal text.')
  return {
    evidenceDigest: bytes('evidenceDigest', 32),
    signer: bytes('signer', 20),
    provider: bytes('provider', 20),
    workload: bytes('workload', 32),
    tee: small('tee', 0xff),
    tcbTier: small('tcbTier', 0xff),
    validUntil: BigInt(given.validUntil),
    policyEpoch: small('policyEpoch', 0xffff),
  }
}
