import { secp256k1 } from '@noble/curves/secp256k1.js'
import { type Hex, toHex } from './bytes.ts'
import { addressOfPoint, type Point, readSignature, recoverAddress, recoverPoint } from './secp256k1.ts'

/** Recovers who signed a digest, or null, exactly as `recoverAddress` does; `likely` names who probably did, and changes nothing but the time it takes. */
export type Recover = (digest: Uint8Array, signature: Uint8Array, likely?: Hex) => Hex | null

/** Bits a table is looked up by: 4,224 points a key, about a megabyte, made in some ten milliseconds. */
const windowBits = 8
/** Signatures of one key before a table is made of it. */
const worthATable = 32

const { Fn } = secp256k1.Point

/** Multiplies the generator by a table as large as the keys'; the library keeps a smaller one. */
let generator: Point | undefined
// A point of its own: the window of a shared one would change for everybody.
const tableOf = (point: Point): Point => secp256k1.Point.fromAffine(point.toAffine()).precompute(windowBits)

/** Makes a `recover` that knows keys again: most signatures a verifier meets are of few runners, and to see that a known key made one takes a quarter of finding the key. Keeps tables of the newest `capacity` keys. */
export function rememberKeys(capacity = 16): Recover {
  const seen = new Map<Hex, { point: Point; signatures: number; table: Point | null }>()
  return (digest, signature, likely) => {
    const known = likely === undefined ? undefined : seen.get(likely)
    if (likely === undefined) return recoverAddress(digest, signature)
    if (known && ++known.signatures > worthATable) known.table ??= tableOf(known.point)
    if (known?.table && isBy(known.table, digest, signature)) return likely
    const point = recoverPoint(digest, signature)
    if (!point) return null
    const signer = addressOfPoint(point)
    if (signer === likely && !known) {
      seen.set(signer, { point, signatures: 1, table: null })
      if (seen.size > capacity) seen.delete(seen.keys().next().value!)
    }
    return signer
  }
}

/** Tells whether recovery would give this key: whether u1·G + u2·Q (SEC 1 §4.1.4) is the very point that r and v name, and not only one with its x. */
function isBy(key: Point, digest: Uint8Array, signature: Uint8Array): boolean {
  const read = digest.length === 32 ? readSignature(signature) : null
  if (!read) return false
  generator ??= tableOf(secp256k1.Point.BASE)
  const inverse = Fn.inv(read.s)
  const u1 = Fn.mul(Fn.create(numberOf(digest)), inverse)
  const u2 = Fn.mul(read.r, inverse)
  const sum = generator.multiplyUnsafe(u1).add(key.multiplyUnsafe(u2))
  if (sum.is0()) return false
  const { x, y } = sum.toAffine()
  return x === read.r && (y & 1n) === BigInt(read.yParity)
}

const numberOf = (bytes: Uint8Array): bigint => BigInt(toHex(bytes))
