import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { type DoctorDeps, examine, reachable, showFindings } from '../../gpu-runner/doctor.ts'

const key = developmentKey('provider')
const now = 1_800_000_000_000
const address = `0x${'ab'.repeat(20)}`

describe('examine', () => {
  const folder = mkdtempSync(join(tmpdir(), 'assay-doctor-test-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  type World = { chainId: number; edgeChainId: number; timestamp: number; balance: string; edgeStatus: number }
  function deps(change: Partial<DoctorDeps> = {}, world: Partial<World> = {}): DoctorDeps {
    const of: World = { chainId: 7, edgeChainId: 7, timestamp: now / 1000, balance: '0x1', edgeStatus: 200, ...world }
    return {
      environment: {
        ASSAY_EDGE: 'http://edge.test',
        ASSAY_RPC: 'http://node.test',
        ASSAY_PROVIDER_KEY: key,
        ASSAY_STATE: folder,
        ASSAY_TEE: 'snp',
      },
      async fetch(url, init) {
        if (url.startsWith('http://edge.test'))
          return Response.json({ chainId: of.edgeChainId }, { status: of.edgeStatus })
        const { method } = JSON.parse(String(init?.body)) as { method: string }
        const results: Record<string, unknown> = {
          eth_chainId: `0x${of.chainId.toString(16)}`,
          eth_getBlockByNumber: { timestamp: `0x${of.timestamp.toString(16)}` },
          eth_getBalance: of.balance,
        }
        return Response.json({ jsonrpc: '2.0', id: 1, result: results[method] })
      },
      now: () => now,
      nodeVersion: 'v24.1.0',
      providers: async () => ['cpu'],
      tryDevice: async () => null,
      nativeSigner: true,
      addressOf: () => address,
      exists: async (path) => path === '/sys/kernel/config/tsm/report' || reachable(path),
      ...change,
    }
  }
  const devices = (numbers: string, tryDevice: DoctorDeps['tryDevice'] = async () => null) =>
    deps({
      environment: { ...deps().environment, ASSAY_PROVIDER: 'cuda', ASSAY_DEVICES: numbers },
      providers: async () => ['cpu', 'cuda'],
      tryDevice,
    })

  test('behavior: each device named is tried, and what does not run is told by its number', async () => {
    const tried: [string, number][] = []
    const broken = devices('0, 4', async (provider, device) => {
      tried.push([provider, device])
      return device === 4 ? 'invalid device ordinal' : null
    })
    const findings = await examine(broken)
    expect(tried).toEqual([
      ['cuda', 0],
      ['cuda', 4],
    ])
    expect(findings.find(({ check }) => check === 'devices')).toMatchObject({
      health: 'bad',
      detail: 'cuda does not run on 4: invalid device ordinal',
    })
    expect(await healthOf(devices('0,1'), 'devices')).toBe('good')
    expect(await healthOf(deps(), 'devices')).toBeUndefined()
  })

  test('refusal: devices that are no numbers are told with the settings, and nothing is tried', async () => {
    const wrong = devices('zero', async () => {
      throw new Error('tried')
    })
    expect([await healthOf(wrong, 'settings'), await healthOf(wrong, 'devices')]).toEqual(['bad', 'unknown'])
  })

  const healthOf = async (each: DoctorDeps, check: string) =>
    (await examine(each)).find((finding) => finding.check === check)?.health

  test('behavior: a machine that has everything is well, and nothing is left in its state folder', async () => {
    const findings = await examine(deps())
    expect(
      findings.filter(({ check, health }) => health !== 'good' && check !== 'disk' && check !== 'machine'),
    ).toEqual([])
    expect(findings.map(({ check }) => check)).toEqual([
      'node',
      'machine',
      'settings',
      'onnxruntime',
      'signing',
      'tee',
      'disk',
      'edge',
      'chain',
      'clock',
      'gas',
    ])
    expect(readdirSync(folder)).toEqual([])
  })

  const without = (name: string) => ({ environment: { ...deps().environment, [name]: undefined } })
  test.each<[string, Partial<DoctorDeps>, Partial<World>, string, string]>([
    ['an old Node', { nodeVersion: 'v20.1.0' }, {}, 'node', 'bad'],
    ['settings that lack one', without('ASSAY_PROVIDER_KEY'), {}, 'settings', 'bad'],
    [
      'a runtime that does not start',
      { providers: async () => Promise.reject(new Error('no')) },
      {},
      'onnxruntime',
      'bad',
    ],
    [
      'a runtime without what is wanted',
      { environment: { ...deps().environment, ASSAY_PROVIDER: 'cuda' } },
      {},
      'onnxruntime',
      'bad',
    ],
    ['no native signer', { nativeSigner: false }, {}, 'signing', 'poor'],
    ['no TEE', { exists: async (path) => path === folder }, {}, 'tee', 'bad'],
    ['the development TEE', { environment: { ...deps().environment, ASSAY_TEE: 'development' } }, {}, 'tee', 'poor'],
    ['no state folder', without('ASSAY_STATE'), {}, 'disk', 'unknown'],
    ['an edge that is none', {}, { edgeStatus: 404 }, 'edge', 'bad'],
    ['a node of another chain', {}, { edgeChainId: 8 }, 'chain', 'bad'],
    ['a node that is away', { fetch: async () => Promise.reject(new Error('away')) }, {}, 'chain', 'bad'],
    ['a clock two minutes ahead', {}, { timestamp: now / 1000 - 120 }, 'clock', 'poor'],
    ['a key without gas', {}, { balance: '0x0' }, 'gas', 'bad'],
    ['no key', without('ASSAY_PROVIDER_KEY'), {}, 'gas', 'unknown'],
  ])('refusal: %s', async (_, change, world, check, health) => {
    expect(await healthOf(deps(change, world), check)).toBe(health)
  })

  test('attack: the key is named nowhere, whatever fails', async () => {
    for (const each of [deps(), deps({ fetch: async () => Promise.reject(new Error('away')) })]) {
      const findings = await examine(each)
      for (const text of [JSON.stringify(findings), showFindings(findings)]) {
        expect(text).not.toContain(key)
        expect(text).not.toContain(key.slice(2, 20))
      }
    }
  })
})
