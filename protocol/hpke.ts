import { concat, EncodingError, uint, utf8 } from './bytes.ts'

/**
 * HPKE (RFC 9180) in base mode, cut down to what a channel needs: one key encapsulation and the exporter. Own code because nothing else on
 * the sealing path may fetch a dependency into a Worker, a browser and an enclave; the whole of it is this page of WebCrypto calls.
 */

// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: RFC 9180 §7.
const kemSuite = concat(utf8('KEM'), uint(0x0020, 2))
const hpkeSuite = concat(utf8('HPKE'), uint(0x0020, 2), uint(0x0001, 2), uint(0x0002, 2))
const version = utf8('HPKE-v1')
const empty = new Uint8Array(0)

type Bytes = Uint8Array<ArrayBuffer>

async function hmac(key: Bytes, data: Bytes): Promise<Bytes> {
  // An HMAC key of no bytes equals one of zeros (RFC 2104 pads keys with zeros), and WebCrypto refuses the former.
  const raw = key.length === 0 ? new Uint8Array(32) : key
  const imported = await crypto.subtle.importKey('raw', raw, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  return new Uint8Array(await crypto.subtle.sign('HMAC', imported, data))
}

async function expand(secret: Bytes, info: Bytes, length: number): Promise<Bytes> {
  let block: Bytes = empty
  let output: Bytes = empty
  for (let counter = 1; output.length < length; counter++) {
    block = await hmac(secret, concat(block, info, uint(counter, 1)))
    output = concat(output, block)
  }
  return output.slice(0, length)
}

const labeledExtract = (suite: Bytes, salt: Bytes, label: string, material: Bytes) =>
  hmac(salt, concat(version, suite, utf8(label), material))

const labeledExpand = (suite: Bytes, secret: Bytes, label: string, info: Bytes, length: number) =>
  expand(secret, concat(uint(length, 2), version, suite, utf8(label), info), length)

async function sharedSecret(dh: Bytes, enc: Bytes, recipient: Bytes): Promise<Bytes> {
  const extracted = await labeledExtract(kemSuite, empty, 'eae_prk', dh)
  return labeledExpand(kemSuite, extracted, 'shared_secret', concat(enc, recipient), 32)
}

/** Derives bytes for a purpose from an established context (RFC 9180 §5.3). */
export type HpkeContext = { export: (purpose: string, length: number) => Promise<Uint8Array<ArrayBuffer>> }

async function keySchedule(shared: Bytes, info: Bytes): Promise<HpkeContext> {
  const pskIdHash = await labeledExtract(hpkeSuite, empty, 'psk_id_hash', empty)
  const infoHash = await labeledExtract(hpkeSuite, empty, 'info_hash', info)
  const secret = await labeledExtract(hpkeSuite, shared, 'secret', empty)
  const exporter = await labeledExpand(hpkeSuite, secret, 'exp', concat(new Uint8Array([0]), pskIdHash, infoHash), 32)
  return { export: (purpose, length) => labeledExpand(hpkeSuite, exporter, 'sec', utf8(purpose), length) }
}

/** Holds an X25519 key pair; the private key cannot be exported. */
export type HpkeKeyPair = { privateKey: CryptoKey; publicKey: CryptoKey; rawPublicKey: Uint8Array<ArrayBuffer> }

/** Generates an X25519 key pair in memory. */
export async function generateHpkeKeyPair(): Promise<HpkeKeyPair> {
  const pair = (await crypto.subtle.generateKey({ name: 'X25519' }, false, ['deriveBits'])) as CryptoKeyPair
  const rawPublicKey = new Uint8Array((await crypto.subtle.exportKey('raw', pair.publicKey)) as ArrayBuffer)
  return { ...pair, rawPublicKey }
}

async function diffieHellman(privateKey: CryptoKey, publicKey: CryptoKey): Promise<Bytes> {
  // Cloudflare's type names the peer key `$public`; every runtime reads `public`.
  const algorithm = { name: 'X25519', public: publicKey } as unknown as Algorithm
  const shared = new Uint8Array(await crypto.subtle.deriveBits(algorithm, privateKey, 256))
  // A low-order peer point gives zeros: RFC 9180 §7.1.4 demands the check.
  if (shared.every((byte) => byte === 0)) throw new EncodingError('The peer sent a low-order X25519 point.')
  return shared
}

async function importPublicKey(raw: Uint8Array): Promise<CryptoKey> {
  if (raw.length !== 32) throw new EncodingError(`An X25519 public key takes 32 bytes, got ${raw.length}.`)
  return crypto.subtle.importKey('raw', raw as Bytes, { name: 'X25519' }, true, [])
}

/** Encapsulates to a recipient's public key (RFC 9180 §5.1.1, SetupBaseS). Throws EncodingError on a malformed or low-order key. */
export async function setupSender(
  recipientPublicKey: Uint8Array,
  info: Uint8Array,
): Promise<{ enc: Bytes; context: HpkeContext }> {
  const recipient = await importPublicKey(recipientPublicKey)
  const ephemeral = await generateHpkeKeyPair()
  const dh = await diffieHellman(ephemeral.privateKey, recipient)
  const shared = await sharedSecret(dh, ephemeral.rawPublicKey, recipientPublicKey as Bytes)
  return { enc: ephemeral.rawPublicKey, context: await keySchedule(shared, info as Bytes) }
}

/** Decapsulates a sender's key (RFC 9180 §5.1.1, SetupBaseR). Throws EncodingError on a malformed or low-order key. */
export async function setupRecipient(pair: HpkeKeyPair, enc: Uint8Array, info: Uint8Array): Promise<HpkeContext> {
  const dh = await diffieHellman(pair.privateKey, await importPublicKey(enc))
  return keySchedule(await sharedSecret(dh, enc as Bytes, pair.rawPublicKey), info as Bytes)
}
