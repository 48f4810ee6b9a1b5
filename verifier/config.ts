import { z } from 'zod'
import { type Hex, isHexOf } from '../protocol/bytes.ts'

const hex = (bytes: number) =>
  z.custom<Hex>(isHexOf(bytes), `must be 0x and ${bytes * 2} hex digits`).transform((text) => text.toLowerCase() as Hex)

const Config = z.object({
  /** The key that signs verdicts; the registry's set of verifiers must know its address. */
  VERIFIER_KEY: hex(32),
  VERIFIER_RPC: z.url(),
  VERIFIER_CHAIN_ID: z.coerce.number().int().positive(),
  VERIFIER_ESCROW: hex(20),
  VERIFIER_REGISTRY: hex(20),
  /** A folder for published verdicts. */
  VERIFIER_STATE: z.string().min(1),
  VERIFIER_HOST: z.string().default('127.0.0.1'),
  VERIFIER_PORT: z.coerce.number().int().min(0).max(65_535).default(8_787),
  /** Intel's provisioning service or a cache of its shape, and AMD's key distribution service. */
  VERIFIER_COLLATERAL_URL: z.url().default('https://api.trustedservices.intel.com'),
  VERIFIER_AMD_COLLATERAL_URL: z.url().default('https://kdsintf.amd.com'),
  /** Who answers whether NVIDIA has revoked a GPU's certificates (OCSP). */
  VERIFIER_OCSP_URL: z.url().default('https://ocsp.ndis.nvidia.com'),
  /** A file with signed tables of NVIDIA's reference measurements, one JSON list, and the keys of those who sign them. */
  VERIFIER_RIM_TABLES: z.string().optional(),
  VERIFIER_RIM_SIGNERS: z
    .string()
    .regex(/^(0x04[0-9a-f]{128})(,0x04[0-9a-f]{128})*$/)
    .transform((text) => text.split(',') as Hex[])
    .optional(),
})

/** Holds a verifier's settings. */
export type VerifierConfig = z.infer<typeof Config>

/** Reads settings from the environment, once. Throws an error that names each variable that is missing or wrong and never repeats a value. */
export function readVerifierConfig(environment: Record<string, string | undefined>): VerifierConfig {
  const result = Config.safeParse(environment)
  if (result.success) return result.data
  const problems = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
  throw new Error(`The verifier's settings are incomplete. ${problems.join('; ')}`)
}
