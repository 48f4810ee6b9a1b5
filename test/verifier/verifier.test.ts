import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDevelopmentGpu } from '../../gpu-runner/tee/developmentGpu.ts'
import { createDevelopmentNitro } from '../../gpu-runner/tee/developmentNitro.ts'
import { createDevelopmentSnp, type DevelopmentSnp, type SnpFault } from '../../gpu-runner/tee/developmentSnp.ts'
import { collectVerdict, type VerifierSet } from '../../gpu-runner/verdicts.ts'
import { attestedVerdictDigest, attestedVerdictFromJson } from '../../protocol/attestedVerdict.ts'
import { publishedDigest, type RegistrationClaim, registrationToJson } from '../../protocol/attestRegistration.ts'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { gpuEvidenceDigest } from '../../protocol/evidence/gpu.ts'
import {
  type Collateral,
  createEvidenceCache,
  defaultPolicy,
  type Evidence,
  type GpuEvidence,
} from '../../protocol/evidence/index.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { encodeStatement, gpuNonce, reportDataOf } from '../../protocol/evidence/statement.ts'
import { workloadOf } from '../../protocol/evidence/workload.ts'
import { sha256 } from '../../protocol/hash.ts'
import { type PublishedVerdict, replayVerdict } from '../../protocol/publishedVerdict.ts'
import { registrationDigest } from '../../protocol/registration.ts'
import { createSigner, recoverAddress } from '../../protocol/secp256k1.ts'
import { createVerifier, type VerifierDeps } from '../../verifier/app.ts'
import { readVerifierConfig } from '../../verifier/config.ts'
import { fileStore } from '../../verifier/store.ts'

const seed = new Uint8Array(32).fill(9)
const nowMs = Date.UTC(2026, 10, 21)
const now = () => nowMs / 1000
const named = (name: string) => createSigner(sha256(utf8(`test key: ${name}`)))
const runner = named('runner')
const escrow = `0x${'e5'.repeat(20)}` as Hex
const registry = `0x${'5e'.repeat(20)}` as Hex
const domain = { chainId: 31_337, escrow, registry }
const provider = `0x${'ab'.repeat(20)}` as Hex
const hashOf = (block: bigint) => toHex(sha256(utf8(`block ${block}`)))
const latest = 10_000n
const block = latest - 1n
const hpkeKey = new Uint8Array(32).fill(2)

const folder = mkdtempSync(join(tmpdir(), 'assay-verifier-'))
afterAll(() => rmSync(folder, { recursive: true }))

type Change = {
  faults?: SnpFault[]
  nonce?: Uint8Array
  notAfter?: bigint
  chainId?: bigint
  registry?: Hex
  root?: 'vendor' | 'development'
  signedBy?: typeof runner
  provider?: Hex
  gpus?: (nonce: Uint8Array) => GpuEvidence[]
}

/** Makes a machine's registration as a runner does, with lies where asked. */
async function register(
  evidenceFor: (reportData: Uint8Array) => Evidence | Promise<Evidence>,
  change: Change = {},
): Promise<RegistrationClaim> {
  const nonce = change.nonce ?? fromHex(hashOf(block), 32)
  const measured = (await evidenceFor(new Uint8Array(64))) as Parameters<typeof workloadOf>[0]
  const gpus = (change.gpus?.(gpuNonce(nonce, runner.address, hpkeKey)) ?? []).map(
    (each) => ({ format: 'gpu', ...each }) as const,
  )
  const statement = {
    root: change.root ?? 'development',
    chainId: change.chainId ?? 31_337n,
    registry: change.registry ?? registry,
    signerKey: runner.publicKey,
    hpkeKey,
    nonce,
    gpuEvidence: gpuEvidenceDigest(gpus),
    workload: workloadOf(measured),
    notAfter: change.notAfter ?? BigInt(now() + 3_600),
  } as const
  const bytes = encodeStatement(statement)
  const digest = registrationDigest(
    { chainId: 31_337, escrow },
    { runner: runner.address, provider, statement: toHex(sha256(bytes)) },
  )
  return {
    statement: bytes,
    evidence: await evidenceFor(reportDataOf(statement)),
    gpus,
    provider: change.provider ?? provider,
    signature: await (change.signedBy ?? runner).sign(digest),
  }
}

