// Runs on whatever Node the machine has, before anything is installed: so plain JavaScript, and nothing imported but Node itself.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runFile } from './node.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

// npm writes this file last, so a half-finished install does not pass for a whole one.
if (!existsSync(join(root, 'node_modules/.package-lock.json'))) {
  process.stderr.write('assay  installing dependencies (once) …\n')
  const install = spawnSync('npm', ['ci', '--no-fund', '--no-audit'], { cwd: root, stdio: ['ignore', 2, 2] })
  if (install.status !== 0) {
    process.stderr.write('assay  failed at: install. Run `npm ci` to see why.\n')
    process.exit(1)
  }
}
runFile('dev/main.ts', process.argv.slice(2))
