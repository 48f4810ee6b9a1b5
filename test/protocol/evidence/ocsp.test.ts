import { describe, expect, test } from 'vitest'
import { createDevelopmentGpu, type GpuFault } from '../../../gpu-runner/tee/developmentGpu.ts'
import { type OcspFault, ocspFaults } from '../../../gpu-runner/tee/developmentOcsp.ts'
import { createEvidenceCache } from '../../../protocol/evidence/index.ts'
import { askAboutGpu, OcspUnavailableError, ocspRequest, readOcspAnswer } from '../../../protocol/evidence/ocsp.ts'
import { p384Profile, parseCertificate, parsePem } from '../../../protocol/evidence/x509.ts'
import { long, mangled } from '../../fixtures/mangle.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const nonce = new Uint8Array(32).fill(0xa5)

async function open(faults: OcspFault[] = [], gpuFaults: GpuFault[] = []) {
  const gpu = await createDevelopmentGpu({ seed, now: () => now, faults: gpuFaults, ocspFaults: faults })
  const { certificates } = gpu.evidence(nonce)
  const [, certificate, issuer] = parsePem(certificates).map((der) => parseCertificate(der, p384Profile))
  const question = { certificate: certificate!, issuer: issuer!, nonce }
  const answer = await gpu.answerOcsp(await ocspRequest(question))
  return {
    gpu,
    certificates,
    question,
    answer,
    read: (bytes = answer, at = now) => readOcspAnswer(bytes, question, at),
  }
}

describe('readOcspAnswer', () => {
  test.each([
    ['good', []],
    ['revoked', ['revoked']],
    ['hold', ['on_hold']],
  ] as const)('behavior: a certificate that is %s', async (status, faults) => {
    const { read } = await open([], [...faults])
    expect(await read()).toBe(status)
  })

  const expected: Record<OcspFault, string> = {
    try_later: 'status 3',
    stale: 'holds from',
    future: 'holds from',
    other_nonce: 'another question',
    no_nonce: 'another question',
    other_certificate: 'another certificate',
    no_end: 'until when',
    signed_by_stranger: 'did not sign',
    stranger_responder: 'Signature does not verify',
    not_delegated: 'not certified to answer',
    responder_is_ca: 'not certified to answer',
    expired_responder: 'valid from',
    changed: 'did not sign',
    trailing_bytes: 'left over',
  }
  test.each(ocspFaults)('refusal: %s', async (fault) => {
    const { read } = await open([fault])
    await expect(read()).rejects.toThrow(OcspUnavailableError)
    await expect(read()).rejects.toThrow(expected[fault])
  })

  test('refusal: an answer to another question, and about a certificate of another GPU', async () => {
    const { question, answer } = await open()
    await expect(readOcspAnswer(answer, { ...question, nonce: new Uint8Array(32) }, now)).rejects.toThrow('question')
    const other = await createDevelopmentGpu({ seed, now: () => now, index: 1 })
    const [, device] = parsePem(other.evidence(nonce).certificates).map((der) => parseCertificate(der, p384Profile))
    await expect(readOcspAnswer(answer, { ...question, certificate: device! }, now)).rejects.toThrow('certificate')
  })

  test('property: no single bit of an answer, flipped, makes a revoked certificate good', async () => {
    const { answer, read } = await open([], ['revoked'])
    for (let bit = 0; bit < answer.length * 8; bit++) {
      const flipped = answer.slice()
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      const status = await read(flipped).catch((error) => {
        expect(error, `bit ${bit}`).toBeInstanceOf(OcspUnavailableError)
        return 'unknown'
      })
      expect(['revoked', 'unknown'], `bit ${bit}`).toContain(status)
    }
  })

  test(`property: ${long ? 100_000 : 2_000} mangled answers end in an error or in what was signed`, async () => {
    const { answer, read } = await open([], ['revoked'])
    for (const changed of mangled(answer, long ? 100_000 : 2_000)) {
      const status = await read(changed).catch((error) => {
        if (!(error instanceof OcspUnavailableError)) throw error
        return 'unknown'
      })
      if (status !== 'revoked' && status !== 'unknown') throw new Error(`A revoked certificate became ${status}.`)
    }
  })

  test('refusal: every truncation', async () => {
    const { answer, read } = await open()
    for (let length = 0; length < answer.length; length++)
      await expect(read(answer.subarray(0, length)), `${length}`).rejects.toThrow(OcspUnavailableError)
  })
})

describe('askAboutGpu', () => {
  const source = (answer: (request: Uint8Array) => Promise<Uint8Array>) => {
    const asked: Uint8Array[] = []
    const fetch = async (_: string, init: RequestInit) => {
      asked.push(init.body as Uint8Array)
      return new Response((await answer(init.body as Uint8Array)) as Uint8Array<ArrayBuffer>)
    }
    return { asked, source: { fetch, url: 'https://ocsp.example', nonce: () => nonce } }
  }

  test('behavior: asks about what NVIDIA issued, once an hour, and neither about the leaf nor the root', async () => {
    const { gpu, certificates } = await open()
    const { asked, source: from } = source((request) => gpu.answerOcsp(request))
    const cache = createEvidenceCache()
    const states = await askAboutGpu(certificates, from, now, cache)
    expect(Object.values(states)).toEqual(['good', 'good'])
    await askAboutGpu(certificates, from, now + 60, cache)
    expect(asked).toHaveLength(2)
    await askAboutGpu(certificates, from, now + 3_600, cache)
    expect(asked).toHaveLength(4)
  })

  test('behavior: a responder that is away leaves the answer out, and is asked again next time', async () => {
    const { certificates } = await open()
    const { asked, source: from } = source(async () => {
      throw new Error('no route')
    })
    const cache = createEvidenceCache()
    expect(await askAboutGpu(certificates, from, now, cache)).toEqual({})
    expect(await askAboutGpu(certificates, from, now, cache)).toEqual({})
    expect(asked).toHaveLength(4)
  })
})
