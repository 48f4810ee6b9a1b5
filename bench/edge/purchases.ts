import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Assay } from '../../client/assay.ts'
import { rememberSigners } from '../../client/batchSigners.ts'
import { nodeFlags } from '../../gpu-runner/nodeFlags.ts'
import { createRecoverer, createRunnerSigner } from '../../gpu-runner/signer.ts'
import { createDevelopmentTee } from '../../gpu-runner/tee/development.ts'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { collateralToJson, evidenceToJson } from '../../protocol/evidence/index.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { encodeStatement, reportDataOf, type Statement } from '../../protocol/evidence/statement.ts'
import { sha256 } from '../../protocol/hash.ts'
import { listingDigest } from '../../protocol/listing.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { buildModel, domain, type ModelName, models, payout, price } from '../serve/model.ts'
import { openTransport } from './transport.ts'

/** Holds a runner process on its mailbox: the product's link, service, journal and executor. */
export type Runner = { sealingKey: Hex; child: ChildProcess; stop(): Promise<void> }

const keyOf = (name: string) => createRunnerSigner(sha256(utf8(`test key: ${name}`)))
const runnerKey = keyOf('runner')

/** Starts a runner process that keeps nothing from its buyers: bodies sealed, every receipt in its journal before it is sent. */
export async function startRunner(mailboxUrl: string, model: ModelName): Promise<Runner> {
  const socket = `${mailboxUrl.replace('http', 'ws')}/bench/socket/${runnerKey.address}`
  const script = join(import.meta.dirname, '../serve/runner.ts')
  const child = spawn(process.execPath, [...nodeFlags, script, 'full', model, socket], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const ended = once(child, 'exit')
  const [{ hpkeKey }] = (await Promise.race([
    once(child, 'message'),
    ended.then(([code]) => Promise.reject(new Error(`The runner ended with ${code}.`))),
  ])) as [{ hpkeKey: Hex }]
  return {
    sealingKey: hpkeKey,
    child,
    async stop() {
      child.disconnect()
      await ended
    },
  }
}

const address = (label: string): Hex => `0x${toHex(sha256(utf8(label))).slice(2, 42)}`

/** Answers what a buyer asks an edge before its first job: the bench has no database, and none of it is timed. The listing is signed and the evidence verifies, under a development root. */
async function introduce(model: ModelName, sealingKey: Hex) {
  const seconds = Math.floor(Date.now() / 1_000)
  const network = {
    chainId: domain.chainId,
    escrow: domain.escrow,
    registry: address('registry'),
    policy: address('policy'),
    attestedInference: address('attested inference'),
    token: address('token'),
    feeBps: 100,
    developmentRoots: true,
  }
  const { manifest, digest } = buildModel(model).served
  const publisher = keyOf('publisher')
  const terms = { model: digest, publisher: publisher.address, payout, royaltyBps: 500, unit: 'inference' }
  const listing = { ...terms, price, validUntil: BigInt(seconds + 86_400), nonce: 1n }
  const signature = toHex(await publisher.sign(listingDigest(domain, listing)))
  const tee = createDevelopmentTee({ seed: sha256(utf8('test seed: bench')), now: () => seconds })
  const statement: Statement = {
    root: 'development',
    chainId: BigInt(domain.chainId),
    registry: network.registry,
    signerKey: runnerKey.publicKey,
    hpkeKey: fromHex(sealingKey, 32),
    nonce: new Uint8Array(32),
    gpuEvidence: new Uint8Array(32),
    workload: tdxWorkload(parseTdxQuote(tee.quote(new Uint8Array(64))).body),
    notAfter: BigInt(seconds + 3_600),
  }
  const evidence = evidenceToJson({ format: 'tdx', quote: tee.quote(reportDataOf(statement)) })
  const collateral = collateralToJson(tee.collateral())
  const asJson = { ...listing, price: String(price), validUntil: String(listing.validUntil), nonce: '1' }
  const named = { digest, owner: publisher.address, name: manifest.name, version: '1', card: '', createdAt: '' }
  const runner = { signer: runnerKey.address, hpkeKey: sealingKey, provider: address('provider') }
  const answers: Record<string, object> = {
    '/v1/network': network,
    [`/v1/models/${digest}`]: { ...named, manifest, listing: asJson, signature },
    '/v1/matches': {
      runner: { ...runner, evidenceDigest: digest, validUntil: '' },
      model: { digest, price: String(price), royaltyBps: 500, payout },
      feeBps: 100,
      validUntil: '',
    },
    [`/v1/runners/${runner.signer}/evidence`]: { statement: toHex(encodeStatement(statement)), evidence, collateral },
  }
  return { digest, answers, roots: [developmentRoots({ chainId: domain.chainId, intel: tee.rootDer })] }
}

/** Holds buyers, each with one channel. `rate` keeps so many purchases under way for a while and gives how many a second were verified and opened. */
export type Buyers = { rate(ms: number, inFlight: number): Promise<number>; close(): void }

/** Makes buyers out of the product's own SDK, verifying everything it verifies. Throws from `rate` what the SDK throws. */
export async function openBuyers(
  edgeUrl: string,
  { runner, model, buyers }: { runner: Runner; model: ModelName; buyers: number },
): Promise<Buyers> {
  const { digest, answers, roots } = await introduce(model, runner.sealingKey)
  const transport = openTransport(edgeUrl)
  const ask: typeof fetch = (target, init) => {
    const known = answers[String(target).slice(edgeUrl.length)]
    return known ? Promise.resolve(Response.json(known)) : transport.fetch(target, init)
  }
  // What one process verified of a batch, another client of it need not verify again.
  const recover = rememberSigners(createRecoverer())
  const clients = Array.from(
    { length: buyers },
    (_, index) => new Assay({ edge: edgeUrl, signer: keyOf(`buyer ${index}`), roots, fetch: ask, recover }),
  )
  let asked = 0
  const inputOf = (seed: number): Tensor => ({
    name: 'pixels',
    datatype: 'FP32',
    shape: [1, models[model][0]],
    data: new Uint8Array(Float32Array.from({ length: models[model][0] }, (_, at) => (at + seed) % 17).buffer),
  })
  return {
    async rate(ms, inFlight) {
      const started = performance.now()
      let verified = 0
      const one = async (index: number) => {
        const client = clients[index % buyers]!
        while (performance.now() - started < ms) {
          await client.infer(digest, [inputOf(asked++)])
          verified++
        }
      }
      await Promise.all(Array.from({ length: inFlight }, (_, index) => one(index)))
      return (verified * 1_000) / (performance.now() - started)
    },
    close: transport.close,
  }
}
