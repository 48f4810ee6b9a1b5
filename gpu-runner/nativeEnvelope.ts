import crypto from 'node:crypto'
import type { EnvelopeKeys } from '../protocol/envelope.ts'
import { createNodeEnvelope, type NodeCrypto, type NodeEnvelope } from '../protocol/nodeEnvelope.ts'
import { hmacRows } from '../protocol/sha256Lanes.ts'

/** Seals and opens the bodies of one channel and context without leaving the turn of the loop. */
export type NativeEnvelope = NodeEnvelope

/** Makes the envelope of a channel on Node's own cipher, in memory from Node's pool: small pieces of their own would be many for the collector. */
export const createNativeEnvelope = (channel: Uint8Array, keys: EnvelopeKeys): NativeEnvelope =>
  createNodeEnvelope(channel, keys, crypto as unknown as NodeCrypto, { allocate: Buffer.allocUnsafe, hmacRows })
