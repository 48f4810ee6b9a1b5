import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { assemblyBlocks, closing, codeOf, lineOf, split, statementEnd } from './mutate/scan.ts'

const root = join(import.meta.dirname, '..')

// Forge counts no line inside assembly, and of a condition only the way that has code: a sum that nobody reads gives it something to count.
const mark = '{ uint256 covered_ = 0; covered_++; }'

/** Writes a source that means the same and whose every condition has two ways that forge counts. Lines keep their numbers. Pure. */
export function countable(source: string): string {
  const code = codeOf(source)
  const inserts: [number, number, string][] = []
  const put = (at: number, text: string, length = 0) => inserts.push([at, length, text])
  const blocks = assemblyBlocks(code)
  for (const { start } of blocks) put(start, `${mark} `)
  const inAssembly = (at: number) => blocks.some(({ open, end }) => open < at && at < end)

  for (const match of code.matchAll(/\b(require|if) ?\(/g)) {
    if (inAssembly(match.index)) continue
    const open = match.index + match[0].length - 1
    const close = closing(code, open)
    if (match[1] === 'if') {
      const end = statementEnd(code, close + 1)
      if (/^\s*else\b/.test(code.slice(end))) continue
      const whole = statementEnd(code, match.index)
      if (whole === end) put(end, ` else ${mark}`)
      continue
    }
    const [condition, error] = split(code, open + 1, close, ',') as [[number, number], [number, number]?]
    put(match.index, '{ if (!(', match[0].length)
    if (error) put(condition[1], ')) revert ', 1)
    put(close, `${error ? '' : ')) revert()'}; else ${mark} }`, 2)
  }

  let text = ''
  let at = 0
  for (const [from, length, what] of inserts.toSorted((a, b) => a[0] - b[0])) {
    text += source.slice(at, from) + what
    at = from + length
  }
  return text + source.slice(at)
}

/** What was run of one file: lines and ways out of conditions, and those that were not. */
export type FileCoverage = {
  file: string
  lines: number
  linesHit: number
  branches: number
  branchesHit: number
  missedLines: number[]
  missedBranches: number[]
}

/** Reads forge's report on a rewritten file. A line inside assembly counts as the block does. */
export function coverageOf(file: string, source: string, records: readonly string[]): FileCoverage {
  const code = codeOf(source)
  const bare = new Set(code.split('\n').flatMap((line, index) => (/\w/.test(line) ? [] : [index + 1])))
  const lines = new Map<number, number>()
  const branches: [number, number][] = []
  for (const record of records) {
    const [kind, rest] = record.split(':') as [string, string]
    const fields = rest?.split(',') ?? []
    const line = Number(fields[0])
    if (kind === 'DA' && !bare.has(line)) lines.set(line, Number(fields[1]))
    if (kind === 'BRDA') branches.push([line, fields[3] === '-' ? 0 : Number(fields[3])])
  }
  const blocks = assemblyBlocks(code).map(({ start, end }) => [lineOf(code, start), lineOf(code, end)] as const)
  const within = (line: number) => blocks.find(([from, to]) => from < line && line <= to)
  for (const line of lines.keys()) {
    const block = within(line)
    if (block) lines.set(line, lines.get(block[0]) ?? 0)
  }
  const counted = branches.filter(([line]) => !within(line))
  const missedLines = [...lines].filter(([, hits]) => hits === 0).map(([line]) => line)
  const missedBranches = counted.filter(([, hits]) => hits === 0).map(([line]) => line)
  return {
    file,
    lines: lines.size,
    linesHit: lines.size - missedLines.length,
    branches: counted.length,
    branchesHit: counted.length - missedBranches.length,
    missedLines,
    missedBranches,
  }
}

/** Lists the contracts that go on a chain: all but the tests. */
function sourcesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.sol') && !/^(test|out|cache)[/\\]/.test(path))
    .sort()
}

/** Runs the forge tests on a rewritten copy and tells what of each contract they ran. Throws where one fails, as it should not. */
export function measure(): FileCoverage[] {
  const copy = mkdtempSync(join(tmpdir(), 'assay-coverage-'))
  try {
    for (const path of ['foundry.toml', 'dev/solc.mjs', 'protocol/vectors', 'contracts'])
      cpSync(join(root, path), join(copy, path), {
        recursive: true,
        filter: (from) => !/contracts[/\\](out|cache)$/.test(from),
      })
    mkdirSync(join(copy, 'contracts/cache'), { recursive: true })
    symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
    const sources = sourcesIn(join(copy, 'contracts'))
    const originals = new Map<string, string>()
    for (const path of sources) {
      const source = readFileSync(join(copy, 'contracts', path), 'utf8')
      originals.set(`contracts/${path}`, source)
      writeFileSync(join(copy, 'contracts', path), countable(source))
    }
    const { stdout, stderr } = spawnSync('forge', ['coverage', '--ir-minimum', '--report', 'lcov'], {
      cwd: copy,
      encoding: 'utf8',
      maxBuffer: 2 ** 28,
      env: { ...process.env, PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}` },
    })
    const output = `${stdout}${stderr}`
    // The npm package's `forge` always exits with 0, so what it prints decides.
    if (/\[FAIL|Encountered \d+ failing|Compiler run failed|^Error/m.test(output))
      throw new Error(`The tests fail on the copy:\n${output.slice(-4_000)}`)
    return readFileSync(join(copy, 'lcov.info'), 'utf8')
      .split('end_of_record')
      .map((section) => section.trim().split('\n'))
      .flatMap((records) => {
        const path = records.find((record) => record.startsWith('SF:'))?.slice(3) ?? ''
        const name = path.startsWith('/') ? relative(copy, path) : path
        const source = originals.get(name)
        return source === undefined ? [] : [coverageOf(name, source, records)]
      })
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { json: { type: 'boolean' } } })
  const bar = 0.98
  const files = measure()
  const sum = (of: (file: FileCoverage) => number) => files.reduce((total, file) => total + of(file), 0)
  const total = {
    lines: sum((file) => file.lines),
    linesHit: sum((file) => file.linesHit),
    branches: sum((file) => file.branches),
    branchesHit: sum((file) => file.branchesHit),
  }
  const met = total.linesHit >= bar * total.lines && total.branchesHit >= bar * total.branches
  if (values.json) console.log(JSON.stringify({ bar, met, total, files }))
  else {
    const share = (hit: number, of: number) => (of === 0 ? '-' : `${((100 * hit) / of).toFixed(2)} % (${hit}/${of})`)
    console.table(
      [...files, { file: 'all', ...total }].map((each) => ({
        file: each.file,
        lines: share(each.linesHit, each.lines),
        branches: share(each.branchesHit, each.branches),
      })),
    )
    for (const { file, missedLines, missedBranches } of files)
      if (missedLines.length + missedBranches.length > 0)
        console.log(
          `${file}: lines not run ${missedLines.join(' ') || '-'}; ways not taken at ${missedBranches.join(' ') || '-'}`,
        )
  }
  process.exit(met ? 0 : 1)
}
