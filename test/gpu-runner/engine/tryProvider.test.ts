import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { describe, expect, test } from 'vitest'
import { tryProvider } from '../../../gpu-runner/engine/tryProvider.ts'

describe('tryProvider', () => {
  test('behavior: the processor always works', async () => {
    expect(await tryProvider('cpu')).toBeNull()
  })

  const cuda = createRequire(import.meta.url)
    .resolve('onnxruntime-node/package.json')
    .replace('package.json', 'bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so')
  test.skipIf(existsSync(cuda))(
    'behavior: CUDA without its libraries is told, and nothing takes its place',
    async () => {
      expect(await tryProvider('cuda')).toMatch(/cuda/i)
    },
  )
})
