#!/usr/bin/env node
// Stands in for the native compiler, which does not come from npm: answers --version, and compiles standard JSON from standard input.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(import.meta.url)
const solc = require('solc')

if (process.argv.includes('--version')) {
  process.stdout.write(
    `solc, the solidity compiler commandline interface\nVersion: ${solc.version().replace('Emscripten.clang', 'Linux.g++')}\n`,
  )
} else {
  const base = process.cwd()
  const read = (path) => {
    for (const candidate of [path, join(base, path), join(base, 'node_modules', path)]) {
      try {
        return { contents: readFileSync(candidate, 'utf8') }
      } catch {}
    }
    return { error: `${path} not found` }
  }
  process.stdout.write(solc.compile(readFileSync(0, 'utf8'), { import: read }))
}
