import type { Hex } from './bytes.ts'
import { type Domain, type StructType, typedDataDigest } from './eip712.ts'

/** Names the provider to be paid for a runner key's work; signed by that key, so nobody else can register a quote seen in the mempool. */
export type Registration = { runner: Hex; provider: Hex; statement: Hex }

const registrationType: StructType = {
  name: 'Registration',
  fields: [
    ['runner', 'address'],
    ['provider', 'address'],
    ['statement', 'bytes32'],
  ],
}

/** Computes the EIP-712 digest of a registration; `statement` is the statement's SHA-256. */
export function registrationDigest(domain: Domain, registration: Registration): Uint8Array {
  return typedDataDigest(domain, registrationType, registration)
}

/** Opens a runner's mailbox socket at a moment (unix seconds); signed by the runner key. */
export type Connect = { runner: Hex; at: bigint }

const connectType: StructType = {
  name: 'Connect',
  fields: [
    ['runner', 'address'],
    ['at', 'uint64'],
  ],
}

/** Computes the EIP-712 digest of a connection. */
export function connectDigest(domain: Domain, connect: Connect): Uint8Array {
  return typedDataDigest(domain, connectType, connect)
}

/** Lets a restarted runner deliver its predecessor's journalled answers; signed by the provider that registered the predecessor. */
export type Succession = { predecessor: Hex; successor: Hex }

const successionType: StructType = {
  name: 'Succession',
  fields: [
    ['predecessor', 'address'],
    ['successor', 'address'],
  ],
}

/** Computes the EIP-712 digest of a succession. */
export function successionDigest(domain: Domain, succession: Succession): Uint8Array {
  return typedDataDigest(domain, successionType, succession)
}
