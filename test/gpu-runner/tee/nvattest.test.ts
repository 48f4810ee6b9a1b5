import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { collectGpuEvidence } from '../../../gpu-runner/tee/nvattest.ts'

const folder = mkdtempSync(join(tmpdir(), 'assay-nvattest-'))
afterAll(() => rmSync(folder, { recursive: true }))
const nonce = new Uint8Array(32).fill(5)
let made = 0

/** Writes an executable that behaves as nvattest's command line; `body` sees the nonce as $5. */
function tool(body: string): string {
  const path = join(folder, `nvattest-${made++}`)
  writeFileSync(
    path,
    `#!/bin/sh\n[ "$1 $2 $3 $4 $6 $7" = "collect-evidence --device gpu --nonce --format json" ] || exit 64\n${body}\n`,
  )
  chmodSync(path, 0o755)
  return path
}

const entry = (over: Record<string, string> = {}) =>
  JSON.stringify({
    arch: 'HOPPER',
    nonce: 'NONCE',
    evidence: Buffer.from([0x11, 0xe0]).toString('base64'),
    certificate: Buffer.from('-----BEGIN CERTIFICATE-----').toString('base64'),
    driver_version: '580',
    vbios_version: '96',
    ...over,
  })
const printing = (json: string) => tool(`cat <<END | sed "s/NONCE/$5/g"\n${json}\nEND`)

describe('collectGpuEvidence', () => {
  test('behavior: every GPU of the machine, for the nonce that was asked', async () => {
    const path = printing(`{"evidences":[${entry()},${entry({ arch: 'BLACKWELL' })}],"result_code":0}`)
    expect(await collectGpuEvidence(nonce, { path })).toEqual([
      { arch: 'HOPPER', evidence: new Uint8Array([0x11, 0xe0]), certificates: '-----BEGIN CERTIFICATE-----' },
      { arch: 'BLACKWELL', evidence: new Uint8Array([0x11, 0xe0]), certificates: '-----BEGIN CERTIFICATE-----' },
    ])
  })

  test.each([
    [
      'another nonce',
      printing(`{"evidences":[${entry({ nonce: 'ab'.repeat(32) })}],"result_code":0}`),
      'another nonce',
    ],
    ['a result code', printing(`{"evidences":[${entry()}],"result_code":7}`), 'result code 7'],
    ['no result code', printing(`{"evidences":[${entry()}]}`), 'result code'],
    ['no GPU', printing('{"evidences":[],"result_code":0}'), 'no evidence of any GPU'],
    [
      'an entry without a certificate',
      printing('{"evidences":[{"arch":"HOPPER"}],"result_code":0}'),
      'no evidence of any GPU',
    ],
    [
      'evidence that is not base64',
      printing(`{"evidences":[${entry({ evidence: '***' })}],"result_code":0}`),
      'not base64',
    ],
    ['something other than JSON', tool('echo "NVML: driver not loaded"'), 'other than JSON'],
    ['a failure', tool('exit 3'), 'exit code 3'],
    ['a tool that is not there', join(folder, 'missing'), 'is not installed'],
  ])('refusal: %s', async (_, path, why) => {
    await expect(collectGpuEvidence(nonce, { path })).rejects.toThrow(why)
  })

  test('refusal: a tool that hangs is killed after ten seconds', async () => {
    await expect(collectGpuEvidence(nonce, { path: tool('exec sleep 60') })).rejects.toThrow('within 10 s')
  }, 20_000)
})
