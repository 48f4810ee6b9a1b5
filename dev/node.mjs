// Runs a file of the project on a Node that reads TypeScript: the packaged one where there is one, else this machine's. Plain JavaScript, because the machine's may be older.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Finds the Node to run on, or null when none will do. By path and not by `.bin`, which some versions of npm leave unlinked. */
export function findNode() {
  const packaged = join(root, `node_modules/node-${process.platform}-${process.arch}/bin/node`)
  if (existsSync(packaged)) return packaged
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  return major > 23 || (major === 23 && minor >= 6) ? process.execPath : null
}

/** Runs a file and ends as it ends. */
export function runFile(file, args) {
  const node = findNode()
  if (!node) {
    process.stderr.write(
      existsSync(join(root, 'node_modules'))
        ? `assay  needs Node 24 on ${process.platform}-${process.arch}; this is ${process.version}. Install it and run again.\n`
        : 'assay  dependencies are missing. Run `npm ci` first.\n',
    )
    process.exit(1)
  }
  const child = spawn(node, ['--no-warnings', join(root, file), ...args], { stdio: 'inherit' })
  // The terminal sends Ctrl-C to the child as well; this process only has to outlive it. A plain kill reaches this process alone, so it is passed on.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  child.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) runFile(process.argv[2], process.argv.slice(3))
