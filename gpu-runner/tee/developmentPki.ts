import { p384 } from '@noble/curves/nist.js'
import { concat, toHex, utf8 } from '../../protocol/bytes.ts'
import { bits, element, integer, name, octets, oid, sequence, time, yes } from '../../protocol/evidence/derWriter.ts'
import { sha256 } from '../../protocol/hash.ts'

/** Holds a key of a development PKI: how it is written in certificates, what its signatures are called, and how it signs. Signatures are as certificates hold them. */
export type PkiKey = {
  spki: Uint8Array
  algorithm: Uint8Array
  sign(message: Uint8Array): Promise<Uint8Array>
}

/** Derives bytes from a seed and a label; test keys come from nowhere else. */
export const deriveBytes = (seed: Uint8Array, label: string, length = 32): Uint8Array =>
  concat(
    ...Array.from({ length: Math.ceil(length / 32) }, (_, index) => sha256(concat(seed, utf8(`${label} ${index}`)))),
  ).slice(0, length)

/** Signs with a P-384 key as hardware does: r ‖ s, 96 bytes. */
export const signP384 = (secret: Uint8Array, message: Uint8Array): Uint8Array =>
  p384.sign(message, secret, { lowS: false })

/** Derives a P-384 key from a seed. */
export function p384Key(seed: Uint8Array, label: string): PkiKey & { secret: Uint8Array; publicKey: Uint8Array } {
  const secret = deriveBytes(seed, label, 48)
  // Below the order of the curve, whatever the seed.
  secret[0] = 0x01
  const publicKey = p384.getPublicKey(secret, false)
  return {
    secret,
    publicKey,
    spki: sequence(sequence(oid('1.2.840.10045.2.1'), oid('1.3.132.0.34')), bits(publicKey)),
    algorithm: sequence(oid('1.2.840.10045.4.3.3')),
    async sign(message) {
      const raw = signP384(secret, message)
      return sequence(integer(raw.subarray(0, 48)), integer(raw.subarray(48)))
    },
  }
}

const toBig = (bytes: Uint8Array) => bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n)
const fromBig = (value: bigint) => {
  const digits = value.toString(16)
  return Uint8Array.from((digits.length % 2 ? `0${digits}` : digits).match(/../g)!, (pair) => Number.parseInt(pair, 16))
}

function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
  let result = 1n
  for (let factor = base % modulus, left = exponent; left > 0n; left >>= 1n) {
    if (left & 1n) result = (result * factor) % modulus
    factor = (factor * factor) % modulus
  }
  return result
}

const smallPrimes = [3n, 5n, 7n, 11n, 13n, 17n, 19n, 23n, 29n, 31n, 37n, 41n, 43n, 47n, 53n, 59n, 61n, 67n, 71n, 73n]

/** Finds the first probable prime after a number drawn from the seed; Fermat's test to two bases is enough for a key nobody relies on. */
function findPrime(seed: Uint8Array, label: string): bigint {
  let candidate = toBig(deriveBytes(seed, label, 128)) | (3n << 1022n) | 1n
  const passes = (value: bigint) =>
    smallPrimes.every((prime) => value % prime !== 0n) &&
    value % 65_537n !== 1n &&
    [2n, 3n].every((base) => power(base, value - 1n, value) === 1n)
  while (!passes(candidate)) candidate += 2n
  return candidate
}

function inverse(value: bigint, modulus: bigint): bigint {
  let [a, b, x, y] = [value % modulus, modulus, 1n, 0n]
  while (a > 1n) {
    const quotient = a / b
    ;[a, b] = [b, a % b]
    ;[x, y] = [y, x - quotient * y]
  }
  return ((x % modulus) + modulus) % modulus
}

/** Derives an RSA key of 2,048 bits from a seed, for RSA-PSS with SHA-384. AMD's have 4,096; a pin compares digests, so the size means nothing to the verifier. */
export function rsaKey(seed: Uint8Array, label: string): Promise<PkiKey> {
  const name = `${toHex(seed)} ${label}`
  const known = rsaKeys.get(name) ?? makeRsaKey(seed, label)
  rsaKeys.set(name, known)
  return known
}

// Primes take most of a second to find.
const rsaKeys = new Map<string, Promise<PkiKey>>()

