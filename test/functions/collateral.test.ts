import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Context } from '../../functions/context.ts'
import type { Settings } from '../../functions/env.ts'
import { type Reevaluation, reevaluateRunners } from '../../functions/services/collateral.ts'
import { getRunner, registerRunner } from '../../functions/services/runners.ts'
import type { Database } from '../../functions/store/database.ts'
import { collaterals, runners } from '../../functions/store/schema.ts'
import { createDevelopmentTee, developmentPccs, type TeeFault } from '../../gpu-runner/tee/development.ts'
import { type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { defaultPolicy, evidenceToJson, verifyEvidence } from '../../protocol/evidence/index.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { encodeStatement, reportDataOf } from '../../protocol/evidence/statement.ts'
import { sha256 } from '../../protocol/hash.ts'
import { registrationDigest } from '../../protocol/registration.ts'
import { createSigner } from '../../protocol/secp256k1.ts'
import { openTestDatabase } from '../fixtures/database.ts'

const start = Date.UTC(2026, 10, 21) / 1000
const hour = 3_600
const contract = `0x${'5e'.repeat(20)}` as Hex
const domain = { chainId: 31_337, escrow: contract }
const seed = new Uint8Array(32).fill(7)
const provider = createSigner(sha256(utf8('test key: provider'))).address

let now = start
let faults: TeeFault[] = []
let reachable = true
let fetches = 0
let logs: string[] = []
let database: Database
const disposers: (() => Promise<unknown>)[] = []

const teeNow = (at = () => now) => createDevelopmentTee({ seed, now: at, faults })

const context = (): Context => ({
  settings: { COLLATERAL_URL: 'http://pccs.test', CHAIN_ID: 31_337, REGISTRY: contract } as Settings,
  database,
  directory: undefined as never,
  artifacts: undefined as never,
  account: null,
  mailbox: undefined as never,
  carry: undefined as never,
  registry: {
    providerOf: async () => ({ provider, active: true }),
    alive: async () => true,
    accountOf: async () => ({ balance: 0n, requested: 0n, withdrawableAt: 0n }),
    payeeOf: async () => ({ earnings: 0n, slashes: 0n, pots: [] }),
  },
  domain,
  roots: [developmentRoots({ chainId: 31_337, intel: teeNow().rootDer })],
  policy: defaultPolicy,
  fetch: async (url) => {
    fetches++
    if (!reachable) throw new TypeError('connection refused')
    return developmentPccs(teeNow())(new Request(url))
  },
  now: () => now * 1000,
  random: Math.random,
  log: (event) => logs.push(event),
})

async function register(name: string) {
  const signer = createSigner(sha256(utf8(`test key: ${name}`)))
  const sound = createDevelopmentTee({ seed, now: () => now })
  const roots = developmentRoots({ chainId: 31_337, intel: sound.rootDer })
  const draft = { format: 'tdx', quote: sound.quote(new Uint8Array(64)) } as const
  const { measurement } = await verifyEvidence(draft, sound.collateral(), { now, roots, policy: defaultPolicy })
  const statement = {
    root: 'development' as const,
    chainId: 31_337n,
    registry: contract,
    signerKey: signer.publicKey,
    hpkeKey: new Uint8Array(32).fill(2),
    nonce: new Uint8Array(32),
    gpuEvidence: new Uint8Array(32),
    workload: measurement!.workload,
    notAfter: BigInt(now + 24 * hour),
  }
  const bytes = encodeStatement(statement)
  const digest = registrationDigest(domain, { runner: signer.address, provider, statement: toHex(sha256(bytes)) })
  await registerRunner(context(), {
    statement: toHex(bytes),
    evidence: evidenceToJson({ format: 'tdx', quote: sound.quote(reportDataOf(statement)) }),
    registration: { provider, signature: toHex(await signer.sign(digest)) },
  })
  return signer.address
}

const reevaluate = async () => {
  const told: Reevaluation[] = []
  const changed = await reevaluateRunners(context(), async (fallen) => void told.push(fallen), 2)
  return { changed, told }
}

beforeAll(async () => {
  const opened = await openTestDatabase()
  disposers.push(opened.dispose)
  database = opened.database
}, 60_000)

afterAll(async () => {
  for (const dispose of disposers.reverse()) await dispose()
})

beforeEach(async () => {
  now = start
  faults = []
  reachable = true
  fetches = 0
  logs = []
  await database.delete(runners)
  await database.delete(collaterals)
})

describe('collateral at the edge', () => {
  test('behavior: fetched once for a platform, not once a registration; fetched again after six hours', async () => {
    await register('a')
    const first = fetches
    await register('b')
    expect(fetches).toBe(first)
    now += 7 * hour
    await register('c')
    expect(fetches).toBe(2 * first)
  })

  test('behavior: while the vendor does not answer, what was kept serves until it runs out', async () => {
    await register('a')
    reachable = false
    now += 3 * 24 * hour
    await register('b')
    expect(logs).toContain('collateral_not_refreshed')
    now += 20 * 24 * hour
    await expect(register('c')).rejects.toThrow(/collateral service/)
  })

  test.each(['foreign_crl', 'stale_crl', 'stale_tcb', 'tcb_changed', 'qe_changed', 'tcb_duplicate_key'] as const)(
    'refusal: an answer that does not verify (%s) is never kept',
    async (fault) => {
      await register('a')
      const [before] = await database.select().from(collaterals)
      faults = [fault]
      now += 7 * hour
      await register('b')
      expect(logs).toContain('collateral_not_refreshed')
      expect((await database.select().from(collaterals))[0]).toEqual(before)
    },
  )

  test('refusal: older collateral that still verifies does not roll the newer one back', async () => {
    now += 2 * 24 * hour
    await register('a')
    const [before] = await database.select().from(collaterals)
    now += 7 * hour
    const late = context()
    const old = developmentPccs(createDevelopmentTee({ seed, now: () => start }))
    late.fetch = async (url) => old(new Request(url))
    await reevaluateRunners(late, async () => {})
    expect(logs).toContain('collateral_rolled_back')
    expect((await database.select().from(collaterals))[0]?.digest).toBe(before?.digest)
  })
})

describe('registrations judged again', () => {
  test('behavior: nothing changed, nothing is judged', async () => {
    await register('a')
    expect((await reevaluate()).changed).toEqual([])
  })

  test('behavior: new collateral that finds them sound keeps every runner, and their verdicts stand on it', async () => {
    const signers = [await register('a'), await register('b'), await register('c')]
    now += 24 * hour - 60
    const { changed, told } = await reevaluate()
    expect(changed.map(({ signer }) => signer).sort()).toEqual(signers.sort())
    expect(told).toEqual([])
    expect((await reevaluate()).changed).toEqual([])
  })

  test.each([
    ['tcb_out_of_date', 'tcb_status', /OutOfDate/],
    ['revoked_leaf', 'certificate_revoked', /revoked/],
    ['tcb_revoked', 'tcb_status', /Revoked/],
  ] as const)(
    'refusal: a runner whose platform falls (%s) loses its place and is told why',
    async (fault, reason, why) => {
      const signer = await register('a')
      await register('b')
      faults = [fault]
      now += 7 * hour
      const { told } = await reevaluate()
      expect(told).toHaveLength(2)
      expect(told[0]?.verdict.refusals[0]).toMatchObject({ reason, detail: expect.stringMatching(why) })
      const shown = await getRunner(context(), signer)
      expect(Date.parse(shown.validUntil) / 1000).toBeLessThanOrEqual(now)
      expect(shown.verdict).toMatchObject({ verdict: 'refuted', refusals: [{ reason }] })
      // A second round has nothing left to say.
      expect((await reevaluate()).told).toEqual([])
    },
  )

  test('behavior: a vendor that does not answer changes nothing', async () => {
    const signer = await register('a')
    reachable = false
    now += 23 * hour
    expect((await reevaluate()).changed).toEqual([])
    expect(Date.parse((await getRunner(context(), signer)).validUntil) / 1000).toBeGreaterThan(now)
  })
})
