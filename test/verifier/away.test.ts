import { mkdtempSync, rmSync } from 'node:fs'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAdaptorServer } from '@hono/node-server'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import type { RunnerChain } from '../../gpu-runner/chain.ts'
import { registerRunner } from '../../gpu-runner/register.ts'
import { createDevelopmentGpu } from '../../gpu-runner/tee/developmentGpu.ts'
import { createDevelopmentSnp, type DevelopmentSnp, developmentKds } from '../../gpu-runner/tee/developmentSnp.ts'
import { type AgreedVerdict, collectVerdict } from '../../gpu-runner/verdicts.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { readVerifierConfig } from '../../verifier/config.ts'
import { type RunningVerifier, serveVerifier } from '../../verifier/serve.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'

/** A door that can be shut: the port is closed until it is opened, at the same address each time. */
async function door(serve: (request: Request) => Response | Promise<Response>) {
  const listen = (port: number) =>
    new Promise<Server>((resolve, reject) => {
      const server = createAdaptorServer({ fetch: serve }) as Server
      server.once('error', reject)
      server.listen(port, '127.0.0.1', () => resolve(server))
    })
  let server: Server | null = await listen(0)
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    async open() {
      server ??= await listen(port)
    },
    async shut() {
      const { promise, resolve } = Promise.withResolvers<void>()
      server?.close(() => resolve())
      server?.closeAllConnections()
      if (server) await promise
      server = null
    },
  }
}

