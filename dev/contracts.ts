import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Abi, Hex } from 'viem'

/** Holds what a compiled contract is deployed from. */
export type Artifact = { abi: Abi; bytecode: Hex }

const root = join(import.meta.dirname, '..')
const require = createRequire(import.meta.url)

/** The settings contracts are compiled with, here and by forge. */
const solcSettings = {
  evmVersion: 'osaka',
  viaIR: true,
  optimizer: { enabled: true, runs: 1_000_000 },
  metadata: { bytecodeHash: 'none' },
}

type SolcOutput = {
  errors?: { severity: string; formattedMessage: string }[]
  contracts: Record<string, Record<string, { abi: Abi; evm: { bytecode: { object: string } } }>>
}

/** Compiles the contracts, and `more` files by their paths in the project, from source, or reads what unchanged sources gave before. Throws with the compiler's words when it refuses. */
export function buildContracts(
  cacheDir = join(root, '.assay/contracts'),
  more: readonly string[] = [],
): Record<string, Artifact> {
  const names = readdirSync(join(root, 'contracts'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.sol') && !/^(test|out|cache)[/\\]/.test(name))
    .map((name) => `contracts/${name.replaceAll('\\', '/')}`)
    .concat(more)
  const sources = Object.fromEntries(names.map((name) => [name, { content: readFileSync(join(root, name), 'utf8') }]))
  const lock = readFileSync(join(root, 'package-lock.json'))
  const key = createHash('sha256')
    .update(JSON.stringify([sources, solcSettings]))
    .update(lock)
    .digest('hex')
    .slice(0, 32)
  const cached = join(cacheDir, `${key}.json`)
  if (existsSync(cached)) return JSON.parse(readFileSync(cached, 'utf8')) as Record<string, Artifact>

  const solc = require('solc') as { compile(input: string, callbacks: object): string }
  const input = {
    language: 'Solidity',
    sources,
    settings: { ...solcSettings, outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object'] } } },
  }
  const readImport = (path: string) => {
    try {
      return { contents: readFileSync(join(root, 'node_modules', path), 'utf8') }
    } catch {
      return { error: `${path} is not installed` }
    }
  }
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport })) as SolcOutput
  const errors = (output.errors ?? []).filter(({ severity }) => severity === 'error')
  if (errors.length > 0) throw new Error(errors.map(({ formattedMessage }) => formattedMessage).join('\n'))

  const artifacts: Record<string, Artifact> = {}
  for (const name of names) {
    for (const [contract, { abi, evm }] of Object.entries(output.contracts[name] ?? {})) {
      if (evm.bytecode.object) artifacts[contract] = { abi, bytecode: `0x${evm.bytecode.object}` }
    }
  }
  mkdirSync(cacheDir, { recursive: true })
  writeFileSync(cached, JSON.stringify(artifacts))
  return artifacts
}

// Errors of the contracts that these call reach the caller as they are, so their names belong to the ABI.
const calls: Record<string, readonly string[]> = {
  RunnerRegistry: ['AttestationReader'],
  VerifierSet: ['RunnerRegistry'],
}

/** Gives a contract's ABI with the errors that reach its callers from the contracts it calls. */
function abiOf(artifacts: Record<string, Artifact>, contract: string): Abi {
  const own = artifacts[contract]!.abi
  const nameOf = (entry: Abi[number]) => (entry.type === 'error' ? entry.name : '')
  const named = new Set(own.map(nameOf))
  const passedOn = (calls[contract] ?? []).flatMap((called) => artifacts[called]!.abi)
  return [...own, ...passedOn.filter((entry) => entry.type === 'error' && !named.has(entry.name))]
}

/** Writes the ABIs as TypeScript, for typed calls. */
export function abiSource(artifacts: Record<string, Artifact>): string {
  const names = {
    Escrow: 'escrowAbi',
    RunnerRegistry: 'runnerRegistryAbi',
    VerifierSet: 'verifierSetAbi',
    AttestedInference: 'attestedInferenceAbi',
    Stake: 'stakeAbi',
    TestToken: 'testTokenAbi',
  }
  const parts = Object.entries(names).map(
    ([contract, name]) =>
      `/** The ABI of ${contract}. */\nexport const ${name} = ${JSON.stringify(abiOf(artifacts, contract), null, 2)} as const\n`,
  )
  return `// Generated from the contracts by \`node dev/contracts.ts\`; a test keeps it in step.\n\n${parts.join('\n')}`
}

if (import.meta.main) writeFileSync(join(root, 'contracts/abi.ts'), abiSource(buildContracts()))
