import { type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Terms } from '../../protocol/terms.ts'

/** Names the chain and contract of terms made up here. */
export const domain = { chainId: 31_337, escrow: `0x${'22'.repeat(20)}` as Hex }

/** Makes up the terms of a channel between parties that do not matter. */
export const termsOf = (label: string, change: Partial<Terms> = {}): Terms => ({
  buyer: `0x${'01'.repeat(20)}`,
  runner: `0x${'02'.repeat(20)}`,
  model: `0x${'03'.repeat(32)}`,
  publisher: `0x${'04'.repeat(20)}`,
  price: 10n,
  royaltyBps: 500,
  feeBps: 100,
  expiresAt: 2_000_000_000n,
  salt: toHex(sha256(utf8(label))),
  ...change,
})
