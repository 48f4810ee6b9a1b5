import { existsSync, readdirSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'

/** Runs one bench and prints its rows: a table for people, or with --json one object on the last line. */

/** Holds one measured figure beside its baseline. `bar` is what `ratio` (or `value` where there is no baseline) must not exceed, or must reach where the figure says "at least"; `met` says whether it did. */
export type Row = {
  figure: string
  value: number
  unit: string
  baseline: number | null
  ratio: number | null
  bar: number | null
  met: boolean | null
}

const names = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.ts') && !['main.ts', 'sideBySide.ts', 'gasAttestation.ts'].includes(file))
  .map((file) => file.slice(0, -3))
const [name, ...flags] = process.argv.slice(2)
if (!name || !existsSync(join(import.meta.dirname, `${name}.ts`))) {
  process.stderr.write(`Usage: npm run bench -- <name> [--json]; names: ${names.join(', ')}\n`)
  process.exit(2)
}
const { run } = (await import(`./${name}.ts`)) as { run: () => Promise<Row[]> }
const rows = await run()
const environment = {
  node: process.version,
  platform: `${process.platform}-${process.arch}`,
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
}
if (flags.includes('--json')) process.stdout.write(`${JSON.stringify({ bench: name, environment, rows })}\n`)
else console.table(rows)
