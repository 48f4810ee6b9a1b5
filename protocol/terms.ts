import { concat, fromHex, type Hex, Reader, toHex, uint } from './bytes.ts'
import { type Domain, type StructType, typedDataDigestHex } from './eip712.ts'

/** Fixes one channel: a buyer, one attested runner key, one model listing, its price and its split. Amounts in the token's smallest unit, times in unix seconds. */
export type Terms = {
  buyer: Hex
  runner: Hex
  model: Hex
  /** The listing's payout address. */
  publisher: Hex
  price: bigint
  royaltyBps: number
  feeBps: number
  expiresAt: bigint
  salt: Hex
}

const termsType: StructType = {
  name: 'Terms',
  fields: [
    ['buyer', 'address'],
    ['runner', 'address'],
    ['model', 'bytes32'],
    ['publisher', 'address'],
    ['price', 'uint128'],
    ['royaltyBps', 'uint16'],
    ['feeBps', 'uint16'],
    ['expiresAt', 'uint64'],
    ['salt', 'bytes32'],
  ],
}

/** Computes the channel of these terms: their EIP-712 digest, so no term can change without changing the channel. */
export function channelOf(domain: Domain, terms: Terms): Hex {
  return typedDataDigestHex(domain, termsType, terms)
}

/** Length of the fixed-width form of terms, in bytes. */
export const termsLength = 152

/** Writes terms in their fixed-width form. Throws EncodingError when a field does not fit. */
export function encodeTerms(terms: Terms): Uint8Array {
  return concat(
    fromHex(terms.buyer, 20),
    fromHex(terms.runner, 20),
    fromHex(terms.model, 32),
    fromHex(terms.publisher, 20),
    uint(terms.price, 16),
    uint(terms.royaltyBps, 2),
    uint(terms.feeBps, 2),
    uint(terms.expiresAt, 8),
    fromHex(terms.salt, 32),
  )
}

/** Reads terms from their fixed-width form. Throws EncodingError on any other length. */
export function decodeTerms(bytes: Uint8Array): Terms {
  const reader = new Reader(bytes)
  const terms: Terms = {
    buyer: toHex(reader.take(20)),
    runner: toHex(reader.take(20)),
    model: toHex(reader.take(32)),
    publisher: toHex(reader.take(20)),
    price: reader.u128(),
    royaltyBps: reader.u16(),
    feeBps: reader.u16(),
    expiresAt: reader.u64(),
    salt: toHex(reader.take(32)),
  }
  reader.end()
  return terms
}

/** Splits an amount by the terms: royalty and fee rounded down, the remainder to the provider, so the three sum to the amount. */
export function splitAmount(terms: Pick<Terms, 'royaltyBps' | 'feeBps'>, amount: bigint) {
  const publisher = (amount * BigInt(terms.royaltyBps)) / 10_000n
  const fee = (amount * BigInt(terms.feeBps)) / 10_000n
  return { publisher, fee, provider: amount - publisher - fee }
}

/** Shows terms as JSON: amounts and times as decimal strings. */
export type TermsJson = Omit<Terms, 'price' | 'expiresAt'> & { price: string; expiresAt: string }

/** Turns terms into JSON. */
export function termsToJson(terms: Terms): TermsJson {
  return { ...terms, price: terms.price.toString(), expiresAt: terms.expiresAt.toString() }
}

/** Reads terms from JSON. Throws SyntaxError on malformed numbers; whether they are those of a channel, its digest says. */
export function termsFromJson(json: TermsJson): Terms {
  return { ...json, price: BigInt(json.price), expiresAt: BigInt(json.expiresAt) }
}
