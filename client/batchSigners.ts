import { type Hex, toHex } from '../protocol/bytes.ts'
import { type Recover, rememberKeys } from '../protocol/knownKeys.ts'
import { RenewedMap } from '../protocol/renewedMap.ts'

/** Makes a `recover` that remembers: answers of one batch carry one signature, and recovering it is most of what checking an answer costs. Keeps the newest `capacity` of them. */
export function rememberSigners(recover: Recover = rememberKeys(), capacity = 256): Recover {
  const known = new RenewedMap<string, Hex | null>()
  return (digest, signature, likely) => {
    // Both in whole: a signer is remembered for exactly what was checked.
    const key = `${toHex(digest)} ${toHex(signature)}`
    const before = known.get(key)
    if (before !== undefined) return before
    const signer = recover(digest, signature, likely)
    known.set(key, signer)
    known.trim(capacity)
    return signer
  }
}
