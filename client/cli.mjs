#!/usr/bin/env node
// Runs on whatever Node the machine has, and hands over to one that runs TypeScript.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const packaged = join(root, 'node_modules/.bin/node')
const { status } = spawnSync(
  existsSync(packaged) ? packaged : process.execPath,
  ['--no-warnings', join(root, 'client/cli.ts'), ...process.argv.slice(2)],
  { stdio: 'inherit' },
)
process.exit(status ?? 1)
