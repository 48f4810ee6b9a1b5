import { EncodingError } from './bytes.ts'
import { type Direction, type EnvelopeKeys, envelopeAad, envelopeNonce } from './envelope.ts'
import { digestsApart, sha256 } from './hash.ts'

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
}

/** Finds `node:crypto` without an import, so that browsers can load this file; null where there is none. */
export const findNodeCrypto = (): NodeCrypto | null =>
  (
    globalThis as { process?: { getBuiltinModule?: (id: string) => NodeCrypto | undefined } }
  ).process?.getBuiltinModule?.('node:crypto') ?? null

/** Seals and opens the bodies of one channel and context without leaving the turn of the loop; the bytes are those of `envelope.ts`. */
export type NodeEnvelope = {
  seal(job: bigint, way: Direction, plaintext: Uint8Array): Uint8Array
  /** Throws EncodingError when the body is not what the other end sealed for this channel, job and direction. */
  open(job: bigint, way: Direction, sealed: Uint8Array): Uint8Array
  /** Derives the 32-byte salt of a job's output commitment. */
  outputSalt(job: bigint): Uint8Array
}

/** Holds what an envelope may be made with. */
export type NodeEnvelopeOptions = {
  allocate?: (length: number) => Uint8Array
  /** Authenticates rows of `length` bytes that stand back to back; without it salts are made one by one. */
  hmacRows?: (key: Uint8Array, rows: Uint8Array, length: number) => Uint8Array<ArrayBuffer>
}

/** Salts made at once where jobs follow one another. */
const saltsAhead = 16
const tagLength = 16
const tag = { authTagLength: tagLength }
/** SHA-256's block, in bytes. */
const hmacBlock = 64
/** Bytes a salt is made of: channel and job. */
const saltedLength = 32 + 8

// A Buffer's slice() shares memory where a Uint8Array's copies, so none leaves here.
const plain = ({ buffer, byteOffset, length }: Uint8Array) => new Uint8Array(buffer, byteOffset, length)

/** Makes the envelope of a channel on Node's own cipher: WebCrypto hands each body to another thread, which costs ten times the sealing of a small one. `allocate` makes room for what is sealed, which is written over in whole; `hmacRows` makes HMAC-SHA-256 of rows. */
export function createNodeEnvelope(
  channel: Uint8Array,
  keys: EnvelopeKeys,
  node: NodeCrypto,
  { allocate = (length) => new Uint8Array(length), hmacRows }: NodeEnvelopeOptions = {},
): NodeEnvelope {
  const byDirection = [node.createSecretKey(keys.request), node.createSecretKey(keys.answer)] as const
  // HMAC-SHA-256 (RFC 2104) in two calls: one of Node's HMAC objects costs more than both.
  const inner = new Uint8Array(hmacBlock + saltedLength).fill(0x36, 0, hmacBlock)
  const outer = new Uint8Array(hmacBlock + 32).fill(0x5c, 0, hmacBlock)
  keys.salt.forEach((byte, at) => {
    inner[at]! ^= byte
    outer[at]! ^= byte
  })
  inner.set(channel, hmacBlock)
  const innerView = new DataView(inner.buffer)
  // Written over for each body: the cipher has taken them when it is made.
  const nonce = envelopeNonce(0n)
  const nonceView = new DataView(nonce.buffer)
  const aad = envelopeAad(channel, 0n, 0)
  const aadView = new DataView(aad.buffer)
  const aim = (job: bigint, way: Direction) => {
    nonceView.setBigUint64(4, job)
    aadView.setBigUint64(32, job)
    aad[40] = way
  }
  const saltOf = (job: bigint) => {
    innerView.setBigUint64(hmacBlock + 32, job)
    outer.set(sha256(inner), hmacBlock)
    return sha256(outer)
  }
  return {
    seal(job, way, plaintext) {
      aim(job, way)
      const cipher = node.createCipheriv('aes-256-gcm', byDirection[way], nonce, tag)
      cipher.setAAD(aad)
      const sealed = plain(allocate(plaintext.length + tagLength))
      sealed.set(cipher.update(plaintext))
      // GCM is a stream: final() gives no bytes, it only makes the tag.
      cipher.final()
      sealed.set(cipher.getAuthTag(), plaintext.length)
      return sealed
    },
    open(job, way, sealed) {
      try {
        const length = sealed.length - tagLength
        aim(job, way)
        const decipher = node.createDecipheriv('aes-256-gcm', byDirection[way], nonce, tag)
        decipher.setAAD(aad)
        decipher.setAuthTag(sealed.subarray(length))
        const plaintext = decipher.update(sealed.subarray(0, length))
        decipher.final()
        return plain(plaintext)
      } catch {
        throw new EncodingError(
          'The sealed body does not open: it was changed, or sealed for another channel, job or direction.',
        )
      }
    },
    outputSalt: hmacRows ? saltsInRows(channel, keys.salt.slice(), hmacRows, saltOf) : saltOf,
  }
}

/** Derives salts as `saltOf` does, those of the jobs that follow along with a job's that follows the last: most channels' jobs are answered in the order of their numbers. */
function saltsInRows(
  channel: Uint8Array,
  key: Uint8Array,
  hmacRows: NonNullable<NodeEnvelopeOptions['hmacRows']>,
  saltOf: (job: bigint) => Uint8Array,
): (job: bigint) => Uint8Array {
  const rows = new Uint8Array(saltsAhead * saltedLength)
  const view = new DataView(rows.buffer)
  for (let row = 0; row < saltsAhead; row++) rows.set(channel, row * saltedLength)
  let ahead: Uint8Array[] = []
  let first = 0n
  let latest = -1n
  return (job) => {
    const follows = job === latest + 1n
    latest = job
    const place = job - first
    const known = place >= 0n && place < BigInt(ahead.length) ? ahead[Number(place)]! : null
    if (known) return known
    if (!follows) return saltOf(job)
    for (let row = 0; row < saltsAhead; row++) view.setBigUint64(row * saltedLength + 32, job + BigInt(row))
    ahead = digestsApart(hmacRows(key, rows, saltedLength))
    first = job
    return ahead[0]!
  }
}
