import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { assemblyBlocks, closing, codeOf, comparison, enclosing, type Kind, lineOf, split } from './mutate/scan.ts'
import { type Contract, contracts, suites, unobservable } from './mutate/suites.ts'

const root = join(import.meta.dirname, '..')

/** One condition to break: the text between `start` and `end` is taken for `value`, or stands for other code, whatever it says. */
export type Mutant = { line: number; start: number; end: number; text: string; value: boolean | string }

const operators = /&&|\|\||\?|[=!]=|(?<![<>])[<>]=|(?<![<>=-])[<>](?![<>=])/g
const values: Readonly<Record<Kind, readonly boolean[]>> = {
  require: [true],
  if: [false],
  loop: [false],
  operands: [],
  value: [true, false],
}
const edges: Readonly<Record<string, string>> = { '<': '<=', '<=': '<', '>': '>=', '>=': '>' }

/**
 * Finds every condition outside assembly and its operands: of `require` and `if`, of loops and of `?`, and those that are values. A requirement is taken for met, an `if` for not, a loop for over, any other for either.
 * With `bounds` each comparison of sizes is also broken by one: it takes in its bound, or leaves it out. Pure.
 */
export function mutantsOf(source: string, bounds = false): Mutant[] {
  const code = codeOf(source)
  const blocks = assemblyBlocks(code)
  const mutants: Mutant[] = []
  const seen = new Set<string>()
  const add = ([start, end]: [number, number], ...taken: readonly (boolean | string)[]) => {
    const text = source.slice(start, end).trim()
    const from = start + source.slice(start, end).indexOf(text)
    if (seen.has(`${from}-${text.length}`)) return
    seen.add(`${from}-${text.length}`)
    for (const value of taken)
      mutants.push({
        line: lineOf(source, from),
        start: from,
        end: from + text.length,
        text: text.replace(/\s+/g, ' '),
        value,
      })
  }
  const edgeOf = ([start, end]: [number, number]): string[] => {
    const compared = bounds ? comparison(code, start, end) : null
    // Nothing is below zero.
    if (!compared || /^\s*0\s*$/.test(code.slice(compared.at + compared.sign.length, end))) return []
    return [
      source.slice(start, compared.at) + edges[compared.sign] + source.slice(compared.at + compared.sign.length, end),
    ].map((text) => text.trim().replace(/\s+/g, ' '))
  }
  for (const { index } of code.matchAll(operators)) {
    if (blocks.some((block) => block.open < index && index < block.end)) continue
    const { range, kind } = enclosing(code, index)
    const edge = kind === 'loop' ? [] : edgeOf(range)
    add(range, ...values[kind], ...edge)
    if (kind === 'loop') continue
    // Of alternatives one is never, of conjuncts one always taken.
    for (const [operator, value] of [
      ['||', false],
      ['&&', true],
    ] as const) {
      const operands = split(code, ...range, operator)
      if (operands.length === 1) continue
      for (const operand of operands) add(operand, value, ...edgeOf(operand))
      break
    }
  }
  for (const match of code.matchAll(/\b(require|if) ?\(/g)) {
    const open = match.index + match[0].length - 1
    if (blocks.some((block) => block.open < open && open < block.end)) continue
    const [condition] = split(code, open + 1, closing(code, open), ',') as [[number, number]]
    add(condition, match[1] === 'require')
  }
  return mutants.sort((a, b) => a.start - b.start || b.end - a.end)
}

const taken = (text: string, value: boolean | string, id: number) => {
  if (typeof value === 'string') return `(mutated(${id}) ? (${value}) : (${text}))`
  return value ? `(mutated(${id}) || (${text}))` : `(!mutated(${id}) && (${text}))`
}

/** Writes a source in which every mutant sleeps until its number is switched on; numbers begin at `first`. */
export function instrument(source: string, mutants: readonly Mutant[], first: number, switchPath: string): string {
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
  return write(0, source.length, order).replace(
    /^pragma [^\n]*\n/m,
    (pragma) => `${pragma}import {mutated} from "${switchPath}";\n`,
  )
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

/** Lists the sources a source imports, itself included, however far. */
function importsOf(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  for (const [, path] of readFileSync(file, 'utf8').matchAll(/^\s*import [^;]*"(\.[^"]+)";/gm))
    importsOf(join(dirname(file), path!), seen)
  return seen
}

/** Takes out the forge suites that never see these contracts: they could notice nothing, and compiling them takes the longest. */
function dropStrangers(copy: string, names: readonly Contract[]): void {
  const folder = join(copy, 'contracts/test')
  const here = readdirSync(folder).filter((name) => name.endsWith('.t.sol'))
  const seen = here.map((name) => importsOf(join(folder, name)))
  const kept = seen.filter((files) => names.some((name) => files.has(join(copy, 'contracts', name))))
  for (const name of here) if (!kept.some((files) => files.has(join(folder, name)))) rmSync(join(folder, name))
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

/** Names a forge test that fails with a mutant awake (0: none is), or null; the suites likely to miss the condition come first. The npm package's `forge` always exits with 0, so its report is read. Throws without one. */
function forgeFailure(copy: string, id: number, likely: readonly string[]): string | null {
  const these = `contracts/test/{${likely.join(',')}}.t.sol`
  return failureIn(copy, id, ['--match-path', these]) ?? failureIn(copy, id, ['--no-match-path', these])
}

function failureIn(copy: string, id: number, which: readonly string[]): string | null {
  const { output } = run(copy, 'forge', ['test', '--json', ...which], {
    FOUNDRY_BLOCK_COINBASE: `0x${id.toString(16).padStart(40, '0')}`,
    FOUNDRY_FUZZ_SEED: '0x1',
    FOUNDRY_FUZZ_RUNS: '64',
    FOUNDRY_INVARIANT_RUNS: '8',
  })
  const line = output.split('\n').find((each) => each.startsWith('{"contracts/'))
  if (!line && output.includes('no tests match the provided pattern')) return null
  if (!line) throw new Error(`Forge ran no test:\n${output.slice(-4_000)}`)
  const results = JSON.parse(line) as Record<string, { test_results: Record<string, { status: string }> }>
  const tests = Object.values(results).flatMap(({ test_results }) => Object.entries(test_results))
  return tests.find(([, { status }]) => status === 'Failure')?.[0] ?? null
}

/** Tells whether a contract's tests on a chain pass. Throws where it does not compile, which proves nothing, and where tests that must pass do not. */
function onChain(copy: string, name: Contract, mustPass: boolean): boolean {
  const built = run(copy, process.execPath, ['dev/contracts.ts'])
  if (!built.ok) throw new Error(`The contracts do not compile:\n${built.output.slice(-4_000)}`)
  const { ok, output } = run(copy, 'vitest', ['run', '--bail', '1', ...suites[name].chain])
  if (mustPass && !ok) throw new Error(`The tests fail with nothing broken:\n${output.slice(-4_000)}`)
  return ok
}

type Outcome = {
  contract: Contract
  line: number
  text: string
  taken: boolean | string
  killedBy: 'forge' | 'chain' | null
}

const becauseOf = ({ contract, text, taken }: Outcome) =>
  unobservable.find(
    (each) =>
      each.contract === contract &&
      each.text === text &&
      (each.as === undefined ? typeof taken === 'boolean' : each.as === taken),
  )?.because

/**
 * Breaks each condition of the contracts once and tells which break no test notices; some nobody can notice are listed with their reasons. One build holds all mutants, asleep; forge wakes them one by one. Those that survive are
 * built alone and meet the tests on a chain, unless that is left out. Throws when the tests fail with nothing broken.
 */
export function mutate(
  names: readonly Contract[],
  report: (line: string) => void,
  { chain = true, bounds = false }: { chain?: boolean; bounds?: boolean } = {},
): Outcome[] {
  const copy = copyProject()
  try {
    const sources = names.map((name) => {
      const source = readFileSync(join(root, 'contracts', name), 'utf8')
      return { name, source, mutants: mutantsOf(source, bounds) }
    })
    const file = (name: string) => join(copy, 'contracts', name)
    writeFileSync(file('Mutation.sol'), mutationSource)
    dropStrangers(copy, names)
    let first = 1
    const numbered = sources.flatMap(({ name, source, mutants }) => {
      writeFileSync(
        file(name),
        instrument(source, mutants, first, name.includes('/') ? '../Mutation.sol' : './Mutation.sol'),
      )
      const these = mutants.map((mutant, index) => ({ name, source, mutant, id: first + index }))
      first += mutants.length
      return these
    })
    const healthy = failureIn(copy, 0, [])
    if (healthy) throw new Error(`${healthy} fails with nothing broken.`)

    const outcomes: Outcome[] = numbered.map(({ name, mutant, id }) => {
      const killer = forgeFailure(copy, id, suites[name].forge)
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
    rmSync(file('Mutation.sol'))
    if (!chain) return outcomes
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
  const { values } = parseArgs({
    options: {
      only: { type: 'string', multiple: true },
      json: { type: 'boolean' },
      forge: { type: 'boolean' },
      bounds: { type: 'boolean' },
    },
  })
  const named = (name: string) => contracts.filter((each) => basename(each, '.sol') === basename(name, '.sol'))
  const only = values.only?.flatMap(named)
  const unknown = values.only?.filter((name) => named(name).length === 0) ?? []
  if (unknown.length > 0) {
    console.error(`No conditions to break in ${unknown.join(', ')}; --only takes ${contracts.join(', ')}.`)
    process.exit(2)
  }
  const outcomes = mutate(
    contracts.filter((name) => !only || only.includes(name)),
    (line) => console.error(line),
    { chain: !values.forge, bounds: values.bounds ?? false },
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
    for (const { contract, line, text, taken } of survivors) console.log(`${contract}:${line} as ${taken}: ${text}`)
    for (const { contract, line, text, because } of excused)
      console.log(`${contract}:${line} unobservable, ${because}: ${text}`)
  }
  process.exit(survivors.length > 0 ? 1 : 0)
}