/** Verifiers over a real chain and a real collateral service, each behind a port that is really closed when it is away. */
describe('a verifier whose sources are away', () => {
  let it: Awaited<ReturnType<typeof openContracts>>
  let snp: DevelopmentSnp
  let gpu: Awaited<ReturnType<typeof createDevelopmentGpu>>
  let doors: Record<'chain' | 'collateral', Awaited<ReturnType<typeof door>>>
  const seed = new Uint8Array(32).fill(9)
  const now = () => Math.floor(Date.now() / 1000)
  const folder = mkdtempSync(join(tmpdir(), 'assay-away-'))
  const verifiers: RunningVerifier[] = []
  const logged: [string, object | undefined][] = []
  const runner = signerOf('runner')
  const provider = privateKeyToAccount(developmentKey('provider')).address.toLowerCase() as Hex

  const serve = async (name: string) => {
    const config = readVerifierConfig({
      VERIFIER_KEY: developmentKey(name),
      VERIFIER_RPC: doors.chain.url,
      VERIFIER_CHAIN_ID: '31337',
      VERIFIER_ESCROW: it.contracts.escrow,
      VERIFIER_REGISTRY: it.contracts.registry,
      VERIFIER_STATE: join(folder, name),
      VERIFIER_PORT: '0',
      VERIFIER_AMD_COLLATERAL_URL: doors.collateral.url,
      // Nobody listens there, at any time.
      VERIFIER_OCSP_URL: 'http://127.0.0.1:1',
    })
    const roots = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), amd: snp.roots, nvidia: gpu.root })
    const verifier = await serveVerifier(config, [roots], (event, fields) => logged.push([event, fields]))
    verifiers.push(verifier)
    return verifier
  }

  beforeAll(async () => {
    it = await openContracts()
    snp = await createDevelopmentSnp({ seed, now })
    gpu = await createDevelopmentGpu({ seed, now })
    doors = {
      chain: await door(async (request) => {
        const { rpcUrl } = it.chain
        const headers = { 'content-type': 'application/json' }
        const answer = await fetch(rpcUrl, { method: 'POST', headers, body: await request.text() })
        return new Response(await answer.text(), { headers })
      }),
      collateral: await door(developmentKds(snp)),
    }
  }, 120_000)
  afterAll(async () => {
    for (const verifier of verifiers) await verifier.stop()
    for (const each of Object.values(doors ?? {})) await each.shut()
    rmSync(folder, { recursive: true, force: true })
    await it?.chain.stop()
  })

  /** Registers as a machine does, up to the word of the verifiers. `meanwhile` is what happens while the registrar waits. */
  const register = async (
    urls: readonly string[],
    meanwhile: (ms: number) => Promise<void>,
    { gpus = false, threshold = 1 } = {},
  ) => {
    const agreed: AgreedVerdict[] = []
    const posts: { status: number; retryAfter: string | null; problem: Record<string, unknown> }[] = []
    const chain = {
      provider,
      async recentBlock() {
        const newest = await it.publicClient.getBlock()
        const { number, hash } = await it.publicClient.getBlock({ blockNumber: newest.number - 1n })
        return { number, hash }
      },
      registerVerdict: async (verdict: AgreedVerdict) => {
        agreed.push(verdict)
        return '0x' as Hex
      },
    } as unknown as RunnerChain
    const roots = developmentRoots({ chainId: 31_337, intel: new Uint8Array(), amd: snp.roots, nvidia: gpu.root })
    await registerRunner({
      tee: { root: 'development', evidence: async (data) => ({ format: 'snp', report: snp.report(data) }) },
      chain,
      chainId: 31_337,
      registry: it.contracts.registry.toLowerCase() as Hex,
      domain: it.domain,
      signer: runner,
      hpkeKey: new Uint8Array(32).fill(2),
      ...(gpus ? { gpus: async (nonce: Uint8Array) => [gpu.evidence(nonce)] } : {}),
      collateralFor: async () => snp.collateral(),
      roots: [roots],
      agreedVerdict: (claim, nonceBlock) =>
        collectVerdict({
          urls,
          claim,
          nonceBlock,
          signer: runner.address,
          domain: { chainId: 31_337, registry: it.contracts.registry.toLowerCase() as Hex },
          set: { threshold, isVerifier: async (address) => verifiers.some((each) => each.address === address) },
          fetch: async (url, init) => {
            const response = await fetch(url, init)
            const problem = (await response.clone().json()) as Record<string, unknown>
            posts.push({ status: response.status, retryAfter: response.headers.get('retry-after'), problem })
            return response
          },
          sleep: meanwhile,
        }),
      postToEdge: async () => {},
      now: Date.now,
    })
    return { agreed, posts }
  }

  const away = (detail: string) => ({
    status: 503,
    retryAfter: '15',
    problem: {
      status: 503,
      code: 'unavailable',
      detail,
      hint: expect.stringMatching(/Nothing was signed.+15 seconds/),
    },
  })

  test('behavior: a chain that is away and comes back: the registrar waits as it is told, asks again, and is registered', async () => {
    const { url } = await serve('verifier one')
    await doors.chain.shut()
    const waits: number[] = []
    const { agreed, posts } = await register([url], async (ms) => {
      waits.push(ms)
      if (waits.length === 2) await doors.chain.open()
    })
    expect(posts).toMatchObject([
      away('The chain does not answer.'),
      away('The chain does not answer.'),
      expect.objectContaining({ status: 200, retryAfter: null }),
    ])
    expect(waits).toEqual([15_000, 15_000])
    expect(agreed).toMatchObject([{ verdict: { signer: runner.address, provider } }])
    expect(agreed[0]!.signatures).toHaveLength(1)
    expect(logged).toContainEqual(['unavailable', { source: 'chain' }])
    expect(logged).not.toContainEqual(['defect', expect.anything()])
  }, 60_000)

  test('behavior: a collateral service that is away and comes back', async () => {
    // A verifier of its own: the first has kept what it fetched.
    const { url } = await serve('verifier two')
    await doors.collateral.shut()
    const { agreed, posts } = await register([url], () => doors.collateral.open())
    expect(posts).toMatchObject([
      away('The collateral service cannot be reached.'),
      expect.objectContaining({ status: 200 }),
    ])
    expect(agreed).toHaveLength(1)
  }, 60_000)

  test('refusal: an OCSP responder that is away: no verdict that knows nothing of the GPUs, and an end to asking', async () => {
    const { url } = await serve('verifier three')
    let waits = 0
    const failed = register([url], async () => void waits++, { gpus: true })
    await expect(failed).rejects.toThrow('503: The OCSP responder does not answer.')
    expect(waits).toBe(4)
    const { posts } = await register([url], async () => {})
    expect(posts).toMatchObject([{ status: 200 }])
  }, 60_000)

  test('behavior: those who agree are not kept waiting by one that cannot be reached; alone, it is asked again', async () => {
    const closed = await door(() => new Response())
    await closed.shut()
    let waits = 0
    const sound = verifiers.map(({ url }) => url)
    const { agreed } = await register([closed.url, ...sound], async () => void waits++, { threshold: 2 })
    expect([agreed.length, waits]).toEqual([1, 0])
    await expect(register([closed.url], async () => void waits++)).rejects.toThrow('cannot be reached')
    expect(waits).toBe(4)
  }, 60_000)
})
