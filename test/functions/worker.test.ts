import { join } from 'node:path'
import { build } from 'esbuild'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '../..')

async function loadedBy(entry: string): Promise<string[]> {
  const { metafile } = await build({
    entryPoints: [join(root, entry)],
    absWorkingDir: root,
    bundle: true,
    write: false,
    metafile: true,
    format: 'esm',
    conditions: ['workerd', 'worker', 'browser'],
    external: ['node:*', 'cloudflare:*'],
    logLevel: 'silent',
  })
  return Object.keys(metafile.inputs)
}

test('refusal: the deployed entry has no way to a development root: the module that makes one is not in it', async () => {
  const deployed = await loadedBy('functions/index.ts')
  expect(deployed).toContain('protocol/evidence/roots.ts')
  expect(deployed).not.toContain('protocol/evidence/roots.development.ts')
  expect(deployed.filter((path) => path.startsWith('gpu-runner/') || path.startsWith('dev/'))).toEqual([])
  expect(await loadedBy('functions/index.development.ts')).toContain('protocol/evidence/roots.development.ts')
})

test('behavior: what is deployed is the entry without development roots', async () => {
  const { readFileSync } = await import('node:fs')
  expect(readFileSync(join(root, 'wrangler.toml'), 'utf8')).toContain('main = "functions/index.ts"')
})
