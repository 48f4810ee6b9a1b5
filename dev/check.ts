import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

/** Checks format, lint and types; no services, in seconds. */

const root = join(import.meta.dirname, '..')
let failed = false
for (const [script, ...args] of [
  ['node_modules/@biomejs/biome/bin/biome', 'check', '.'],
  ['node_modules/typescript/bin/tsc', '-p', '.'],
]) {
  const { status } = spawnSync(process.execPath, [join(root, script!), ...args], { cwd: root, stdio: 'inherit' })
  if (status !== 0) failed = true
}
process.exit(failed ? 1 : 0)
