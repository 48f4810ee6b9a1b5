import { describe, expect, test } from 'vitest'
import type { Context } from '../../functions/context.ts'
import { gpuCollateral, judgeGpus, noticesOf, rimTablesKey } from '../../functions/services/gpus.ts'
import { createDevelopmentGpu, type GpuFault } from '../../gpu-runner/tee/developmentGpu.ts'
import { gpusFromJson } from '../../protocol/attestRegistration.ts'
import { type Hex, utf8 } from '../../protocol/bytes.ts'
import { gpuEvidenceDigest } from '../../protocol/evidence/gpu.ts'
import { defaultPolicy, evidenceToJson, vendorRoots } from '../../protocol/evidence/index.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { gpuNonce, type Statement } from '../../protocol/evidence/statement.ts'
import { sha256 } from '../../protocol/hash.ts'
import { createSigner } from '../../protocol/secp256k1.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const { address: signer, publicKey } = createSigner(sha256(utf8('test key: gpu runner')))
const hpkeKey = new Uint8Array(32).fill(2)
const blockHash = new Uint8Array(32).fill(3)
const nonce = gpuNonce(blockHash, signer, hpkeKey)

let hours = 0

/** A machine with two GPUs, as its runner would show them. */
async function showing(faults: GpuFault[] = [], { tables = true, indexes = [0, 1], responder = true } = {}) {
  // Answers are kept for an hour in one isolate, so each machine here lives in an hour of its own.
  const at = now + hours++ * 3_600
  const gpus = await Promise.all(indexes.map((index) => createDevelopmentGpu({ seed, now: () => at, index, faults })))
  const list = gpus.map((gpu) => gpu.evidence(nonce))
  const stored = JSON.stringify(gpus[0]!.collateral().rims)
  const context = {
    artifacts: { get: async (key: string) => (tables && key === rimTablesKey ? new Response(stored) : null) },
    roots: [
      vendorRoots,
      developmentRoots({
        chainId: 31_337,
        intel: new Uint8Array(),
        nvidia: gpus[0]!.root,
        rimSigners: [gpus[0]!.rimSigner],
      }),
    ],
    policy: defaultPolicy,
    settings: { OCSP_URL: 'https://ocsp.example' },
    fetch: async (_: string, init: RequestInit) => {
      if (!responder) throw new Error('no route')
      for (const gpu of gpus) {
        const answer = await gpu.answerOcsp(init.body as Uint8Array).catch(() => null)
        if (answer) return new Response(answer as Uint8Array<ArrayBuffer>)
      }
      return new Response('unknown certificate', { status: 404 })
    },
    now: () => at * 1000,
  } as unknown as Context
  const statement: Statement = {
    root: 'development',
    chainId: 31_337n,
    registry: `0x${'5e'.repeat(20)}` as Hex,
    signerKey: publicKey,
    hpkeKey,
    nonce: blockHash,
    gpuEvidence: gpuEvidenceDigest(list),
    workload: `0x${'00'.repeat(32)}` as Hex,
    notAfter: BigInt(at + 3_600),
  }
  const json = list.map((evidence) => evidenceToJson({ format: 'gpu', ...evidence }))
  return { context, statement, json }
}

describe('judgeGpus', () => {
  test('behavior: two genuine GPUs, measured, answering the nonce of these keys', async () => {
    const { context, statement, json } = await showing()
    const judged = await judgeGpus(context, { statement, signer, gpus: json })
    expect(judged).toMatchObject({
      ok: true,
      claims: [
        { claim: 'gpu_attested', status: 'asserted' },
        { claim: 'gpu_bound', status: 'unknown' },
      ],
    })
  })

  test('behavior: genuine but unmeasured, or not answered for at OCSP, stays unknown', async () => {
    const unmeasured = await showing([], { tables: false })
    expect(
      await judgeGpus(unmeasured.context, { statement: unmeasured.statement, signer, gpus: unmeasured.json }),
    ).toMatchObject({ ok: true, claims: [{ claim: 'gpu_attested', status: 'unknown' }, {}] })
    const { context, statement, json } = await showing([], { responder: false })
    expect(await judgeGpus(context, { statement, signer, gpus: json })).toMatchObject({
      ok: true,
      claims: [{ status: 'unknown' }, {}],
    })
  })

  test('behavior: a provider is told what could not be judged, whose silence it was, and what comes of it', async () => {
    const told = async (machine: Awaited<ReturnType<typeof showing>>) => {
      const { context, statement, json } = machine
      const judged = await judgeGpus(context, { statement, signer, gpus: json })
      const gpus = gpusFromJson(json)
      return noticesOf(judged.ok ? judged.claims : [], gpus, await gpuCollateral(context, gpus))
    }
    expect(await told(await showing())).toEqual([])
    expect(await told(await showing([], { tables: false }))).toEqual([
      expect.stringMatching(/do not find this runner: 2 of 2 .* No tables were given/),
    ])
    expect(await told(await showing([], { responder: false }))).toEqual([
      expect.stringMatching(/do not find this runner: 2 of 2 .* OCSP was not asked/),
      expect.stringMatching(/responder did not answer for .+ asked again every hour/),
    ])
    expect(noticesOf([], [], { ocsp: null })).toEqual([])
  })

  test('behavior: a machine without GPUs has nothing to say of them', async () => {
    const { context, statement } = await showing([], { indexes: [0] })
    const none = { ...statement, gpuEvidence: new Uint8Array(32) }
    expect(await judgeGpus(context, { statement: none, signer, gpus: [] })).toEqual({ ok: true, claims: [] })
  })

  test.each<[GpuFault, string]>([
    ['zero_signature', 'evidence_signature'],
    ['other_nonce', 'nonce_mismatch'],
    ['foreign_root', 'untrusted_root'],
    ['ppcie', 'gpu_mode'],
    ['measurement_mismatch', 'rim_mismatch'],
    ['revoked', 'certificate_revoked'],
    ['on_hold', 'certificate_revoked'],
  ])('refusal: %s is refused as %s', async (fault, reason) => {
    const { context, statement, json } = await showing([fault])
    expect(await judgeGpus(context, { statement, signer, gpus: json })).toMatchObject({
      ok: false,
      refusal: { reason },
    })
  })

  test('refusal: GPUs left out, added or swapped; one shown twice; evidence made for another key', async () => {
    const { context, statement, json } = await showing()
    const reasonOf = async (gpus: unknown[], over: Partial<Statement> = {}, by = signer) => {
      const judged = await judgeGpus(context, { statement: { ...statement, ...over }, signer: by, gpus })
      return judged.ok ? null : judged.refusal.reason
    }
    expect(await reasonOf(json.slice(1))).toBe('gpu_link')
    expect(await reasonOf([])).toBe('gpu_link')
    expect(await reasonOf([...json].reverse())).toBe('gpu_link')
    expect(await reasonOf(json, { gpuEvidence: new Uint8Array(32) })).toBe('gpu_link')
    expect(await reasonOf(json, { hpkeKey: new Uint8Array(32).fill(9) })).toBe('nonce_mismatch')
    expect(await reasonOf(json, {}, createSigner(sha256(utf8('test key: stranger'))).address)).toBe('nonce_mismatch')
    const twice = await showing([], { indexes: [0, 0] })
    expect(await judgeGpus(twice.context, { statement: twice.statement, signer, gpus: twice.json })).toMatchObject({
      ok: false,
      refusal: { reason: 'gpu_repeated' },
    })
    expect(await reasonOf([{ format: 'tdx', quote: '' }])).toBe('malformed_evidence')
    expect(await reasonOf(['not evidence'])).toBe('malformed_evidence')
  })
})
