import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Runs every suite, and closes with one line that sums them. Arguments are passed to vitest; with any, only vitest runs. */

const root = join(import.meta.dirname, '..')
const bin = (name: string) => join(root, 'node_modules/.bin', name)
const stateDir = join(root, '.assay/test')
mkdirSync(stateDir, { recursive: true })

type Sum = { passed: number; failed: number; skipped: number }

function run(command: string, args: string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}

async function vitest(args: string[]): Promise<Sum> {
  const report = join(stateDir, 'vitest.json')
  rmSync(report, { force: true })
  const code = await run(process.execPath, [
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...args,
  ])
  if (!existsSync(report)) return { passed: 0, failed: 1, skipped: 0 }
  const json = JSON.parse(readFileSync(report, 'utf8')) as {
    numPassedTests: number
    numFailedTests: number
    numPendingTests: number
    numTodoTests: number
    numFailedTestSuites: number
  }
  // A file that fails to load has no tests to count, yet it failed.
  const failed = Math.max(json.numFailedTests, code === 0 ? 0 : 1)
  return { passed: json.numPassedTests, failed, skipped: json.numPendingTests + json.numTodoTests }
}

function forge(): Sum {
  const result = spawnSync(bin('forge'), ['test', '--json'], {
    cwd: root,
    env: { ...process.env, ...(process.env.LONG === '1' ? { FOUNDRY_PROFILE: 'long' } : {}) },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const sum: Sum = { passed: 0, failed: 0, skipped: 0 }
  const start = result.stdout.indexOf('{')
  if (start < 0) {
    process.stdout.write(result.stdout)
    return { ...sum, failed: 1 }
  }
  const suites = JSON.parse(result.stdout.slice(start)) as Record<
    string,
    { test_results: Record<string, { status: string; reason?: string | null }> }
  >
  for (const [suite, { test_results }] of Object.entries(suites)) {
    for (const [name, { status, reason }] of Object.entries(test_results)) {
      if (status === 'Success') sum.passed++
      else if (status === 'Skipped') sum.skipped++
      else {
        sum.failed++
        process.stdout.write(`forge  ${suite} ${name}: ${reason ?? status}\n`)
      }
    }
  }
  if (result.status !== 0 && sum.failed === 0) sum.failed = 1
  process.stdout.write(`forge  ${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped\n`)
  return sum
}

const args = process.argv.slice(2)
const sums = args.length > 0 ? [await vitest(args)] : [forge(), await vitest([])]
const total = sums.reduce((a, b) => ({
  passed: a.passed + b.passed,
  failed: a.failed + b.failed,
  skipped: a.skipped + b.skipped,
}))
const line = `${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ''}`
writeFileSync(join(stateDir, 'summary.json'), `${JSON.stringify(total)}\n`)
process.stdout.write(`${line}\n`)
process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1)
