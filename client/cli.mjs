#!/usr/bin/env node
// Runs on whatever Node the machine has, and hands over to one that runs TypeScript.
import { runFile } from '../dev/node.mjs'

runFile('client/cli.ts', process.argv.slice(2))
