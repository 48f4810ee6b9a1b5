import { z } from 'zod'
import type { Hex } from '../../protocol/bytes.ts'

const hexOf = (pattern: string) =>
  z
    .string()
    .regex(new RegExp(`^0x${pattern}$`))
    .transform((text) => text.toLowerCase() as Hex)

/** An address: 0x and 40 hex digits. */
export const Address = hexOf('[0-9a-fA-F]{40}')
/** 32 bytes: 0x and 64 hex digits. */
export const Bytes32 = hexOf('[0-9a-fA-F]{64}')
/** Any bytes in hexadecimal, at most 64 KiB. */
export const Bytes = hexOf('([0-9a-fA-F]{2}){0,65536}')
/** An amount or number as decimal text. */
export const Decimal = z.string().regex(/^(0|[1-9]\d{0,38})$/)
/** A SHA-256 as 64 lower-case hex digits. */
export const Sha256 = z.string().regex(/^[0-9a-f]{64}$/)

const Uint64 = Decimal.refine((text) => BigInt(text) < 2n ** 64n, 'must fit 64 bits')

/** What a publisher posts to list a model. */
export const PublishModel = z.strictObject({
  manifest: z.record(z.string(), z.unknown()),
  listing: z.strictObject({
    model: Bytes32,
    publisher: Address,
    payout: Address,
    price: Decimal.refine((text) => BigInt(text) < 2n ** 128n, 'must fit 128 bits'),
    royaltyBps: z.number().int().min(0).max(10_000),
    unit: z.string().min(1).max(32),
    validUntil: Uint64,
    nonce: Uint64,
  }),
  signature: Bytes,
  card: z.string().max(65_536).default(''),
})

/** What a runner posts to register. */
export const RegisterRunner = z.strictObject({
  statement: Bytes,
  evidence: z.strictObject({ format: z.string(), quote: z.string().max(65_536) }),
  registration: z.strictObject({ provider: Address, signature: Bytes }),
})

/** What a buyer posts to find a runner. */
export const FindMatch = z.strictObject({
  model: Bytes32,
  requirements: z
    .strictObject({
      tee: z.string().max(16).optional(),
      maxPrice: Decimal.optional(),
      measurement: Bytes32.optional(),
      maxAttestationAgeSeconds: z.number().int().min(0).optional(),
      exclude: z.array(Address).max(64).optional(),
    })
    .default({}),
})

/** How lists are paged. */
export const Page = z.object({
  cursor: z.string().max(64).optional(),
  limit: z.coerce.number().int().min(1).max(100).default(20),
})
