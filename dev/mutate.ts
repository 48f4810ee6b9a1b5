import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'

const root = join(import.meta.dirname, '..')
const contracts = ['Escrow', 'Claims', 'Protocol', 'Stake', 'AttestedInference', 'MeasurementPolicy'] as const
type Contract = (typeof contracts)[number]

/** One condition to break: the text between `start` and `end` is taken for `value`, whatever it says. */
export type Mutant = { line: number; start: number; end: number; text: string; value: boolean }

/** Reads to the end of what opens at `at`, brackets matched. Throws where the source ends first. */
function closing(source: string, at: number): number {
  let depth = 0
  for (let i = at; i < source.length; i++) {
    if ('([{'.includes(source[i]!)) depth++
    if (')]}'.includes(source[i]!)) depth--
    if (depth === 0) return i
  }
  throw new Error(`The bracket at ${at} is never closed.`)
}

/** Splits a range at a separator that stands outside brackets. */
function split(source: string, start: number, end: number, separator: string): [number, number][] {
  const parts: [number, number][] = []
  let from = start
  for (let i = start; i < end; i++) {
    if ('([{'.includes(source[i]!)) i = closing(source, i)
    else if (source.startsWith(separator, i)) {
      parts.push([from, i])
      from = i + separator.length
      i = from - 1
    }
  }
  return [...parts, [from, end]]
}

