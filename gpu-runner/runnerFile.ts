import { parse, TomlError } from 'smol-toml'
import { z } from 'zod'
import type { Hex } from '../protocol/bytes.ts'
import { settingNames } from './config.ts'

/** Holds what an operator asks for one model: how many of its jobs are taken on at once, and the least price in the token's smallest unit. */
export type ModelRule = { capacity?: number; minimumPrice?: bigint }

/** Holds what `runner.toml` says: settings by the name of their variable, and rules for models by digest. */
export type RunnerFile = { settings: Record<string, string>; rules: ReadonlyMap<Hex, ModelRule>; others: ModelRule }

/** What a runner without a file has: every setting from the environment, no rule. */
export const emptyRunnerFile: RunnerFile = { settings: {}, rules: new Map(), others: {} }

/** Reports a `runner.toml` that cannot be followed, naming the key and never a value. */
export class RunnerFileError extends Error {
  override name = 'RunnerFileError'
}

/** What belongs to the machine's environment alone: a file is copied, shown and committed. */
const secrets = ['provider_key', 'development_seed']

const Rule = z.strictObject({
  capacity: z.int().min(1).max(65_536).optional(),
  // As text where it is large: TOML's integers end at 64 bits.
  minimum_price: z.union([z.string().regex(/^\d+$/), z.int().min(0)]).optional(),
})
const Models = z.record(z.string(), Rule)

const ruleOf = ({ capacity, minimum_price }: z.infer<typeof Rule>): ModelRule => ({
  ...(capacity === undefined ? {} : { capacity }),
  ...(minimum_price === undefined ? {} : { minimumPrice: BigInt(minimum_price) }),
})

/** Reads the text of a `runner.toml`. Throws RunnerFileError. */
export function readRunnerFile(text: string): RunnerFile {
  let table: Record<string, unknown>
  try {
    table = parse(text)
  } catch (error) {
    const where = error instanceof TomlError ? ` (line ${error.line})` : ''
    throw new RunnerFileError(`runner.toml is not TOML${where}.`)
  }
  const { models = {}, ...rest } = table
  const settings: Record<string, string> = {}
  for (const [key, value] of Object.entries(rest)) {
    const name = `ASSAY_${key.toUpperCase()}`
    if (secrets.includes(key)) throw new RunnerFileError(`runner.toml holds ${key}; set ${name} in the environment.`)
    if (!settingNames.includes(name))
      throw new RunnerFileError(`runner.toml has no setting "${key}"; docs/settings.md lists them.`)
    if (typeof value === 'object' && !Array.isArray(value))
      throw new RunnerFileError(`runner.toml: ${key} takes one value or a list.`)
    settings[name] = Array.isArray(value) ? value.join(',') : String(value)
  }
  for (const name of Object.keys(models as object))
    if (!/^(0x[0-9a-f]{64}|others)$/.test(name))
      throw new RunnerFileError(`runner.toml: models.${name.slice(0, 80)} must be a digest or "others".`)
  const parsed = Models.safeParse(models)
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `models.${path.join('.')}: ${message}`)
    throw new RunnerFileError(`runner.toml: ${problems.join('; ')}`)
  }
  const { others = {}, ...byDigest } = parsed.data
  const rules = new Map(Object.entries(byDigest).map(([digest, rule]) => [digest as Hex, ruleOf(rule)]))
  return { settings, rules, others: ruleOf(others) }
}

/** Gives the rule for a model: its own, or what goes for all others. */
export function ruleFor({ rules, others }: Pick<RunnerFile, 'rules' | 'others'>, digest: Hex): ModelRule {
  return { ...others, ...rules.get(digest) }
}
