import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { createDevelopmentTee, type TeeFault } from '../../gpu-runner/tee/development.ts'
import { toBase64, toHex } from '../../protocol/bytes.ts'
import { collateralToJson, evidenceToJson } from '../../protocol/evidence/index.ts'
import { realQuotes } from '../fixtures/quotes.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const folder = mkdtempSync(join(tmpdir(), 'assay-evidence-'))
afterAll(() => rmSync(folder, { recursive: true }))

const write = (name: string, content: string | Uint8Array) => {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

function assay(...words: string[]) {
  const { status, stdout, stderr } = spawnSync('node', ['client/cli.mjs', 'evidence', 'verify', ...words], {
    encoding: 'utf8',
    cwd: join(import.meta.dirname, '../..'),
    env: { PATH: process.env.PATH },
  })
  return { status, stdout, stderr }
}

function development(faults: TeeFault[] = []) {
  const tee = createDevelopmentTee({ seed: new Uint8Array(32).fill(7), now: () => now, faults })
  const quote = tee.quote(new Uint8Array(64))
  return {
    quote,
    root: toBase64(tee.rootDer),
    collateral: write(`collateral${faults.join('-')}.json`, JSON.stringify(collateralToJson(tee.collateral()))),
  }
}

describe('assay evidence verify', () => {
  const { quote, root, collateral } = development()
  const flags = ['--collateral', collateral, '--now', String(now), '--development-root', root]

  test.each([
    ['raw bytes', quote],
    ['hexadecimal', toHex(quote).slice(2)],
    ['hexadecimal with a prefix and a line end', `${toHex(quote)}\n`],
    ['base64', toBase64(quote)],
    ["the guest agent's answer", JSON.stringify({ quote: toHex(quote).slice(2), event_log: '[]' })],
    ['our own JSON', JSON.stringify(evidenceToJson({ format: 'tdx', quote }))],
  ])('behavior: a quote as %s is verified, exit 0', (_, content) => {
    const { status, stdout } = assay(write('quote', content), ...flags, '--json')
    expect(status).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      verdict: 'verified',
      tee: 'tdx',
      root: 'development',
      tcbStatus: 'UpToDate',
      moduleStatus: 'UpToDate',
      qeStatus: 'UpToDate',
      advisories: [],
      debug: false,
      reportData: toHex(new Uint8Array(64)),
    })
  })

  test('behavior: one row a check, saying what was compared, with what, from where', () => {
    const { status, stdout } = assay(write('quote', quote), ...flags)
    expect(status).toBe(0)
    expect(stdout).toMatch(
      /✓ platform: FMSPC 00a55a700000, PCE id 0000, PPID [0-9a-f]{32} with TCB info.*\(from PCK certificate\)/,
    )
    expect(stdout.split('\n').filter((line) => line.startsWith('✓')).length).toBeGreaterThan(8)
  })

  test('refusal: a debug domain, exit 1 and the row it failed in', () => {
    const bad = development(['debug'])
    const { status, stdout } = assay(write('bad', bad.quote), '--collateral', bad.collateral, ...flags.slice(2))
    expect(status).toBe(1)
    expect(stdout).toContain('✗ TD attributes')
    expect(stdout).toContain('refused: debug')
  })

  test('refusal: a development quote where only vendors are trusted, exit 1', () => {
    const { status, stdout } = assay(write('quote', quote), ...flags.slice(0, 4), '--json')
    expect(status).toBe(1)
    expect(JSON.parse(stdout).refusals[0].reason).toBe('untrusted_root')
  })

  test('behavior: without collateral nothing is known, exit 2 and how to go on', () => {
    const { status, stdout } = assay(write('quote', quote), ...flags.slice(2))
    expect(status).toBe(2)
    expect(stdout).toContain('--collateral')
  })

  test.each([
    ['a file that is not there', ['/nowhere/quote'], 2],
    ['no file', [], 2],
    ['a file that is no evidence', [write('noise', new Uint8Array(2_000).fill(7))], 1],
    ['JSON that is no evidence', [write('other.json', '{"name":"x"}')], 1],
    ['JSON that names a key twice', [write('twice.json', '{"quote":"00","quote":"01"}')], 1],
    ['a time that is none', [write('quote', quote), '--now', 'yesterday'], 2],
    ['collateral that is none', [write('quote', quote), '--collateral', write('none.json', '{}')], 1],
  ])('refusal: %s', (_, words, code) => {
    const { status, stderr } = assay(...words)
    expect(status).toBe(code)
    expect(stderr.length).toBeGreaterThan(10)
    expect(stderr).not.toMatch(/\n\s+at /)
  })
})

const quotes = realQuotes()
if (quotes.length === 0) console.warn('skipped: real TDX quotes are not beside this checkout (../shared/vectors)')

test.skipIf(quotes.length === 0)('behavior: a recorded bundle is taken as it is, as of its own time', () => {
  const bundles = join(import.meta.dirname, '../../../shared/vectors/tdx/bundles')
  for (const [name, status] of [
    ['phala_tdx_quote__phala-2025-06', 0],
    ['lunal_tdx_quote_4_dat__google-2023-06', 1],
  ] as const) {
    expect(assay(join(bundles, `${name}.json`), '--json').status).toBe(status)
  }
})