/** Blanks comments and text, so that what they hold is not taken for code; every position stays. */
function codeOf(source: string): string {
  return source.replace(/\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:[^"\\\n]|\\.)*"/g, (text) => text.replace(/[^\n]/g, ' '))
}

/** Finds every `require`, every `if` that leaves early, and every operand of theirs. Pure. */
export function mutantsOf(source: string): Mutant[] {
  const code = codeOf(source)
  const mutants: Mutant[] = []
  const add = ([start, end]: [number, number], value: boolean) => {
    const text = source.slice(start, end).trim()
    const from = start + source.slice(start, end).indexOf(text)
    const line = source.slice(0, from).split('\n').length
    mutants.push({ line, start: from, end: from + text.length, text: text.replace(/\s+/g, ' '), value })
  }
  for (const match of code.matchAll(/\b(require|if) ?\(/g)) {
    const open = match.index + match[0].length - 1
    const close = closing(code, open)
    const isRequire = match[1] === 'require'
    if (!isRequire && !/^\)\s*(\{\s*)?(emit [^;]*;\s*)?(return|continue|revert)\b/.test(code.slice(close))) continue
    const [condition] = split(code, open + 1, close, ',') as [[number, number]]
    add(condition, isRequire)
    // Of alternatives one is never, of conjuncts one always taken.
    for (const [operator, value] of [
      ['||', false],
      ['&&', true],
    ] as const) {
      const operands = split(code, ...condition, operator)
      if (operands.length === 1) continue
      for (const operand of operands) add(operand, value)
      break
    }
  }
  return mutants
}

const taken = (text: string, value: boolean, id: number) =>
  value ? `(mutated(${id}) || (${text}))` : `(!mutated(${id}) && (${text}))`

/** Writes a source in which every mutant sleeps until its number is switched on; numbers begin at `first`. */
export function instrument(source: string, mutants: readonly Mutant[], first: number): string {
  const write = (start: number, end: number, inside: readonly number[]): string => {
    let text = ''
    let at = start
    for (let i = 0; i < inside.length; i++) {
      const mutant = mutants[inside[i]!]!
      const within: number[] = []
      while (i + 1 < inside.length && mutants[inside[i + 1]!]!.end <= mutant.end) within.push(inside[++i]!)
      text += source.slice(at, mutant.start)
      text += taken(write(mutant.start, mutant.end, within), mutant.value, first + mutants.indexOf(mutant))
      at = mutant.end
    }
    return text + source.slice(at, end)
  }
  // A condition comes before its operands.
  const order = mutants
    .map((_, index) => index)
    .sort((a, b) => mutants[a]!.start - mutants[b]!.start || mutants[b]!.end - mutants[a]!.end)
  const switchImport = 'import {mutated} from "./Mutation.sol";\n'
  return write(0, source.length, order).replace(/^pragma [^\n]*\n/m, (pragma) => `${pragma}${switchImport}`)
}

/** Writes a source with one condition broken. */
export function breakOne(source: string, { start, end, value }: Mutant): string {
  return `${source.slice(0, start)}${value}${source.slice(end)}`
}

// The coinbase is the switch: tests set it from outside, nothing in the contracts reads it. Cast to pure, as the code it breaks may be.
const mutationSource = `// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

function isCoinbase(uint160 id) view returns (bool) {
    return block.coinbase == address(id);
}

function mutated(uint160 id) pure returns (bool) {
    function(uint160) view returns (bool) asked = isCoinbase;
    function(uint160) pure returns (bool) answer;
    assembly {
        answer := asked
    }
    return answer(id);
}
`

// Beside the forge tests, these run the real contracts on a chain.
const chainTests: Record<Contract, readonly string[]> = {
  Escrow: ['test/contracts/escrow.test.ts', 'test/contracts/mandates.test.ts'],
  Claims: ['test/contracts/escrow.test.ts', 'test/contracts/mandates.test.ts'],
  Protocol: ['test/contracts/escrow.test.ts', 'test/contracts/mandates.test.ts', 'test/contracts/consumer.test.ts'],
  Stake: ['test/contracts/stake.test.ts', 'test/contracts/consumer.test.ts'],
  MeasurementPolicy: ['test/contracts/registry.test.ts'],
  AttestedInference: ['test/contracts/escrow.test.ts', 'test/contracts/consumer.test.ts'],
}

// Conditions whose absence nobody can observe, each with the reason: a second wall behind a first, or a shortcut.
const unobservable: readonly { contract: Contract; text: string; because: string }[] = [
  { contract: 'Escrow', text: 'amount <= type(uint120).max', because: 'the sum is checked again, with the same error' },
  { contract: 'Escrow', text: 'mandate.spent >= mandate.cap', because: 'what is left is zero without it' },
  { contract: 'Escrow', text: 'buyer.code.length == 0', because: 'a call to no code returns nothing, which is no yes' },
  { contract: 'Claims', text: 'packed.length >= HEADER', because: 'a listing past the end is refused' },
  { contract: 'Claims', text: 'proof + 9 <= batch.end', because: 'a listing past the end is refused' },
  { contract: 'Claims', text: 'at + GROUP <= batch.end', because: 'a claim past the end is refused' },
  { contract: 'Claims', text: 'at + CLAIM + 2 <= batch.end', because: 'the end is checked again after the claim' },
  { contract: 'Claims', text: 'at <= batch.end', because: 'the end of the last claim is compared with the end' },
  {
    contract: 'Claims',
    text: 's > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0',
    because: 'in 255 bits one value of s in 2^128 is above the half',
  },
  { contract: 'Protocol', text: 'v != 27 && v != 28', because: 'ecrecover answers zero for other values' },
]

/** Copies the project to a place where breaking it hurts nobody. */
function copyProject(): string {
  const copy = mkdtempSync(join(tmpdir(), 'assay-mutate-'))
  const left = new Set(['node_modules', '.git', '.assay', 'cache'])
  for (const name of readdirSync(root)) {
    if (left.has(name)) continue
    cpSync(join(root, name), join(copy, name), {
      recursive: true,
      filter: (path) => !/contracts[/\\](out|cache)$/.test(path) && !path.includes('node_modules'),
    })
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  // Tests look for shared data beside the project; here is none, and they say so.
  mkdirSync(join(copy, '.assay'), { recursive: true })
  return copy
}

function run(copy: string, command: string, args: readonly string[], env: Record<string, string> = {}) {
  const path = `${join(root, 'node_modules/.bin')}:${process.env.PATH}`
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: copy,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    env: { ...process.env, PATH: path, ...env },
  })
  return { ok: status === 0, output: `${stdout}${stderr}` }
}

/** Names the forge test that fails with a mutant awake (0: none is), or null. The npm package's `forge` always exits with 0, so its report is read. Throws without one. */
function forgeFailure(copy: string, id: number): string | null {
  const { output } = run(copy, 'forge', ['test', '--json'], {
    FOUNDRY_BLOCK_COINBASE: `0x${id.toString(16).padStart(40, '0')}`,
    FOUNDRY_FUZZ_SEED: '0x1',
    FOUNDRY_FUZZ_RUNS: '64',
    FOUNDRY_INVARIANT_RUNS: '8',
  })
  const line = output.split('\n').find((each) => each.startsWith('{"contracts/'))
  if (!line) throw new Error(`Forge ran no test:\n${output.slice(-4_000)}`)
  const suites = JSON.parse(line) as Record<string, { test_results: Record<string, { status: string }> }>
  const tests = Object.values(suites).flatMap(({ test_results }) => Object.entries(test_results))
  return tests.find(([, { status }]) => status === 'Failure')?.[0] ?? null
}

/** Tells whether a contract's tests on a chain pass. Throws where it does not compile, which proves nothing, and where tests that must pass do not. */
function onChain(copy: string, name: Contract, mustPass: boolean): boolean {
  const built = run(copy, process.execPath, ['dev/contracts.ts'])
  if (!built.ok) throw new Error(`The contracts do not compile:\n${built.output.slice(-4_000)}`)
  const { ok, output } = run(copy, 'vitest', ['run', '--bail', '1', ...chainTests[name]])
  if (mustPass && !ok) throw new Error(`The tests fail with nothing broken:\n${output.slice(-4_000)}`)
  return ok
}

type Outcome = { contract: Contract; line: number; text: string; taken: boolean; killedBy: 'forge' | 'chain' | null }

const becauseOf = ({ contract, text }: Pick<Outcome, 'contract' | 'text'>) =>
  unobservable.find((each) => each.contract === contract && each.text === text)?.because

/**
 * Breaks each condition of the contracts once and tells which break no test notices; some nobody can notice are listed with their reasons. One build holds all mutants, asleep; forge wakes them one by one. Those that survive are
 * built alone and meet the tests on a chain. Throws when the tests fail with nothing broken.
 */
export function mutate(names: readonly Contract[], report: (line: string) => void): Outcome[] {
  const copy = copyProject()
  try {
    const sources = names.map((name) => {
      const source = readFileSync(join(root, 'contracts', `${name}.sol`), 'utf8')
      return { name, source, mutants: mutantsOf(source) }
    })
    const file = (name: string) => join(copy, 'contracts', `${name}.sol`)
    writeFileSync(file('Mutation'), mutationSource)
    let first = 1
    const numbered = sources.flatMap(({ name, source, mutants }) => {
      writeFileSync(file(name), instrument(source, mutants, first))
      const these = mutants.map((mutant, index) => ({ name, source, mutant, id: first + index }))
      first += mutants.length
      return these
    })
    const healthy = forgeFailure(copy, 0)
    if (healthy) throw new Error(`${healthy} fails with nothing broken.`)

    const outcomes: Outcome[] = numbered.map(({ name, mutant, id }) => {
      const killer = forgeFailure(copy, id)
      report(
        `${id}/${numbered.length} ${name}:${mutant.line} ${killer ?? 'survives forge'}: ${mutant.text} -> ${mutant.value}`,
      )
      return {
        contract: name,
        line: mutant.line,
        text: mutant.text,
        taken: mutant.value,
        killedBy: killer === null ? null : 'forge',
      }
    })

    for (const { name, source } of sources) writeFileSync(file(name), source)
    rmSync(file('Mutation'))
    const survived = new Set(
      outcomes.filter((outcome) => !outcome.killedBy && !becauseOf(outcome)).map(({ contract }) => contract),
    )
    for (const name of survived) onChain(copy, name, true)
    for (const [index, outcome] of outcomes.entries()) {
      if (outcome.killedBy || becauseOf(outcome)) continue
      const { name, source, mutant } = numbered[index]!
      writeFileSync(file(name), breakOne(source, mutant))
      if (!onChain(copy, name, false)) outcome.killedBy = 'chain'
      writeFileSync(file(name), source)
      report(`${name}:${mutant.line} ${outcome.killedBy ?? 'SURVIVES'}: ${mutant.text} -> ${mutant.value}`)
    }
    return outcomes
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { only: { type: 'string', multiple: true }, json: { type: 'boolean' } } })
  const only = values.only?.map((name) => basename(name, '.sol'))
  const unknown = only?.filter((name) => !(contracts as readonly string[]).includes(name)) ?? []
  if (unknown.length > 0) {
    console.error(`No conditions to break in ${unknown.join(', ')}; --only takes ${contracts.join(', ')}.`)
    process.exit(2)
  }
  const outcomes = mutate(
    contracts.filter((name) => !only || only.includes(name)),
    (line) => console.error(line),
  )
  const alive = outcomes.filter(({ killedBy }) => !killedBy)
  const survivors = alive.filter((outcome) => !becauseOf(outcome))
  const excused = alive.flatMap((outcome) => {
    const because = becauseOf(outcome)
    return because ? [{ ...outcome, because }] : []
  })
  if (values.json) console.log(JSON.stringify({ mutants: outcomes.length, survivors, unobservable: excused, outcomes }))
  else {
    console.table(
      contracts
        .map((contract) => outcomes.filter((outcome) => outcome.contract === contract))
        .filter((these) => these.length > 0)
        .map((these) => ({
          contract: these[0]!.contract,
          conditions: these.length,
          'killed by forge': these.filter(({ killedBy }) => killedBy === 'forge').length,
          'killed on a chain': these.filter(({ killedBy }) => killedBy === 'chain').length,
          unobservable: excused.filter(({ contract }) => contract === these[0]!.contract).length,
          survive: survivors.filter(({ contract }) => contract === these[0]!.contract).length,
        })),
    )
    for (const { contract, line, text, taken } of survivors) console.log(`${contract}.sol:${line} as ${taken}: ${text}`)
    for (const { contract, line, text, because } of excused)
      console.log(`${contract}.sol:${line} unobservable, ${because}: ${text}`)
  }
  process.exit(survivors.length > 0 ? 1 : 0)
}
