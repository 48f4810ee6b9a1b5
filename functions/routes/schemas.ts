import { z } from '@hono/zod-openapi'
import type { Hex } from '../../protocol/bytes.ts'
import { tcbStatuses } from '../../protocol/evidence/verdict.ts'
import { AssayError, statusOf } from '../errors.ts'

const hex = (digits: string) => z.string().regex(new RegExp(`^0x${digits}$`))
const lower = (text: string) => text.toLowerCase() as Hex

/** Reads an address: 0x and 40 hexadecimal digits. */
export const Address = hex('[0-9a-fA-F]{40}').transform(lower)
/** Reads 32 bytes: 0x and 64 lower-case hexadecimal digits. */
export const Digest = hex('[0-9a-f]{64}').transform(lower)
/** Reads the name of an artifact: its SHA-256 in 64 lower-case hexadecimal digits. */
export const Sha256 = z.string().regex(/^[0-9a-f]{64}$/)
const Signature = hex('[0-9a-f]{130}').transform(lower)
const Amount = z.string().regex(/^(0|[1-9][0-9]{0,38})$/)
const Uint64 = z.string().regex(/^(0|[1-9][0-9]{0,18})$/)

/** Reads text of at most so many characters that a database can keep: well-formed, without a zero. */
export const Text = (most: number) =>
  z
    .string()
    .max(most)
    .refine((text) => text.isWellFormed() && !text.includes('\0'), 'must be well-formed text without U+0000')

/** Reads how a list is paged. */
export const Page = z.object({
  cursor: Text(64).optional(),
  limit: z.coerce.number().int().min(1).max(100).default(50),
})

/** Reads a cursor that is a position. Throws `invalid_request` for another. */
function positionOf(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined
  if (!/^[0-9]{1,15}$/.test(cursor)) throw new AssayError('invalid_request', 'The cursor is not one of ours.')
  return Number(cursor)
}

/** Reads a page whose cursor is a position. Throws `invalid_request` for another. */
export const pageOf = <T extends { cursor?: string | undefined }>({ cursor, ...rest }: T) => ({
  ...rest,
  cursor: positionOf(cursor),
})

/** Reads what a publisher posts to list a model. */
export const Publish = z.strictObject({
  manifest: z.record(z.string(), z.unknown()),
  listing: z.strictObject({
    model: Digest,
    publisher: Address,
    payout: Address,
    price: Amount,
    royaltyBps: z.number().int().min(0).max(10_000),
    unit: Text(64),
    validUntil: Uint64,
    nonce: Uint64,
  }),
  signature: Signature,
  card: Text(64_000).default(''),
})

/** Reads what a runner posts to register. */
export const Register = z.looseObject({
  statement: hex('([0-9a-fA-F]{2})+').max(1_000).transform(lower),
  evidence: z.record(z.string(), z.unknown()),
  gpus: z.array(z.record(z.string(), z.unknown())).max(16).default([]),
  registration: z.strictObject({ provider: Address, signature: Signature }),
})

/** Reads what a runner posts of its journal. */
export const Totals = z.strictObject({
  at: Uint64.transform(BigInt),
  totals: z
    .array(
      z.strictObject({
        channel: Digest,
        cumulative: Amount.transform(BigInt),
        vouched: Amount.transform(BigInt),
      }),
    )
    .min(1)
    .max(1_000),
  signature: Signature,
})

/** Reads what a buyer asks of a machine. */
const RequirementsBody = z.strictObject({
  tee: z.string().max(32).optional(),
  tcbStatus: z.enum(tcbStatuses).optional(),
  gpuAttested: z.boolean().optional(),
  measurement: z.string().max(128).optional(),
  region: z
    .string()
    .regex(/^[a-z0-9-]{1,32}$/)
    .optional(),
  maxPrice: Amount.optional(),
  maxAttestationAgeSeconds: z.number().int().min(0).optional(),
  minStake: Amount.optional(),
  exclude: z.array(Address).max(1_000).optional(),
})

/** Reads what a buyer posts to find a runner. */
export const FindMatch = z.strictObject({ model: Digest, requirements: RequirementsBody.default({}) })

/** Describes an RFC 9457 problem. */
export const Problem = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.number().int(),
    code: z.enum(Object.keys(statusOf) as [keyof typeof statusOf]),
    detail: z.string(),
    hint: z.string().optional(),
    requestId: z.string(),
  })
  .openapi('Problem')