describe('a verifier', () => {
  let sound: DevelopmentSnp
  let roots: ReturnType<typeof developmentRoots>
  beforeAll(async () => {
    sound = await createDevelopmentSnp({ seed, now })
    roots = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), amd: sound.roots })
  })

  const snp =
    (machine = sound) =>
    (reportData: Uint8Array): Evidence => ({ format: 'snp', report: machine.report(reportData) })

  function open(more: Partial<VerifierDeps> = {}, machine = sound) {
    const forgotten: Evidence[] = []
    const app = createVerifier({
      signer: named('verifier one'),
      domain,
      roots: [roots],
      policy: defaultPolicy,
      chain: {
        standing: async () => ({ policyEpoch: 3, killedBlock: 0n }),
        latestBlock: async () => latest,
        blockHash: async (number) => hashOf(number),
      },
      collateral: {
        collateralFor: async (evidence): Promise<Collateral | null> =>
          evidence.format === 'snp' ? machine.collateral() : null,
        forget: (evidence) => void forgotten.push(evidence),
      },
      gpuCollateral: async () => ({ rims: [], ocsp: null }),
      cache: createEvidenceCache(),
      store: fileStore(folder),
      now: () => nowMs,
      log: () => {},
      ...more,
    })
    const post = async (claim: RegistrationClaim, nonceBlock: bigint = block) => {
      const body = JSON.stringify({ ...registrationToJson(claim), nonceBlock: nonceBlock.toString() })
      const response = await app.request('/v1/verdicts', { method: 'POST', body })
      return { status: response.status, json: (await response.json()) as Record<string, unknown> }
    }
    return { app, post, forgotten }
  }

  test('behavior: a sound machine gets a verdict that the registry would take, and its evidence is published first', async () => {
    const { app, post } = open()
    const claim = await register(snp())
    const { status, json } = await post(claim)
    expect(status).toBe(200)
    const attested = attestedVerdictFromJson(json.attested)
    expect(attested).toEqual({
      evidenceDigest: publishedDigest(claim),
      signer: runner.address,
      provider,
      workload: workloadOf(claim.evidence as Parameters<typeof workloadOf>[0]),
      tee: 2,
      tcbTier: 0,
      validUntil: BigInt(now() + 3_600),
      policyEpoch: 3,
    })
    const signature = fromHex(json.signature as Hex)
    expect(recoverAddress(attestedVerdictDigest(domain, attested), signature)).toBe(named('verifier one').address)
    const published = (await (await app.request(`/v1/verdicts/${attested.evidenceDigest}`)).json()) as PublishedVerdict
    expect((await replayVerdict(published, { roots: [roots], policy: defaultPolicy })).verdict).toBe('verified')
  })

  test('behavior: two verifiers come to the same bytes, so their signatures add up', async () => {
    const claim = await register(snp())
    const answers = [
      (await open().post(claim)).json,
      (await open({ signer: named('verifier two'), now: () => nowMs + 60_000 }).post(claim)).json,
    ]
    expect(answers[0]!.attested).toEqual(answers[1]!.attested)
  })

  test.each<[string, Change, string]>([
    ['a nonce that is no block hash', { nonce: new Uint8Array(32).fill(1) }, 'nonce_not_recent'],
    ['a statement for another chain', { chainId: 1n }, 'statement'],
    ['a statement for another registry', { registry: escrow }, 'statement'],
    ['a statement that claims a vendor root', { root: 'vendor' }, 'statement'],
    ['a statement that has run out', { notAfter: BigInt(now() - 1) }, 'statement'],
    ['a statement that outlasts the evidence', { notAfter: BigInt(now() + 400 * 86_400) }, 'expires_early'],
    ['a provider whom the runner did not name', { provider: registry }, 'not_signed_by_runner'],
    ['a stranger who registers a report seen elsewhere', { signedBy: named('stranger') }, 'not_signed_by_runner'],
  ])('refusal: %s', async (_, change, reason) => {
    const { status, json } = await open().post(await register(snp(), change))
    expect(status).toBe(422)
    expect(json.refusals).toEqual([{ reason, detail: expect.any(String) }])
    expect(json).not.toHaveProperty('signature')
  })

  test('refusal: a statement whose keys the report does not vouch for', async () => {
    const claim = await register(snp())
    const other = await register(snp(), { notAfter: BigInt(now() + 1_800) })
    const { json } = await open().post({ ...claim, statement: other.statement })
    expect(json.refusals).toMatchObject([{ reason: 'report_data' }])
  })

  test.each<SnpFault>(['debug', 'tcb_too_low', 'revoked_authority', 'signed_by_stranger', 'other_chip'])(
    'refusal: a machine with the fault %s',
    async (fault) => {
      const machine = await createDevelopmentSnp({ seed, now, faults: [fault] })
      const { post } = open({}, machine)
      const { status, json } = await post(await register(snp(machine)))
      expect([status, json.code]).toEqual([422, 'evidence_refuted'])
    },
  )

  test('refusal: a development machine before a verifier that trusts vendors only', async () => {
    const { vendorRoots } = await import('../../protocol/evidence/index.ts')
    const { post, forgotten } = open({ roots: [vendorRoots] })
    const { json } = await post(await register(snp()))
    expect(json.refusals).toMatchObject([{ reason: 'untrusted_root' }])
    expect(forgotten).toHaveLength(1)
  })

  test.each<[string, bigint, bigint]>([
    ['a block that is not there yet', latest + 1n, 0n],
    ['a block too long ago', latest - 8_192n, 0n],
    ['a block that the kill switch has spent', block, block],
  ])('refusal: a nonce of %s', async (_, number, killedBlock) => {
    const chain = {
      standing: async () => ({ policyEpoch: 3, killedBlock }),
      latestBlock: async () => latest,
      blockHash: async (asked: bigint) => (asked <= latest ? hashOf(asked) : null),
    }
    const claim = await register(snp(), { nonce: fromHex(hashOf(number), 32) })
    const { json } = await open({ chain }).post(claim, number)
    expect(json.refusals).toMatchObject([{ reason: 'nonce_not_recent' }])
  })

  test('behavior: a GPU that was not measured earns no mark; one whose nonce is foreign refuses the machine', async () => {
    const gpu = await createDevelopmentGpu({ seed, now })
    const withGpu = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), amd: sound.roots, nvidia: gpu.root })
    const { post } = open({ roots: [withGpu] })
    const honest = await post(await register(snp(), { gpus: (nonce) => [gpu.evidence(nonce)] }))
    expect(honest.json.attested).toMatchObject({ tee: 2 })
    const foreign = await post(await register(snp(), { gpus: () => [gpu.evidence(new Uint8Array(32))] }))
    expect(foreign.json.refusals).toMatchObject([{ reason: 'nonce_mismatch' }])
  })

  test('behavior: a Nitro enclave is taken for as long as its document is fresh', async () => {
    const enclave = await createDevelopmentNitro({ seed, now })
    const nitro = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), aws: enclave.root })
    const { post } = open({ roots: [nitro] })
    const evidenceFor = async (data: Uint8Array): Promise<Evidence> => ({
      format: 'nitro',
      document: await enclave.document(data),
    })
    const brief = await post(await register(evidenceFor, { notAfter: BigInt(now() + 240) }))
    expect(brief.json.attested).toMatchObject({ tee: 3, validUntil: String(now() + 240) })
    const long = await post(await register(evidenceFor))
    expect(long.json.refusals).toMatchObject([{ reason: 'expires_early' }])
  })

  test.each<[string, string | object, number]>([
    ['no JSON', 'statement', 400],
    ['no nonce block', {}, 400],
    ['a nonce block that is no number', { nonceBlock: 'newest' }, 400],
    ['no evidence', { nonceBlock: '1', statement: '0x' }, 400],
    ['evidence of no known format', { nonceBlock: '1', statement: '0x', evidence: { format: 'sgx' } }, 400],
    [
      'a report cut off',
      {
        nonceBlock: '1',
        statement: '0x',
        evidence: { format: 'snp', report: 'AAAA' },
        registration: { provider, signature: `0x${'00'.repeat(65)}` },
      },
      422,
    ],
    ['more than a registration can be', 'x'.repeat(1024 * 1024 + 1), 413],
  ])('refusal: %s, told in words', async (_, body, status) => {
    const { collateralFor } = await import('./realCollateral.ts')
    const { app } = open({ collateral: { collateralFor, forget: () => {} } })
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const response = await app.request('/v1/verdicts', { method: 'POST', body: text })
    expect(response.status).toBe(status)
    expect(await response.json()).toMatchObject({ status, detail: expect.stringMatching(/.{10}/) })
  })

  test('attack: what is malformed is refused in words with a next step, and signs nothing', async () => {
    const { app } = open()
    const refused = async (path: string, init?: RequestInit) => {
      const response = await app.request(path, init)
      const { code, hint } = (await response.json()) as Record<string, string>
      expect(hint).toMatch(/docs|\/v1|Leave out/)
      return [response.status, code]
    }
    for (const body of ['', '{', 'null', '[]', '[null]', '"x"', '1e999', '['.repeat(100_000), '{"nonceBlock":"-1"}'])
      expect(await refused('/v1/verdicts', { method: 'POST', body })).toEqual([400, 'invalid_request'])
    for (const gpus of [null, 5, [null], [[]], [{ format: 'gpu' }]]) {
      const body = JSON.stringify({ nonceBlock: '1', statement: '0x', evidence: null, gpus })
      expect(await refused('/v1/verdicts', { method: 'POST', body })).toEqual([400, 'invalid_request'])
    }
    const large = { method: 'POST', body: 'x'.repeat(1_100_000) }
    expect(await refused('/v1/verdicts', large)).toEqual([413, 'payload_too_large'])
    for (const path of ['/v1/verdicts/%', '/v1/verdicts/-1', '/v1/verdicts/%00', `/v1/verdicts/${'x'.repeat(9_000)}`])
      expect(await refused(path)).toEqual([400, 'invalid_request'])
    for (const path of ['/', '//v1/verifier', `/v1/verdicts/0x${'00'.repeat(32)}`])
      expect(await refused(path)).toEqual([404, 'not_found'])
    expect(await refused('/v1/verifier', { method: 'PATCH' })).toEqual([404, 'not_found'])
  })

  test('refusal: a chain or a vendor that does not answer signs nothing and says so', async () => {
    const silent = async () => {
      throw new Error('timeout')
    }
    const claim = await register(snp())
    const chain = { standing: silent, latestBlock: silent, blockHash: silent }
    expect(await open({ chain }).post(claim)).toMatchObject({
      status: 503,
      json: { code: 'unavailable', detail: 'The chain does not answer.', hint: expect.stringContaining('15 seconds') },
    })
    const { CollateralUnavailableError } = await import('../../protocol/evidence/collateral.ts')
    const collateral = {
      collateralFor: async () => {
        throw new CollateralUnavailableError('The collateral service cannot be reached.')
      },
      forget: () => {},
    }
    expect(await open({ collateral }).post(claim)).toMatchObject({ status: 503, json: { code: 'unavailable' } })
  })

  describe('replayed', () => {
    const replayed = async (change: (published: PublishedVerdict) => PublishedVerdict) => {
      const { app, post } = open()
      const claim = await register(snp())
      await post(claim)
      const published = (await (await app.request(`/v1/verdicts/${publishedDigest(claim)}`)).json()) as PublishedVerdict
      return replayVerdict(change(published), { roots: [roots], policy: defaultPolicy })
    }
    const failed = ({ checks }: Awaited<ReturnType<typeof replayed>>) =>
      checks.filter(({ status }) => status === 'failed').map(({ check }) => check)

    test.each<[string, (published: PublishedVerdict) => PublishedVerdict, string[]]>([
      ['another provider', (it) => ({ ...it, attested: { ...it.attested, provider: registry } }), ['verdict']],
      ['a better machine', (it) => ({ ...it, attested: { ...it.attested, tee: 130 } }), ['verdict']],
      ['a longer time', (it) => ({ ...it, attested: { ...it.attested, validUntil: '9999999999' } }), ['verdict']],
      ['another policy', (it) => ({ ...it, policy: 'anything-goes' }), ['policy']],
      [
        'other evidence',
        (it) => ({ ...it, registration: { ...it.registration, statement: '0x00' as Hex } }),
        ['evidence digest', 'registration', 'verdict'],
      ],
      ['collateral left out', (it) => ({ ...it, collateral: null }), ['registration', 'verdict']],
      ['another time', (it) => ({ ...it, judgedAt: 0 }), ['registration', 'verdict']],
    ])('refusal: %s shows', async (_, change, expected) => {
      const replay = await replayed(change)
      expect(failed(replay)).toEqual(expected)
      expect(replay.verdict).toBe('refuted')
    })

    test('refusal: what is no record at all', async () => {
      for (const record of [null, {}, { format: 'assay-verdict-1' }, []]) {
        const replay = await replayVerdict(record as unknown as PublishedVerdict, {
          roots: [roots],
          policy: defaultPolicy,
        })
        expect(replay.verdict).toBe('refuted')
      }
    })
  })

  describe('asked by a runner', () => {
    const members = [named('verifier one'), named('verifier two'), named('verifier three')]
    const set: VerifierSet = {
      threshold: 2,
      isVerifier: async (address) => members.some((member) => member.address === address),
    }
    const ask = async (apps: ReturnType<typeof createVerifier>[], claim: RegistrationClaim) =>
      collectVerdict({
        urls: apps.map((_, index) => `http://verifier${index}`),
        claim,
        nonceBlock: block,
        signer: runner.address,
        domain,
        set,
        fetch: async (url, init) => {
          const { hostname, pathname } = new URL(url)
          return apps[Number(hostname.slice('verifier'.length))]!.request(pathname, init)
        },
      })
    const by = (index: number, more: Partial<VerifierDeps> = {}) => open({ signer: members[index]!, ...more }).app

    test('behavior: as many signatures as the chain asks for, in its order, though one verifier is down', async () => {
      const claim = await register(snp())
      const down = open({
        collateral: {
          collateralFor: async () => {
            throw new Error('down')
          },
          forget: () => {},
        },
      }).app
      const { verdict, signatures } = await ask([down, by(1), by(2)], claim)
      const signers = signatures.map((each) => recoverAddress(attestedVerdictDigest(domain, verdict), fromHex(each))!)
      expect(signers).toHaveLength(2)
      expect(BigInt(signers[0]!) < BigInt(signers[1]!)).toBe(true)
    })

    test('refusal: one verifier asked twice is one verifier', async () => {
      await expect(ask([by(0), by(0)], await register(snp()))).rejects.toThrow('2 verifiers must agree')
    })

    test('refusal: a stranger who signs, and verdicts that differ', async () => {
      const claim = await register(snp())
      const stranger = open({ signer: named('stranger') }).app
      await expect(ask([by(0), stranger], claim)).rejects.toThrow('not a verifier')
      const later = by(1, {
        chain: {
          standing: async () => ({ policyEpoch: 4, killedBlock: 0n }),
          latestBlock: async () => latest,
          blockHash: async (number) => hashOf(number),
        },
      })
      await expect(ask([by(0), later], claim)).rejects.toThrow('agreed with too few')
    })

    test('refusal: every verifier refuses, each in its own words', async () => {
      const claim = await register(snp(), { provider: registry })
      await expect(ask([by(0), by(1)], claim)).rejects.toThrow(/evidence_refuted: .*not signed.*evidence_refuted/)
    })
  })

  test('refusal: settings that are missing are named, and no value is repeated', () => {
    const wrong = { VERIFIER_KEY: '0x1234', VERIFIER_RPC: 'http://127.0.0.1:1' }
    expect(() => readVerifierConfig(wrong)).toThrow(/VERIFIER_KEY: must be 0x and 64 hex digits.*VERIFIER_REGISTRY/s)
    expect(() => readVerifierConfig(wrong)).not.toThrow(/1234/)
  })
})
