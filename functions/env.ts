import { z } from 'zod'
import { type Hex, isHexOf } from '../protocol/bytes.ts'
import type { AccountNamespace, MailboxNamespace, R2Bucket } from './platform.ts'

const address = z
  .custom<Hex>(isHexOf(20), 'must be 0x and 40 hex digits')
  .transform((text) => text.toLowerCase() as Hex)

const Variables = z.object({
  DATABASE_URL: z.string().min(1),
  /** Where the Neon driver sends queries; unset in production, where the driver knows. */
  DATABASE_ENDPOINT: z.string().optional(),
  RPC_URL: z.url(),
  CHAIN_ID: z.coerce.number().int().positive(),
  ESCROW: address,
  REGISTRY: address,
  POLICY: address,
  ATTESTED_INFERENCE: address,
  TOKEN: address,
  /** Where runners stake; without it no runner has any cover. */
  STAKE: address.optional(),
  FEE_BPS: z.coerce.number().int().min(0).max(10_000),
  /** The block the escrow was deployed in, where indexing begins, and how many blocks must stand on one before it is read. */
  ESCROW_BLOCK: z.coerce.bigint().min(1n).default(1n),
  CONFIRMATIONS: z.coerce.bigint().min(0n).default(5n),
  COLLATERAL_URL: z.url(),
  /** Keys of those who verify NVIDIA's reference manifests and sign tables of them: uncompressed P-256, hexadecimal, separated by commas. */
  RIM_SIGNERS: z
    .string()
    .regex(/^(0x04[0-9a-f]{128})(,0x04[0-9a-f]{128})*$/)
    .transform((text) => text.split(',') as Hex[])
    .optional(),
  AMD_COLLATERAL_URL: z.url().default('https://kdsintf.amd.com'),
  /** Who answers whether NVIDIA has revoked a GPU's certificates (OCSP). */
  OCSP_URL: z.url().default('https://ocsp.ndis.nvidia.com'),
  /** Development roots as base64 DER, separated by commas; good on a local chain only. */
  DEVELOPMENT_ROOT: z.string().optional(),
  /** `no` hands jobs to runners without looking at deposits, which their runners then do alone. */
  CREDIT_LEASES: z.enum(['yes', 'no']).default('yes'),
  /** How long a runner must have been away before anyone is given its claims: vouchers are for its eyes while it works, since whoever has one can have a job done that it covers. */
  CLAIMS_AFTER_SECONDS: z.coerce.number().int().min(0).default(900),
  /** `yes` lets webhooks go to this machine over http; for development. */
  LOCAL_WEBHOOKS: z.enum(['yes', 'no']).default('no'),
})

/** Holds the Worker's settings. */
export type Settings = z.infer<typeof Variables>

/** Names the Worker's bindings. */
export type Bindings = Record<string, unknown> & {
  ARTIFACTS: R2Bucket
  MAILBOX: MailboxNamespace
  ACCOUNT: AccountNamespace
}

/** Reads the settings of a Worker. Throws an error naming what is missing. */
export function readSettings(bindings: Record<string, unknown>): Settings {
  const result = Variables.safeParse(bindings)
  if (!result.success)
    throw new Error(
      `The Worker's settings are incomplete: ${result.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`).join('; ')}`,
    )
  return result.data
}
