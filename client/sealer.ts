import { createEnvelope, type Direction, type EnvelopeKeys } from '../protocol/envelope.ts'
import { createNodeEnvelope, findNodeCrypto, type NodeCrypto } from '../protocol/nodeEnvelope.ts'

/** Seals and opens the bodies of one channel and context as `protocol/envelope.ts` does, at once where the platform can. */
export type Sealer = {
  seal(job: bigint, way: Direction, plaintext: Uint8Array): Uint8Array | Promise<Uint8Array>
  /** Throws EncodingError when the body is not what the other end sealed for this channel, job and direction. */
  open(job: bigint, way: Direction, sealed: Uint8Array): Uint8Array | Promise<Uint8Array>
  /** Derives the 32-byte salt of a job's output commitment. */
  outputSalt(job: bigint): Uint8Array | Promise<Uint8Array>
}

/** Makes the envelope of a channel: on Node's own cipher where there is one, on WebCrypto elsewhere. */
export const createSealer = async (
  channel: Uint8Array,
  keys: EnvelopeKeys,
  node: NodeCrypto | null = findNodeCrypto(),
): Promise<Sealer> => (node ? createNodeEnvelope(channel, keys, node) : createEnvelope(channel, keys))
