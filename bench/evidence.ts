import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import { createEvidenceCache, vendorRoots, verifyEvidence } from '../protocol/evidence/index.ts'
import { type RealQuote, realQuotes, recordedPolicy } from '../test/fixtures/quotes.ts'
import type { Row } from './main.ts'
import { sideBySide } from './sideBySide.ts'

type Peer = { verify(quote: Uint8Array, collateral: Record<string, string>, now: number): unknown }

const require = createRequire(import.meta.url)

/** Bundles the peer as a browser would get it, where it falls back to elliptic curves in JavaScript. */
async function browserBuild(folder: string): Promise<Peer> {
  const outfile = join(folder, 'peer.cjs')
  await build({
    entryPoints: [require.resolve('@phala/dcap-qvl')],
    bundle: true,
    platform: 'browser',
    format: 'cjs',
    outfile,
    logLevel: 'silent',
  })
  return require(outfile) as Peer
}

/** Measures one whole TDX verification beside another library's, which checks less (no CRL signatures, no module identity), on a real quote. */
export async function run(): Promise<Row[]> {
  const real = realQuotes().find(({ name }) => name.startsWith('phala_tdx_quote__')) as RealQuote | undefined
  if (!real) {
    console.warn('skipped: real TDX quotes are not beside this checkout (../shared/vectors)')
    return []
  }
  const folder = mkdtempSync(join(tmpdir(), 'assay-bench-'))
  try {
    const node = require('@phala/dcap-qvl') as Peer
    const browser = await browserBuild(folder)
    const { quote, collateral, plain, now } = real
    const ours = async (cache?: ReturnType<typeof createEvidenceCache>) => {
      const verdict = await verifyEvidence({ format: 'tdx', quote }, collateral, {
        now,
        roots: vendorRoots,
        policy: recordedPolicy,
        ...(cache ? { cache } : {}),
      })
      if (verdict.verdict !== 'verified') throw new Error(`Not verified: ${verdict.refusals[0]?.detail}`)
    }
    const cache = createEvidenceCache()
    const times = await sideBySide(
      {
        whole: () => ours(),
        cached: () => ours(cache),
        node: () => node.verify(quote, plain, now),
        browser: () => browser.verify(quote, plain, now),
      },
      { turns: 60 },
    )
    const row = (figure: string, value: number, baseline: number, bar: number): Row => {
      const ratio = value / baseline
      return { figure, value, unit: 'ms', baseline, ratio, bar, met: ratio <= bar }
    }
    return [
      row('whole verification / @phala/dcap-qvl in Node', times.whole, times.node, 1),
      row('collateral cached / @phala/dcap-qvl in Node', times.cached, times.node, 0.4),
      row('whole verification / @phala/dcap-qvl as browsers get it', times.whole, times.browser, 0.1),
    ]
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
