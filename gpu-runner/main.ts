import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RegistrationClaim } from '../protocol/attestRegistration.ts'
import { equalBytes, fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import { fetchCollateral } from '../protocol/evidence/collateral.ts'
import { type Roots, vendorRoots } from '../protocol/evidence/index.ts'
import { developmentRoots } from '../protocol/evidence/roots.development.ts'
import type { JobAnswer, JobRefusal, JobRequest } from '../protocol/frames.ts'
import { sha256 } from '../protocol/hash.ts'
import { generateHpkeKeyPair } from '../protocol/hpke.ts'
import { connectDigest, successionDigest } from '../protocol/registration.ts'
import { connectChain } from './chain.ts'
import { readConfig, settlementPolicyOf } from './config.ts'
import { createControl, readinessOf } from './control.ts'
import { runDoctor } from './doctorMain.ts'
import { Earnings } from './earnings.ts'
import type { Trial } from './engine/admission.ts'
import { createExecutor, ModelError } from './engine/executor.ts'
import { checkListing, fetchModel, type ModelJson, ModelRefusedError } from './engine/models.ts'
import { openProbe, type Probe } from './engine/probe.ts'
import { findSandbox } from './engine/sandbox.ts'
import { tryProvider } from './engine/tryProvider.ts'
import { openJournal } from './journal.ts'
import { type Link, openLink } from './link.ts'
import { createLog } from './log.ts'
import { createMeter } from './meter.ts'
import { createMetrics } from './metrics.ts'
import { answerOf } from './recorder.ts'
import { registerRunner } from './register.ts'
import { emptyRunnerFile, readRunnerFile, ruleFor } from './runnerFile.ts'
import { selfTest } from './selfTest.ts'
import { envelopeOpener, JobService } from './service.ts'
import { Settler } from './settler.ts'
import { createRecoverer, createRunnerSigner } from './signer.ts'
import { configfsTsm } from './tee/configfsTsm.ts'
import { createDevelopmentTee } from './tee/development.ts'
import { createDevelopmentSnp } from './tee/developmentSnp.ts'
import { dstack } from './tee/dstack.ts'
import { collectGpuEvidence } from './tee/nvattest.ts'
import type { Tee } from './tee/tee.ts'
import { postTotals } from './totals.ts'
import { fileOutbox } from './transactions.ts'
import { type AgreedVerdict, collectVerdict } from './verdicts.ts'

if (process.argv[2] === 'doctor') process.exit(await runDoctor(process.argv.includes('--json')))

const file = process.env.ASSAY_CONFIG ? readRunnerFile(readFileSync(process.env.ASSAY_CONFIG, 'utf8')) : emptyRunnerFile
const config = readConfig({ ...file.settings, ...process.env })
const log = createLog((line) => process.stdout.write(line))
const now = Date.now

// A library's error may carry the whole call it failed at; its first line says why without that.
process.on('uncaughtException', (error: Error & { shortMessage?: string }) => {
  log('setup_failed', { message: error.shortMessage ?? error.message.split('\n')[0] ?? 'unknown' })
  process.exit(1)
})
mkdirSync(config.ASSAY_STATE, { recursive: true, mode: 0o700 })

async function edge(path: string, init?: RequestInit): Promise<Response> {
  const response = await fetch(`${config.ASSAY_EDGE}${path}`, { signal: AbortSignal.timeout(60_000), ...init })
  if (response.ok) return response
  const problem = (await response.json().catch(() => ({}))) as { code?: string; detail?: string; hint?: string }
  throw new Error(
    `The edge answered ${response.status} ${problem.code ?? ''} to ${path}: ${problem.detail ?? 'no reason given'} ${problem.hint ?? ''}`.trim(),
  )
}

type Network = { chainId: number; escrow: Hex; registry: Hex; feeBps: number }
const network = (await (await edge('/v1/network')).json()) as Network
const domain = { chainId: network.chainId, escrow: network.escrow }
const chain = connectChain({
  rpcUrl: config.ASSAY_RPC,
  chainId: network.chainId,
  escrow: network.escrow,
  registry: network.registry,
  providerKey: config.ASSAY_PROVIDER_KEY,
  outbox: fileOutbox(join(config.ASSAY_STATE, 'transaction.json')),
})

// The keys exist in this process's memory and nowhere else; a restart is another runner.
const signer = createRunnerSigner(new Uint8Array(randomBytes(32)))
const hpke = await generateHpkeKeyPair()
const journal = openJournal(join(config.ASSAY_STATE, 'journal.sqlite'), {
  ...(config.ASSAY_JOURNAL_BYTES ? { maxBytes: config.ASSAY_JOURNAL_BYTES } : {}),
})
const metrics = createMetrics()
const earnings = new Earnings(journal, now)
const predecessors = journal.runners()
const environment: Record<string, string> = config.ASSAY_LIBRARY_PATH
  ? { LD_LIBRARY_PATH: config.ASSAY_LIBRARY_PATH }
  : {}
const sandbox = await findSandbox()
log('executors', { sandbox: sandbox.join(' ') || 'none' })
const engine = { threads: config.ASSAY_THREADS, provider: config.ASSAY_PROVIDER, environment, sandbox }
const devices = config.ASSAY_DEVICES ?? []
const missing = engine.provider === 'cpu' ? null : await tryProvider(engine.provider, environment)
if (missing) throw new Error(`ASSAY_PROVIDER=${engine.provider} does not work on this machine: ${missing}`)
for (const device of devices) {
  const absent = await tryProvider(engine.provider, environment, device)
  if (absent) throw new Error(`ASSAY_DEVICES: ${engine.provider} does not work on device ${device}: ${absent}`)
}
const executors =
  devices.length || config.ASSAY_EXECUTORS || Math.max(1, Math.floor(availableParallelism() / config.ASSAY_THREADS))
const executor = createExecutor({ ...engine, executors, devices, memoryBudget: config.ASSAY_MODEL_MEMORY })
const ortVersion = (
  JSON.parse(readFileSync(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'), 'utf8')) as {
    version: string
  }
).version

/** What the development TEE stands on; nothing where the machine is real. */
const developmentSets: Roots[] = []

async function developmentTee(seed: Uint8Array): Promise<Tee> {
  const seconds = () => Math.floor(now() / 1000)
  if (config.ASSAY_DEVELOPMENT_TEE === 'snp') {
    const snp = await createDevelopmentSnp({ seed, now: seconds })
    developmentSets.push(developmentRoots({ chainId: network.chainId, intel: new Uint8Array(), amd: snp.roots }))
    return {
      root: 'development',
      evidence: async (reportData) => ({ format: 'snp', report: snp.report(reportData) }),
      collateral: () => snp.collateral(),
    }
  }
  const tee = createDevelopmentTee({ seed, now: seconds })
  developmentSets.push(developmentRoots({ chainId: network.chainId, intel: tee.rootDer }))
  return {
    root: 'development',
    evidence: async (reportData) => ({ format: 'tdx', quote: tee.quote(reportData) }),
    collateral: async () => tee.collateral(),
  }
}

async function chooseTee(): Promise<Tee> {
  if (config.ASSAY_TEE === 'dstack') return dstack()
  if (config.ASSAY_TEE !== 'development') return configfsTsm()
  return developmentTee(fromHex(config.ASSAY_DEVELOPMENT_SEED!, 32))
}

const service = new JobService({
  domain,
  feeBps: network.feeBps,
  signer,
  openEnvelope: envelopeOpener(hpke),
  journal,
  chain,
  log,
  meter: createMeter(metrics),
  now,
  parallel: executors,
  capacity: config.ASSAY_CAPACITY,
})
let workload: Hex = toHex(new Uint8Array(32))
let validUntil = 0
let attestedAt = 0
const tee = await chooseTee()

async function agreedVerdict(claim: RegistrationClaim, nonceBlock: bigint): Promise<AgreedVerdict> {
  return collectVerdict({
    urls: config.ASSAY_VERIFIERS,
    claim,
    nonceBlock,
    signer: signer.address,
    domain: network,
    set: await chain.verifierSet(),
    fetch: (url, init) => fetch(url, { ...init, signal: AbortSignal.timeout(30_000) }),
  })
}

async function attest(): Promise<void> {
  const registered = await registerRunner({
    tee,
    chain,
    chainId: network.chainId,
    registry: network.registry,
    domain,
    signer,
    hpkeKey: hpke.rawPublicKey,
    now,
    ...(config.ASSAY_NVATTEST ? { gpus: (nonce) => collectGpuEvidence(nonce, { path: config.ASSAY_NVATTEST! }) } : {}),
    collateralFor: (evidence) =>
      tee.collateral?.() ??
      fetchCollateral(evidence, {
        fetch: (url) => fetch(url, { signal: AbortSignal.timeout(30_000) }),
        intelUrl: config.ASSAY_COLLATERAL_URL,
        amdUrl: config.ASSAY_AMD_COLLATERAL_URL,
      }),
    roots: [vendorRoots, ...developmentSets],
    ...(config.ASSAY_VERIFIERS.length > 0 ? { agreedVerdict } : {}),
    postToEdge: async (registration) => {
      const answer = await edge('/v1/runners', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(registration),
      })
      const { notices = [] } = (await answer.json()) as { notices?: string[] }
      for (const message of notices) log('attested_in_part', { message })
    },
  })
  ;({ workload, validUntil } = registered)
  attestedAt = now()
  log('attested', { signer: signer.address, validUntil })
}
// Before anything is paid or offered.
await selfTest({
  signer,
  recoverAddress: createRecoverer(),
  hpkeKey: hpke.rawPublicKey,
  openEnvelope: envelopeOpener(hpke),
  journal,
})
await attest()

/** Models not to be tried before a time: never again for what is wrong with the model itself, a minute for a download that failed. */
const refusedModels = new Map<string, number>()
const modelRetryMs = 60_000

/** How long a file of a model may take to come: gigabytes at a modest 10 MB a second. */
const downloadLimitMs = 3_600_000

// One look at the listings at a time: two would try the same models twice.
let admitting: Promise<void> = Promise.resolve()
const admitModels = (): Promise<void> => {
  admitting = admitting.catch(() => {}).then(admitOnce)
  return admitting
}

/** Admits listed models that this runner should serve and does not yet: all of them are served before the first is tried, because trying takes longer. */
async function admitOnce(): Promise<void> {
  const wanted = config.ASSAY_MODELS
  const probe = openProbe({ ...engine, maxBatch: config.ASSAY_MAX_BATCH })
  const trials: (() => Promise<void>)[] = []
  try {
    let cursor: string | null = ''
    while (cursor !== null) {
      const page = (await (
        await edge(`/v1/models?limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`)
      ).json()) as { models: ModelJson[]; nextCursor: string | null }
      cursor = page.nextCursor
      for (const json of page.models) {
        if (service.models.includes(json.digest) || now() < (refusedModels.get(json.digest) ?? 0)) continue
        if (wanted !== 'any' && !wanted.includes(json.digest)) continue
        const trial = await guarded(json, () => admitModel(json, probe))
        if (trial) trials.push(() => guarded(json, trial))
      }
    }
    for (const trial of trials) await trial()
  } finally {
    await probe.close()
  }
}

/** Does a step of a model's admission, and notes why it failed: for good where the model is at fault, for a minute otherwise. */
async function guarded<T>(json: ModelJson, step: () => Promise<T>): Promise<T | undefined> {
  try {
    return await step()
  } catch (error) {
    const lasting = error instanceof ModelRefusedError || error instanceof ModelError
    refusedModels.set(json.digest, lasting ? Number.POSITIVE_INFINITY : now() + modelRetryMs)
    log(lasting ? 'model_refused' : 'model_delayed', {
      model: json.digest,
      reason: error instanceof Error ? error.message : 'unknown',
    })
    return undefined
  }
}

/** Fetches, checks and loads a model and serves it: one job a run and nothing promised, until the trial that is given back has looked. Throws ModelRefusedError, ModelError, and what the network throws. */
async function admitModel(json: ModelJson, probe: Probe): Promise<() => Promise<void>> {
  await checkListing(json, {
    domain,
    now: Math.floor(now() / 1000),
    contractSignature: chain.contractSignature,
  })
  const { capacity, minimumPrice = 0n } = ruleFor(file, json.digest)
  if (BigInt(json.listing.price!) < minimumPrice)
    throw new ModelRefusedError(`Its price is below the ${minimumPrice} that this runner works for.`)
  const { loadable, reread, ...model } = await fetchModel(json, {
    cacheDir: join(config.ASSAY_STATE, 'models'),
    fetchArtifact: async (digest) => {
      const path = `/v1/artifacts/${digest}`
      const { body } = await edge(path, { signal: AbortSignal.timeout(downloadLimitMs) })
      return body ?? new ReadableStream({ start: (stream) => stream.close() })
    },
  })
  const serve = (found: Pick<Trial, 'class' | 'batch' | 'batchSizes'>) => {
    service.serve({
      ...model,
      run: (feeds, deadlineMs) => executor.run(json.digest, feeds, deadlineMs),
      batchSizes: found.batchSizes,
      ...(capacity === undefined ? {} : { capacity }),
      execution: {
        runtime: 'onnxruntime-node',
        runtimeVersion: ortVersion,
        provider: engine.provider,
        optimization: 'all',
        threads: config.ASSAY_THREADS,
        class: found.class,
        batch: found.batch,
        measurement: workload,
      },
    })
    offer()
  }
  const { manifest } = model
  // In a process of its own first: a model that ends its process then never ends one that serves.
  await probe.load({ manifest, loadable, reread })
  await executor.load(loadable, reread)
  serve({ class: 'tolerant', batch: 'single', batchSizes: [] })
  return async () => {
    // Read again rather than kept: many models may wait for their trials.
    const trial = await probe.probe({ manifest, loadable: await reread(), reread })
    serve(trial)
    log('model_admitted', {
      model: json.digest,
      name: manifest.name,
      class: trial.class,
      batch: trial.batch,
      findings: trial.findings.map(({ reason, detail }) => `${reason}: ${detail}`).join('; '),
    })
  }
}

/** The link of this runner's own key: opened with its first model, or when there is none after the first look at the listings. */
let link = null as Link | null
/** Links of predecessors' keys: opened before any model is tried, which can take minutes, so that what they journalled is answered at once. */
const predecessorLinks: Link[] = []

const socketUrl = (runner: Hex) => `${config.ASSAY_EDGE.replace(/^http/, 'ws')}/v1/runners/${runner}/socket`
const seconds = () => BigInt(Math.floor(now() / 1000))
const openOwnLink = () =>
  openLink({
    url: socketUrl(signer.address),
    authorization: async () => {
      const at = seconds()
      return {
        runner: signer.address,
        at: at.toString(),
        signature: toHex(await signer.sign(connectDigest(domain, { runner: signer.address, at }))),
      }
    },
    // A runner that drains offers nothing, so nobody is sent to it.
    hello: () => {
      const models = service.draining ? [] : service.models
      const warm = executor.warm()
      return { models, warm: models.filter((digest) => warm.includes(digest)), capacity: config.ASSAY_CAPACITY }
    },
    load: () => ({ queued: service.inFlight, capacity: config.ASSAY_CAPACITY }),
    handle: (requests, reply) => service.handleAll(requests, reply),
    cancel: (job) => service.cancel(job),
    log,
    random: Math.random,
  })

/** Tells the edge what this runner serves now. */
function offer(): void {
  if (link) link.sayHello()
  else link = openOwnLink()
}

/** Answers for a runner whose keys died with its process: what the journal holds was promised and is given; the rest is lost and free. */
function answerForPredecessor(request: JobRequest): JobAnswer | JobRefusal {
  const entry = journal.find(request.channel, request.job)
  if (!entry)
    return {
      ticket: request.ticket,
      reason: 'job_lost',
      detail: 'The runner restarted before it had recorded this job; nothing was charged.',
    }
  if (!equalBytes(entry.bodyHash, sha256(request.body)))
    return { ticket: request.ticket, reason: 'job_conflict', detail: 'This job number was used with another body.' }
  return { ticket: request.ticket, ...answerOf(entry) }
}
for (const predecessor of predecessors) {
  const succession = toHex(
    await chain.signTypedSuccession(successionDigest(domain, { predecessor, successor: signer.address })),
  )
  predecessorLinks.push(
    openLink({
      url: socketUrl(predecessor),
      authorization: async () => {
        const at = seconds()
        const signature = toHex(await signer.sign(connectDigest(domain, { runner: predecessor, at })))
        return {
          runner: predecessor,
          at: at.toString(),
          successor: signer.address,
          signature,
          provider: chain.provider,
          succession,
        }
      },
      hello: () => ({ models: [], capacity: config.ASSAY_CAPACITY }),
      load: () => ({ queued: 0, capacity: config.ASSAY_CAPACITY }),
      handle: (requests, reply) => {
        for (const request of requests) reply(answerForPredecessor(request))
      },
      log,
      random: Math.random,
    }),
  )
}

const settler = new Settler({
  journal,
  chain,
  signer,
  domain,
  noteSettled: (channel, buyer, settled) => {
    service.noteSettled(channel, buyer, settled)
    earnings.noteSettled(channel, settled)
  },
  policy: settlementPolicyOf(config),
  registrationEnd: () => validUntil,
  now,
  log,
})

metrics.gauge('assay_jobs_in_flight', 'Jobs accepted and not yet answered.', () => service.inFlight)
metrics.gauge('assay_queue_depth', 'Jobs waiting for the engine.', () => service.waiting)
metrics.gauge('assay_capacity', 'Jobs taken on at once.', () => config.ASSAY_CAPACITY)
metrics.gauge('assay_models', 'Models served.', () => service.models.length)
metrics.gauge('assay_link_up', '1 while connected to the edge.', () => (link?.connected() ? 1 : 0))
metrics.gauge('assay_attestation_age_seconds', 'Time since the last attestation.', () =>
  Math.floor((now() - attestedAt) / 1000),
)
metrics.gauge(
  'assay_attestation_valid_until_seconds',
  'When the attestation runs out, in unix seconds.',
  () => validUntil,
)
metrics.gauge(
  'assay_claimable_amount',
  'Earned and not yet paid by the chain, in the smallest unit.',
  () => earnings.read().claimable,
)
metrics.gauge(
  'assay_settled_amount',
  'Paid by the chain as last read, in the smallest unit.',
  () => earnings.read().settled,
)
metrics.gauge('process_resident_memory_bytes', 'Resident memory of the control process.', () =>
  process.memoryUsage.rss(),
)

const readiness = () =>
  readinessOf({
    draining: service.draining,
    connected: link?.connected() ?? false,
    models: service.models.length,
    validUntil,
    now: now() / 1000,
    journalFailing: service.journalFailing,
  })

function drain(): { inFlight: number } {
  log('draining', { inFlight: service.inFlight })
  void service.drain().then(() => log('drained'))
  link?.sayHello()
  return { inFlight: service.inFlight }
}

const control = createControl({
  status: () => ({
    state: service.draining ? 'draining' : 'ready',
    signer: signer.address,
    connected: link?.connected() ?? false,
    models: service.models,
    inFlight: service.inFlight,
    validUntil,
    executor: executor.pid() ?? null,
  }),
  readiness,
  metrics: metrics.text,
  settle: () => settler.settle(),
  async admit() {
    refusedModels.clear()
    await admitModels()
    return { models: service.models }
  },
  drain,
  log,
})
await new Promise<void>((resolve) => control.listen(config.ASSAY_CONTROL_PORT, '127.0.0.1', resolve))
const address = control.address()

const stopping = new AbortController()
const stop = async () => {
  if (stopping.signal.aborted) return
  stopping.abort()
  drain()
  await service.drain()
  // Answers just resolved leave on the next turn of the loop.
  await sleep(20)
  await Promise.race([
    settler.stop().catch((error: Error) => log('settle_failed', { message: error.message })),
    sleep(5_000),
  ])
  link?.close()
  for (const each of predecessorLinks) each.close()
  control.close()
  await executor.stop()
  journal.close()
  log('stopped')
  process.exit(0)
}
process.on('SIGTERM', () => void stop())
process.on('SIGINT', () => void stop())

/** How often what nobody can ask for or claim any more is let go, in milliseconds. */
const pruneMs = 600_000

/** How long after the end of their terms receipts are kept, in seconds: a claim has a day to reach the chain, and as long again for doubt. */
const claimableSeconds = 2 * 86_400

/** How often the edge is told what the journal adds up to, in milliseconds. */
const totalsMs = 900_000

/** How often at most the edge is told which models are in memory: it writes that down each time, in milliseconds. */
const warmSayMs = 60_000

/** A renewal costs gas, so one that failed is tried again only after this long. */
const attestRetryMs = 600_000

/** How often listings are looked at, in milliseconds. */
const lookMs = 2_000
const pause = () => sleep(lookMs, undefined, { signal: stopping.signal }).catch(() => {})

const look = () => admitModels().catch((error: Error) => log('refresh_failed', { message: error.message }))
await look()
if (!link) offer()
log('ready', { signer: signer.address, controlPort: typeof address === 'object' && address ? address.port : 0 })

// Trying a model takes as long as it takes, and renewals and claims do not wait for it.
void (async () => {
  while (!stopping.signal.aborted) {
    await pause()
    await look()
  }
})()

// The registration is renewed well before it runs out, with the same keys and a fresh nonce.
let totalsAt = now()
let claimsTold = 0
let prunedAt = now()
let attestAt = 0
let warmSaid = executor.warm().sort().join()
let warmSaidAt = now()
while (!stopping.signal.aborted) {
  await pause()
  if (stopping.signal.aborted) break
  try {
    const warm = executor.warm().sort().join()
    if (warm !== warmSaid && now() - warmSaidAt > warmSayMs) {
      warmSaid = warm
      warmSaidAt = now()
      link?.sayHello()
    }
    if (validUntil - now() / 1000 < 6 * 3600 && now() >= attestAt) {
      attestAt = now() + attestRetryMs
      await attest()
    }
  } catch (error) {
    log('refresh_failed', { message: error instanceof Error ? error.message : 'unknown' })
  }
  try {
    await settler.look()
  } catch (error) {
    log('settle_failed', { message: error instanceof Error ? error.message : 'unknown' })
  }
  try {
    if (now() - prunedAt > pruneMs) {
      prunedAt = now()
      const seconds = Math.floor(now() / 1000)
      const termsBefore = seconds - claimableSeconds
      service.prune(termsBefore)
      await journal.prune({ answersBefore: seconds - config.ASSAY_ANSWERS_KEPT_SECONDS, termsBefore })
    }
  } catch (error) {
    log('prune_failed', { message: error instanceof Error ? error.message : 'unknown' })
  }
  try {
    if (now() >= totalsAt || settler.claims > claimsTold) {
      totalsAt = now() + totalsMs
      claimsTold = settler.claims
      const path = `/v1/runners/${signer.address}/totals`
      const headers = { 'content-type': 'application/json' }
      const post = (body: object) => edge(path, { method: 'POST', headers, body: JSON.stringify(body) })
      const channels = await postTotals({ journal, signer, domain, now: Math.floor(now() / 1000), post })
      if (channels > 0) log('totals_posted', { channels })
    }
  } catch (error) {
    log('totals_failed', { message: error instanceof Error ? error.message : 'unknown' })
  }
}
