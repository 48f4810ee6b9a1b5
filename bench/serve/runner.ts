import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Batcher, type RunResult } from '../../gpu-runner/engine/batcher.ts'
import { createExecutor } from '../../gpu-runner/engine/executor.ts'
import { type Journal, openJournal } from '../../gpu-runner/journal.ts'
import { type LinkDeps, openLink } from '../../gpu-runner/link.ts'
import { createNativeEnvelope } from '../../gpu-runner/nativeEnvelope.ts'
import { envelopeOpener, JobService, type OpenEnvelope } from '../../gpu-runner/service.ts'
import { createRunnerSigner } from '../../gpu-runner/signer.ts'
import { toHex, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { generateHpkeKeyPair } from '../../protocol/hpke.ts'
import { checkTensors, decodeBody, encodeBody } from '../../protocol/oip.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import type { Batch, Mode } from './asker.ts'
import { buildModel, domain, type ModelName } from './model.ts'

/** One runner process under load: the product's own link, service and executor, or the same link and executor with nothing in between. */

const [mode, name, url, batch = 'free'] = process.argv.slice(2) as [Mode, ModelName, string, Batch?]
const { graph, served } = buildModel(name)
const { digest } = served
const executor = createExecutor({ threads: 1 })
await executor.load({ digest, graph, external: [] })
const batchSizes = batch === 'free' ? Array.from({ length: 64 }, (_, index) => index + 1) : []
const model = {
  ...served,
  batchSizes,
  run: (feeds: Tensor[], deadlineMs: number) => executor.run(digest, feeds, deadlineMs),
}
const signer = createRunnerSigner(sha256(utf8('test key: runner')))
const hpke = await generateHpkeKeyPair()
const state = mkdtempSync(join(tmpdir(), 'assay-bench-serve-'))
const capacity = 4_096

type Handle = LinkDeps['handle']

/** Serves without a promise to anyone: reads tensors, runs them, writes tensors. */
function bare(): { handle: Handle; inFlight: () => number } {
  const zero = (length: number) => new Uint8Array(length)
  const detail = { input: zero(32), output: zero(32), execution: zero(32), price: 0n }
  const receipt = { channel: zero(32), job: 0n, status: 0, cumulative: 0n, finishedAt: 0n, detail: zero(32) }
  const proof = { index: 0, count: 1, path: [] }
  const signature = zero(65)
  let inFlight = 0
  const batcher = new Batcher<(result: RunResult) => void>({
    run: model.run,
    finish: async (results) => {
      for (const { tag, result } of results) tag(result)
    },
    batchSizes: model.batchSizes,
    now: Date.now,
  })
  const handle: Handle = (requests, reply) => {
    for (const { ticket, body, deadlineMs } of requests) {
      const { tensors } = decodeBody('inputs', body)
      checkTensors(tensors, model.manifest.inputs)
      inFlight++
      batcher.push({
        feeds: tensors,
        deadline: Date.now() + deadlineMs,
        tag: (result) => {
          inFlight--
          if ('error' in result) throw result.error
          reply({ ticket, receipt, detail, signature, proof, body: encodeBody('outputs', result.outputs) })
        },
      })
    }
  }
  return { handle, inFlight: () => inFlight }
}

/** Opens envelopes that hide nothing, with the salts of real ones: commitments belong to signing. */
const openOpen: OpenEnvelope = async (channel) => {
  const keys = { request: new Uint8Array(32), answer: new Uint8Array(32), salt: new Uint8Array(32) }
  const { outputSalt } = createNativeEnvelope(channel, keys)
  return { seal: (_job, _way, plaintext) => plaintext, open: (_job, _way, sealed) => sealed, outputSalt }
}

const forgetful: Journal = {
  commit: async () => {},
  find: () => null,
  channel: () => null,
  channelsOf: () => [],
  latest: () => null,
  count: () => 0,
  totals: () => [],
  runners: () => [],
  prune: async () => {},
  close: () => {},
}

/** Serves as the product does; without `full`, receipts are signed but bodies are open and nothing is written down. */
function signed(full: boolean): { handle: Handle; inFlight: () => number } {
  const service = new JobService({
    domain,
    feeBps: 100,
    signer,
    openEnvelope: full ? envelopeOpener(hpke) : openOpen,
    journal: full ? openJournal(join(state, 'journal.sqlite')) : forgetful,
    chain: {
      depositOf: async () => 10n ** 30n,
      settledOf: async () => 0n,
      mandateLeft: async () => 0n,
      contractSignature: async () => null,
    },
    log: (event, fields) => process.stderr.write(`${event} ${JSON.stringify(fields ?? {})}\n`),
    now: Date.now,
    capacity,
  })
  service.serve(model)
  return { handle: (requests, reply) => service.handleAll(requests, reply), inFlight: () => service.inFlight }
}

const { handle, inFlight } = mode === 'bare' ? bare() : signed(mode === 'full')
openLink({
  url,
  authorization: async () => ({ mode, runner: signer.address, hpkeKey: toHex(hpke.rawPublicKey) }),
  hello: () => ({ models: [digest], capacity }),
  load: () => ({ queued: inFlight(), capacity }),
  handle,
  log: (event) =>
    event === 'link_open' && process.send?.({ runner: signer.address, hpkeKey: toHex(hpke.rawPublicKey) }),
  random: Math.random,
})
// Ends with whoever started it, however that ended.
process.once('disconnect', () => {
  rmSync(state, { recursive: true, force: true })
  void executor.stop().then(() => process.exit(0))
})
