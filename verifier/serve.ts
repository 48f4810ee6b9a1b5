import { readFile } from 'node:fs/promises'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { fromHex, fromUtf8 } from '../protocol/bytes.ts'
import type { GpuCollateral, GpuEvidence } from '../protocol/evidence/gpu.ts'
import { createEvidenceCache, defaultPolicy, type EvidenceCache, type Roots } from '../protocol/evidence/index.ts'
import { parseStrictList } from '../protocol/evidence/json.ts'
import { askAboutGpus } from '../protocol/evidence/ocsp.ts'
import { rimTableFromJson, type SignedRimTable } from '../protocol/evidence/rim.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import { createVerifier, type VerifierDeps } from './app.ts'
import { connectVerifierChain } from './chain.ts'
import { createCollateralSource } from './collateral.ts'
import type { VerifierConfig } from './config.ts'
import { fileStore } from './store.ts'

/** Holds a listening verifier. */
export type RunningVerifier = { url: string; address: string; stop(): Promise<void> }

async function readTables(path: string | undefined): Promise<SignedRimTable[]> {
  if (!path) return []
  return parseStrictList(fromUtf8(new Uint8Array(await readFile(path)))).map(rimTableFromJson)
}

/** Gets what a machine's GPUs are judged by: tables from a file, and NVIDIA's answers about their certificates. */
async function gpuCollateral(
  { VERIFIER_RIM_TABLES, VERIFIER_OCSP_URL }: VerifierConfig,
  gpus: readonly GpuEvidence[],
  cache: EvidenceCache,
): Promise<GpuCollateral> {
  const source = {
    fetch: (url: string, init: RequestInit) => fetch(url, { ...init, signal: AbortSignal.timeout(15_000) }),
    url: VERIFIER_OCSP_URL,
    nonce: () => crypto.getRandomValues(new Uint8Array(32)),
  }
  const ocsp = await askAboutGpus(gpus, source, Math.floor(Date.now() / 1000), cache)
  return { rims: await readTables(VERIFIER_RIM_TABLES), ocsp }
}

/** Starts a verifier that trusts these roots. Entries differ in nothing else. */
export async function serveVerifier(
  config: VerifierConfig,
  trusted: readonly Roots[],
  log: VerifierDeps['log'],
): Promise<RunningVerifier> {
  const signer = createSigner(fromHex(config.VERIFIER_KEY, 32))
  const cache = createEvidenceCache()
  const collateral = createCollateralSource(
    {
      fetch: (url) => fetch(url, { signal: AbortSignal.timeout(15_000) }),
      intelUrl: config.VERIFIER_COLLATERAL_URL,
      amdUrl: config.VERIFIER_AMD_COLLATERAL_URL,
    },
    Date.now,
  )
  const app = createVerifier({
    signer,
    domain: {
      chainId: config.VERIFIER_CHAIN_ID,
      escrow: config.VERIFIER_ESCROW,
      registry: config.VERIFIER_REGISTRY,
    },
    roots: trusted.map((roots) =>
      config.VERIFIER_RIM_SIGNERS ? { ...roots, rimSigners: config.VERIFIER_RIM_SIGNERS } : roots,
    ),
    policy: defaultPolicy,
    chain: connectVerifierChain(config.VERIFIER_RPC, config.VERIFIER_REGISTRY),
    collateral,
    gpuCollateral: (gpus) => gpuCollateral(config, gpus, cache),
    cache,
    store: fileStore(config.VERIFIER_STATE),
    now: Date.now,
    log,
  })
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(config.VERIFIER_PORT, config.VERIFIER_HOST, resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `http://${config.VERIFIER_HOST}:${port}`,
    address: signer.address,
    stop: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
