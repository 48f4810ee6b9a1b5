import { type Hex, toHex, utf8 } from '../protocol/bytes.ts'
import { sha256 } from '../protocol/hash.ts'

/** Lists the parties of a local marketplace. */
export const parties = ['deployer', 'treasury', 'publisher', 'provider', 'buyer'] as const

/** Names a party of a local marketplace. */
export type Party = (typeof parties)[number]

/** Derives a party's key from its name: a test key anyone can compute, good for a local chain only. */
export function developmentKey(party: Party | string): Hex {
  return toHex(sha256(utf8(`assay test key, never for value: ${party}`)))
}

/** The seed of the development TEE's certificates: public on purpose, so nothing it signs can be mistaken for hardware. */
export const developmentSeed: Hex = toHex(sha256(utf8('assay development root, never for value')))
