import { describe, expect, test } from 'vitest'
import { type SelfTestDeps, selfTest } from '../../gpu-runner/selfTest.ts'
import { envelopeOpener } from '../../gpu-runner/service.ts'
import { createRecoverer, createRunnerSigner } from '../../gpu-runner/signer.ts'
import { utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { generateHpkeKeyPair } from '../../protocol/hpke.ts'

async function deps(change: Partial<SelfTestDeps> = {}): Promise<SelfTestDeps> {
  const hpke = await generateHpkeKeyPair()
  return {
    signer: createRunnerSigner(sha256(utf8('test key: runner'))),
    recoverAddress: createRecoverer(),
    hpkeKey: hpke.rawPublicKey,
    openEnvelope: envelopeOpener(hpke),
    journal: { prune: async () => {} },
    ...change,
  }
}

describe('selfTest', () => {
  test('behavior: a runner that works passes', async () => {
    await selfTest(await deps())
  })

  test('refusal: a signer of another key, a sealing key of another pair, a disk that refuses', async () => {
    const other = createRunnerSigner(sha256(utf8('test key: another')))
    const signer = { ...other, address: (await deps()).signer.address }
    await expect(selfTest(await deps({ signer }))).rejects.toMatchObject({ name: 'SelfTestError' })
    const { rawPublicKey } = await generateHpkeKeyPair()
    await expect(selfTest(await deps({ hpkeKey: rawPublicKey }))).rejects.toThrow('does not open')
    const journal = { prune: async () => Promise.reject(new Error('disk full')) }
    await expect(selfTest(await deps({ journal }))).rejects.toThrow('disk full')
  })
})
