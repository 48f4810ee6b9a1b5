import { concat, EncodingError, uint, utf8 } from './bytes.ts'
import { sha256 } from './hash.ts'
import type { HpkeContext } from './hpke.ts'

/** Tells a request from an answer in the associated data, so one can never be opened as the other. */
export const direction = { request: 0, answer: 1 } as const

/** Tells which way a sealed body goes. */
export type Direction = (typeof direction)[keyof typeof direction]

/** Gives the HPKE `info` of a channel. */
export function envelopeInfo(channel: Uint8Array): Uint8Array {
  return concat(utf8('ASY1hpke'), channel)
}

/** Names an HPKE context by its encapsulated key: 8 bytes. */
export function contextId(enc: Uint8Array): Uint8Array {
  return sha256(concat(utf8('ASY1ctxt'), enc)).slice(0, 8)
}

/** Builds the 12-byte AES-GCM nonce of a job. */
export function envelopeNonce(job: bigint): Uint8Array<ArrayBuffer> {
  const nonce = new Uint8Array(12)
  new DataView(nonce.buffer).setBigUint64(4, job)
  return nonce
}

/** Builds the associated data that ties a body to its channel, job and direction: 41 bytes. */
export function envelopeAad(channel: Uint8Array, job: bigint, way: Direction): Uint8Array<ArrayBuffer> {
  const aad = new Uint8Array(41)
  aad.set(channel)
  new DataView(aad.buffer).setBigUint64(32, job)
  aad[40] = way
  return aad
}

/** Holds the raw secrets both ends derive from one HPKE context. */
export type EnvelopeKeys = {
  request: Uint8Array<ArrayBuffer>
  answer: Uint8Array<ArrayBuffer>
  salt: Uint8Array<ArrayBuffer>
}

/** Derives the keys of a channel's context. */
export async function envelopeKeys(context: HpkeContext): Promise<EnvelopeKeys> {
  const [request, answer, salt] = await Promise.all([
    context.export('request', 32),
    context.export('answer', 32),
    context.export('salt', 32),
  ])
  return { request, answer, salt }
}

/** Seals and opens the bodies of one channel and context. A (context, job, direction) seals one plaintext ever: the caller keeps that promise. */
export type Envelope = {
  seal(job: bigint, way: Direction, plaintext: Uint8Array): Promise<Uint8Array<ArrayBuffer>>
  /** Throws EncodingError when the body is not what the other end sealed for this channel, job and direction. */
  open(job: bigint, way: Direction, sealed: Uint8Array): Promise<Uint8Array<ArrayBuffer>>
  /** Derives the 32-byte salt of a job's output commitment. */
  outputSalt(job: bigint): Promise<Uint8Array<ArrayBuffer>>
}

/** Makes the envelope of a channel on WebCrypto. */
export async function createEnvelope(channel: Uint8Array, keys: EnvelopeKeys): Promise<Envelope> {
  const aes = (raw: Uint8Array<ArrayBuffer>) =>
    crypto.subtle.importKey('raw', raw, 'AES-GCM', false, ['encrypt', 'decrypt'])
  const byDirection = [await aes(keys.request), await aes(keys.answer)] as const
  const saltKey = await crypto.subtle.importKey('raw', keys.salt, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  const parameters = (job: bigint, way: Direction) => ({
    name: 'AES-GCM',
    iv: envelopeNonce(job),
    additionalData: envelopeAad(channel, job, way),
  })
  return {
    async seal(job, way, plaintext) {
      const sealed = await crypto.subtle.encrypt(
        parameters(job, way),
        byDirection[way],
        plaintext as Uint8Array<ArrayBuffer>,
      )
      return new Uint8Array(sealed)
    },
    async open(job, way, sealed) {
      try {
        return new Uint8Array(
          await crypto.subtle.decrypt(parameters(job, way), byDirection[way], sealed as Uint8Array<ArrayBuffer>),
        )
      } catch {
        throw new EncodingError(
          'The sealed body does not open: it was changed, or sealed for another channel, job or direction.',
        )
      }
    },
    async outputSalt(job) {
      return new Uint8Array(await crypto.subtle.sign('HMAC', saltKey, concat(channel, uint(job, 8))))
    },
  }
}
