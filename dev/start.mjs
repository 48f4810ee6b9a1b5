// Runs on whatever Node the machine has, before anything is installed: so plain JavaScript, and nothing imported but Node itself.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const node = join(root, 'node_modules/.bin/node')

// npm writes this file last, so a half-finished install does not pass for a whole one.
if (!existsSync(join(root, 'node_modules/.package-lock.json'))) {
  process.stderr.write('assay  installing dependencies (once) …\n')
  const install = spawnSync('npm', ['ci', '--no-fund', '--no-audit'], { cwd: root, stdio: ['ignore', 2, 2] })
  if (install.status !== 0) {
    process.stderr.write('assay  failed at: install. Run `npm ci` to see why.\n')
    process.exit(1)
  }
}

// The packaged Node 24 serves linux; elsewhere the machine's own does if it is new enough to run TypeScript.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
const ownIsEnough = major > 23 || (major === 23 && minor >= 6)
if (!existsSync(node) && !ownIsEnough) {
  process.stderr.write(
    `assay  needs Node 24 on ${process.platform}-${process.arch}; this is ${process.version}. Install it and run again.\n`,
  )
  process.exit(1)
}

const child = spawn(existsSync(node) ? node : process.execPath, [join(root, 'dev/main.ts'), ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
})
// The terminal sends Ctrl-C to the child as well; this process only has to outlive it. A plain kill reaches this process alone, so it is passed on.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => child.kill('SIGTERM'))
child.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)))
