import { z } from 'zod'
import { type Hex, isHexOf } from '../protocol/bytes.ts'
import { numbered, providers } from './engine/providers.ts'
import type { SettlementPolicy } from './settlementPolicy.ts'

const hex = (bytes: number) => z.custom<Hex>(isHexOf(bytes), `must be 0x and ${bytes * 2} hex digits`)

const Config = z.object({
  /** Path of a `runner.toml`; what the environment sets goes before what the file says. */
  ASSAY_CONFIG: z.string().min(1).optional(),
  ASSAY_EDGE: z.url(),
  ASSAY_RPC: z.url(),
  ASSAY_PROVIDER_KEY: hex(32),
  ASSAY_STATE: z.string().min(1),
  /** Where evidence comes from: the kernel (TDX or SNP), dstack's guest agent, or the development TEE of a local chain. */
  ASSAY_TEE: z.enum(['tdx', 'snp', 'dstack', 'development']).default('tdx'),
  /** NVIDIA's attestation tool, by name or path; none where the machine has no GPU in confidential-computing mode. */
  ASSAY_NVATTEST: z.string().min(1).optional(),
  ASSAY_DEVELOPMENT_SEED: hex(32).optional(),
  /** Which machine the development TEE plays. */
  ASSAY_DEVELOPMENT_TEE: z.enum(['tdx', 'snp']).default('tdx'),
  /** Where verifiers judge what the chain cannot (SNP reports): their addresses, separated by commas. */
  ASSAY_VERIFIERS: z
    .string()
    .default('')
    .transform((text) => text.split(',').filter(Boolean))
    .pipe(z.array(z.url())),
  /** Intel's provisioning service or a cache of its shape, for what the chain must know of the platform. */
  ASSAY_COLLATERAL_URL: z.url().default('https://api.trustedservices.intel.com'),
  /** AMD's key distribution service, for the same. */
  ASSAY_AMD_COLLATERAL_URL: z.url().default('https://kdsintf.amd.com'),
  ASSAY_MODELS: z
    .string()
    .default('any')
    .transform((text) =>
      text === 'any' ? ('any' as const) : text.split(',').map((digest) => digest.trim().toLowerCase()),
    ),
  /** Threads of one run; a receipt's execution descriptor names them. */
  ASSAY_THREADS: z.coerce.number().int().min(1).max(256).default(1),
  /** Processes that run models at a time; as many as there are cores for, unless told. One more stands by. */
  ASSAY_EXECUTORS: z.coerce.number().int().min(1).max(256).optional(),
  /** Where models run. A provider the runtime does not have is refused, never replaced by another. */
  ASSAY_PROVIDER: z.enum(providers).default('cpu'),
  /** Which of the provider's devices run models, by number, separated by commas: an executor for each. Unset, all executors use the provider's first. */
  ASSAY_DEVICES: z
    .string()
    .transform((text) => text.split(',').map((number) => number.trim()))
    .pipe(
      z
        .array(z.string().regex(/^\d{1,3}$/, 'must be whole numbers separated by commas, such as 0,1'))
        .refine((list) => new Set(list.map(Number)).size === list.length, 'names a device twice'),
    )
    .transform((list) => list.map(Number))
    .optional(),
  /** Where the provider's own libraries lie, such as CUDA's; executors get nothing else of the environment. */
  ASSAY_LIBRARY_PATH: z.string().min(1).optional(),
  /** Bytes of models' files that each executor holds in memory; the least recently used leave for others. */
  ASSAY_MODEL_MEMORY: z.coerce
    .number()
    .int()
    .min(1_048_576)
    .default(4 * 2 ** 30),
  ASSAY_CAPACITY: z.coerce.number().int().min(1).max(65_536).default(1_024),
  /** Most rows of one run: as many as admission compares with rows run alone. */
  ASSAY_MAX_BATCH: z.coerce.number().int().min(1).max(64).default(64),
  /** Earnings are claimed at least this often, in seconds; a claim must reach the chain within a day of its terms' end. */
  ASSAY_SETTLE_SECONDS: z.coerce.number().int().min(10).max(43_200).default(600),
  /** Claim as soon as this much is unsettled, in the token's smallest unit; unset, time alone decides. */
  ASSAY_SETTLE_THRESHOLD: z.coerce.bigint().min(1n).optional(),
  /** How long before terms or the registration end a claim no longer waits for cheaper gas, in seconds. */
  ASSAY_SETTLE_LEAD_SECONDS: z.coerce.number().int().min(60).max(43_200).default(3_600),
  /** Claims wait while gas costs more than this many hundredths of its usual price. */
  ASSAY_SETTLE_DEAR_PERCENT: z.coerce.bigint().min(100n).default(200n),
  /** How long answers are kept for buyers who ask again, in seconds; receipts are kept until their terms can be claimed no more. */
  ASSAY_ANSWERS_KEPT_SECONDS: z.coerce.number().int().min(600).default(86_400),
  /** Most bytes of the journal on disk; past it jobs are refused as on a full disk. Unset, the disk decides. */
  ASSAY_JOURNAL_BYTES: z.coerce.number().int().min(1_048_576).optional(),
  ASSAY_CONTROL_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
})

/** Lists the names of all settings. */
export const settingNames: readonly string[] = Object.keys(Config.shape)

/** Holds a runner's settings. */
export type Config = z.infer<typeof Config>

/** Reads settings from the environment, once. Throws an error that names each variable that is missing or wrong and never repeats a value. */
export function readConfig(environment: Record<string, string | undefined>): Config {
  const result = Config.safeParse(environment)
  if (!result.success) {
    const problems = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new Error(`The runner's settings are incomplete. ${problems.join('; ')}`)
  }
  if (result.data.ASSAY_TEE === 'development' && !result.data.ASSAY_DEVELOPMENT_SEED) {
    throw new Error('ASSAY_TEE=development needs ASSAY_DEVELOPMENT_SEED.')
  }
  checkDevices(result.data)
  return result.data
}

/** Refuses devices that nothing could be run on as asked. Throws an error that says what to set instead. */
function checkDevices({ ASSAY_DEVICES: devices, ASSAY_PROVIDER: provider, ASSAY_EXECUTORS: executors }: Config): void {
  if (!devices) return
  if (!numbered.includes(provider))
    throw new Error(
      `ASSAY_DEVICES: the devices of "${provider}" have no numbers; those of ${numbered.join(', ')} have. Set ASSAY_PROVIDER, or ASSAY_EXECUTORS for how many run at a time.`,
    )
  if (executors !== undefined && executors !== devices.length)
    throw new Error(
      `ASSAY_EXECUTORS is ${executors}, and ASSAY_DEVICES names ${devices.length}: each device has one executor. Leave ASSAY_EXECUTORS unset.`,
    )
}

/** Reads from the settings when earnings are claimed. */
export function settlementPolicyOf(config: Config): SettlementPolicy {
  return {
    threshold: config.ASSAY_SETTLE_THRESHOLD ?? null,
    intervalSeconds: config.ASSAY_SETTLE_SECONDS,
    leadSeconds: config.ASSAY_SETTLE_LEAD_SECONDS,
    dearPercent: config.ASSAY_SETTLE_DEAR_PERCENT,
  }
}