async function makeRsaKey(seed: Uint8Array, label: string): Promise<PkiKey> {
  const [p, q, e] = [findPrime(seed, `${label} p`), findPrime(seed, `${label} q`), 65_537n]
  const d = inverse(e, (p - 1n) * (q - 1n))
  const word = (value: bigint) => Buffer.from(fromBig(value)).toString('base64url')
  const parts = { n: p * q, e, d, p, q, dp: d % (p - 1n), dq: d % (q - 1n), qi: inverse(q, p) }
  const jwk = { kty: 'RSA', ...Object.fromEntries(Object.entries(parts).map(([field, value]) => [field, word(value)])) }
  const key = await crypto.subtle.importKey('jwk', jwk, { name: 'RSA-PSS', hash: 'SHA-384' }, false, ['sign'])
  const nothing = element(0x05)
  const sha384 = sequence(oid('2.16.840.1.101.3.4.2.2'), nothing)
  return {
    spki: sequence(
      sequence(oid('1.2.840.113549.1.1.1'), nothing),
      bits(sequence(integer(fromBig(parts.n)), integer(fromBig(e)))),
    ),
    algorithm: sequence(
      oid('1.2.840.113549.1.1.10'),
      sequence(
        element(0xa0, sha384),
        element(0xa1, sequence(oid('1.2.840.113549.1.1.8'), sha384)),
        element(0xa2, integer(48)),
      ),
    ),
    sign: async (message) =>
      new Uint8Array(
        await crypto.subtle.sign({ name: 'RSA-PSS', saltLength: 48 }, key, message as Uint8Array<ArrayBuffer>),
      ),
  }
}

/** Writes a certificate extension. */
export const extension = (id: string, value: Uint8Array, critical = false): Uint8Array =>
  sequence(oid(id), ...(critical ? [yes()] : []), octets(value))

/** Holds a certificate of a development PKI, and what issues more under it. */
export type Issued = { der: Uint8Array<ArrayBuffer>; commonName: string; key: PkiKey }

const day = 86_400
const epoch = Math.floor(Date.UTC(2026, 0, 1) / 1000)

/** Issues a certificate; one without an issuer signs itself. Valid from the start of 2026 for twenty years unless told (unix seconds). */
export async function issue({
  commonName,
  key,
  issuer,
  serial,
  ca,
  extensions = [],
  notBefore = epoch,
  notAfter = epoch + 20 * 365 * day,
}: {
  commonName: string
  key: PkiKey
  issuer?: Issued
  serial: Uint8Array | number
  ca: boolean
  extensions?: Uint8Array[]
  notBefore?: number
  notAfter?: number
}): Promise<Issued> {
  const signer = issuer ?? { commonName, key }
  const tbs = sequence(
    element(0xa0, integer(2)),
    integer(serial),
    signer.key.algorithm,
    name(signer.commonName),
    sequence(time(notBefore), time(notAfter)),
    name(commonName),
    key.spki,
    element(
      0xa3,
      sequence(
        extension('2.5.29.15', ca ? bits(new Uint8Array([0x06]), 1) : bits(new Uint8Array([0x80]), 7), true),
        extension('2.5.29.19', ca ? sequence(yes()) : sequence(), true),
        ...extensions,
      ),
    ),
  )
  const der = sequence(tbs, signer.key.algorithm, bits(await signer.key.sign(tbs)))
  return { der, commonName, key }
}

/** Issues a revocation list of serial numbers (RFC 5280 §5.1). */
export async function issueCrl({
  issuer,
  thisUpdate,
  nextUpdate,
  revoked = [],
}: {
  issuer: Issued
  thisUpdate: number
  nextUpdate: number
  revoked?: (Uint8Array | number)[]
}): Promise<Uint8Array<ArrayBuffer>> {
  const entries = revoked.map((serial) => sequence(integer(serial), time(thisUpdate)))
  const tbs = sequence(
    integer(1),
    issuer.key.algorithm,
    name(issuer.commonName),
    time(thisUpdate),
    time(nextUpdate),
    ...(entries.length > 0 ? [sequence(...entries)] : []),
    element(
      0xa0,
      sequence(
        extension('2.5.29.35', sequence(element(0x80, sha256(issuer.key.spki).subarray(0, 20)))),
        extension('2.5.29.20', integer(1)),
      ),
    ),
  )
  return sequence(tbs, issuer.key.algorithm, bits(await issuer.key.sign(tbs)))
}

/** Writes certificates as PEM, in the order given. */
export const pem = (...certificates: Uint8Array[]): string =>
  certificates
    .map(
      (der) =>
        `-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString('base64').replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`,
    )
    .join('')
