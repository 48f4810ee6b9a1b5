import { concat, EncodingError, uint } from '../protocol/bytes.ts'
import { createEnvelope, type Direction, type EnvelopeKeys, envelopeAad, envelopeNonce } from '../protocol/envelope.ts'

/** Seals and opens the bodies of one channel and context as `protocol/envelope.ts` does, at once where the platform can. */
export type Sealer = {
  seal(job: bigint, way: Direction, plaintext: Uint8Array): Uint8Array | Promise<Uint8Array>
  /** Throws EncodingError when the body is not what the other end sealed for this channel, job and direction. */
  open(job: bigint, way: Direction, sealed: Uint8Array): Uint8Array | Promise<Uint8Array>
  /** Derives the 32-byte salt of a job's output commitment. */
  outputSalt(job: bigint): Uint8Array | Promise<Uint8Array>
}

type Cipher = {
  setAAD(bytes: Uint8Array): void
  setAuthTag(tag: Uint8Array): void
  update(bytes: Uint8Array): Uint8Array
  final(): Uint8Array
  getAuthTag(): Uint8Array
}
type MakeCipher = (name: 'aes-256-gcm', key: object, nonce: Uint8Array, options: { authTagLength: number }) => Cipher

/** Names what is used of `node:crypto`. */
export type NodeCrypto = {
  createCipheriv: MakeCipher
  createDecipheriv: MakeCipher
  createSecretKey(bytes: Uint8Array): object
  createHmac(name: 'sha256', key: object): { update(bytes: Uint8Array): { digest(): Uint8Array } }
}

/** Finds `node:crypto` without an import, so that browsers can load this file; null where there is none. */
export const findNodeCrypto = (): NodeCrypto | null =>
  (
    globalThis as { process?: { getBuiltinModule?: (id: string) => NodeCrypto | undefined } }
  ).process?.getBuiltinModule?.('node:crypto') ?? null

const tag = { authTagLength: 16 }

/** Makes the envelope of a channel: on Node's own cipher where there is one, since WebCrypto hands each body to another thread, which costs ten times the sealing of a small one; on WebCrypto elsewhere. */
export async function createSealer(
  channel: Uint8Array,
  keys: EnvelopeKeys,
  node: NodeCrypto | null = findNodeCrypto(),
): Promise<Sealer> {
  if (!node) return createEnvelope(channel, keys)
  const byDirection = [node.createSecretKey(keys.request), node.createSecretKey(keys.answer)] as const
  const salt = node.createSecretKey(keys.salt)
  return {
    seal(job, way, plaintext) {
      const cipher = node.createCipheriv('aes-256-gcm', byDirection[way], envelopeNonce(job), tag)
      cipher.setAAD(envelopeAad(channel, job, way))
      const sealed = new Uint8Array(plaintext.length + tag.authTagLength)
      sealed.set(cipher.update(plaintext))
      // GCM is a stream: final() gives no bytes, it only makes the tag.
      cipher.final()
      sealed.set(cipher.getAuthTag(), plaintext.length)
      return sealed
    },
    open(job, way, sealed) {
      try {
        const length = sealed.length - tag.authTagLength
        const decipher = node.createDecipheriv('aes-256-gcm', byDirection[way], envelopeNonce(job), tag)
        decipher.setAAD(envelopeAad(channel, job, way))
        decipher.setAuthTag(sealed.subarray(length))
        const plaintext = decipher.update(sealed.subarray(0, length))
        decipher.final()
        // A view of the plain kind: a Buffer's slice() shares memory where a Uint8Array's copies.
        return new Uint8Array(plaintext.buffer, plaintext.byteOffset, plaintext.length)
      } catch {
        throw new EncodingError(
          'The sealed body does not open: it was changed, or sealed for another channel, job or direction.',
        )
      }
    },
    outputSalt: (job) =>
      new Uint8Array(
        node
          .createHmac('sha256', salt)
          .update(concat(channel, uint(job, 8)))
          .digest(),
      ),
  }
}
