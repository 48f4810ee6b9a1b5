import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { randomMlp, sampleModel, writeMlp } from '../../dev/sample/model.ts'
import { createExecutor, type Executor } from '../../gpu-runner/engine/executor.ts'
import { probeModel } from '../../gpu-runner/engine/probe.ts'
import { type Journal, JournalError, openJournal } from '../../gpu-runner/journal.ts'
import { type ChainReader, envelopeOpener, JobService, type ServedModel } from '../../gpu-runner/service.ts'
import { createRunnerSigner } from '../../gpu-runner/signer.ts'
import { concat, fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import {
  contextId,
  createEnvelope,
  direction,
  type Envelope,
  envelopeInfo,
  envelopeKeys,
} from '../../protocol/envelope.ts'
import type { JobAnswer, JobRefusal, JobRequest } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { generateHpkeKeyPair, type HpkeKeyPair, setupSender } from '../../protocol/hpke.ts'
import type { Manifest } from '../../protocol/manifest.ts'
import { decodeBody, encodeBody } from '../../protocol/oip.ts'
import { readGraph } from '../../protocol/onnx/reader.ts'
import { createSigner } from '../../protocol/secp256k1.ts'
import type { Tensor } from '../../protocol/tensors.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'

const digest: Hex = `0x${'11'.repeat(32)}`
const domain = { chainId: 31_337, escrow: `0x${'22'.repeat(20)}` as Hex }
const buyer = createSigner(fromHex(developmentKey('buyer'), 32))
const stranger = createSigner(fromHex(developmentKey('stranger'), 32))
const signer = createRunnerSigner(fromHex(developmentKey('runner'), 32))
const { graph, example } = sampleModel()
const pixels: Tensor = { name: 'pixels', datatype: 'FP32', shape: [1, 64], data: new Uint8Array(example.pixels.buffer) }
const info = readGraph(graph)
const manifest: Manifest = {
  name: 'digits',
  version: '1',
  licence: 'x',
  files: [{ path: 'model.onnx', size: graph.length, sha256: '0'.repeat(64) }],
  inputs: info.inputs,
  outputs: info.outputs,
  fixedInputs: [],
  execution: { class: 'exact' },
  opsets: info.opsets,
}

describe('JobService', () => {
  let executor: Executor
  let hpke: HpkeKeyPair
  const folder = mkdtempSync(join(tmpdir(), 'assay-journal-'))
  let journals = 0
  beforeAll(async () => {
    executor = createExecutor({ threads: 1 })
    await executor.load({ digest, graph, external: [] })
    hpke = await generateHpkeKeyPair()
  })
  afterAll(async () => {
    await executor?.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  const served = (): ServedModel => ({
    digest,
    manifest,
    listing: {
      model: digest,
      publisher: buyer.address,
      payout: buyer.address,
      price: 10n,
      royaltyBps: 500,
      unit: 'inference',
      validUntil: 2n ** 40n,
      nonce: 1n,
    },
    fixed: [],
    execution: {
      runtime: 'onnxruntime-node',
      runtimeVersion: 'x',
      provider: 'cpu',
      optimization: 'all',
      threads: 1,
      class: 'exact',
      batch: 'free',
      measurement: 'x',
    },
    batchSizes: Array.from({ length: 64 }, (_, index) => index + 1),
    run: (feeds, deadlineMs) => executor.run(digest, feeds, deadlineMs),
  })

  function open({
    chain = {},
    journal,
    capacity = 100,
    model = served(),
    now = Date.now,
  }: {
    chain?: Partial<ChainReader>
    journal?: Journal
    capacity?: number
    model?: ServedModel
    now?: () => number
  } = {}) {
    const own = journal ?? openJournal(join(folder, `${journals++}.sqlite`))
    const reader: ChainReader = {
      depositOf: async () => 10_000n,
      settledOf: async () => 0n,
      mandateLeft: async () => 0n,
      contractSignature: async () => null,
      ...chain,
    }
    const service = new JobService({
      domain,
      feeBps: 100,
      signer,
      openEnvelope: envelopeOpener(hpke),
      journal: own,
      chain: reader,
      log: () => {},
      now,
      capacity,
    })
    service.serve(model)
    return { service, journal: own }
  }

  async function channel(change: Partial<Terms> = {}) {
    const terms: Terms = {
      buyer: buyer.address,
      runner: signer.address,
      model: digest,
      publisher: buyer.address,
      price: 10n,
      royaltyBps: 500,
      feeBps: 100,
      expiresAt: BigInt(Math.floor(Date.now() / 1000) + 3_600),
      salt: toHex(crypto.getRandomValues(new Uint8Array(32))),
      ...change,
    }
    const id = fromHex(channelOf(domain, terms), 32)
    const { enc, context } = await setupSender(hpke.rawPublicKey, envelopeInfo(id))
    const envelope = await createEnvelope(id, await envelopeKeys(context))
    return { terms, id, enc, envelope }
  }
  type Channel = { terms: Terms; id: Uint8Array; enc: Uint8Array; envelope: Envelope }

  async function ask(
    of: Channel,
    job: bigint,
    {
      tensors = [pixels],
      cumulative = 10n * job,
      by = buyer,
      change = {},
      deadlineMs = 20_000,
    }: {
      tensors?: Tensor[]
      cumulative?: bigint
      by?: typeof buyer
      change?: Partial<JobRequest>
      deadlineMs?: number
    } = {},
  ): Promise<JobRequest> {
    const salt = new Uint8Array(32).fill(7)
    const signature = await by.sign(voucherDigest(domain, { channel: toHex(of.id), cumulative }))
    return {
      ticket: 1,
      channel: of.id,
      job,
      context: contextId(of.enc),
      deadlineMs,
      opening: { terms: of.terms, enc: of.enc },
      voucher: { cumulative, signature },
      body: await of.envelope.seal(job, direction.request, encodeBody('inputs', tensors, { salt: toHex(salt) })),
      ...change,
    }
  }
  const refused = (result: JobAnswer | JobRefusal) =>
    'reason' in result ? result.reason : `answered with status ${result.receipt.status}`
  const answered = (result: JobAnswer | JobRefusal): JobAnswer => {
    if ('reason' in result) throw new Error(`${result.reason}: ${result.detail}`)
    return result
  }

  test('behavior: a settlement noted while a sealing context opens does not make the buyer look unfunded', async () => {
    const { service } = open()
    const first = await channel()
    expect(await service.handle(await ask(first, 1n))).toHaveProperty('receipt')
    const second = service.handle(await ask(await channel(), 1n))
    // Past the checks that do not wait; opening a context waits for another thread.
    for (let turn = 0; turn < 50; turn++) await Promise.resolve()
    service.noteSettled(toHex(first.id), first.terms.buyer, 10n)
    expect(await second).toHaveProperty('receipt')
  })

  test('behavior: a key with a mandate signs for its buyer, as far as the mandate reaches', async () => {
    const agent = createSigner(sha256(utf8('test key: agent')))
    const asked: object[] = []
    const { service } = open({
      chain: {
        mandateLeft: async (of) => {
          asked.push(of)
          return of.key === agent.address ? 20n : 0n
        },
      },
    })
    const of = await channel()
    expect('receipt' in (await service.handle(await ask(of, 1n, { by: agent })))).toBe(true)
    expect(asked[0]).toMatchObject({ buyer: buyer.address, key: agent.address, model: digest, channel: toHex(of.id) })
    expect(await service.handle(await ask(of, 2n, { by: agent, cumulative: 30n }))).toMatchObject({
      reason: 'insufficient_cover',
    })
    const stranger = createSigner(sha256(utf8('test key: no mandate')))
    expect(await service.handle(await ask(await channel(), 1n, { by: stranger }))).toMatchObject({
      reason: 'bad_voucher',
    })
  })

  test('behavior: a deposit is read again after a minute, so that one asked back is not worked against', async () => {
    let clock = Date.now()
    let deposit = 1_000n
    let reads = 0
    const { service } = open({
      now: () => clock,
      chain: {
        depositOf: async () => {
          reads++
          return deposit
        },
      },
    })
    const of = await channel()
    for (const job of [1n, 2n]) expect('receipt' in (await service.handle(await ask(of, job)))).toBe(true)
    expect(reads).toBe(1)
    deposit = 0n
    clock += 61_000
    expect(await service.handle(await ask(of, 3n))).toMatchObject({ reason: 'unfunded' })
  })

  test('attack: openings without a good voucher never reach the disk, and only so many are remembered', async () => {
    const { service, journal } = open()
    const stranger = createSigner(sha256(utf8('test key: stranger')))
    for (let i = 0; i < 20; i++) {
      const of = await channel()
      const refused = await service.handle(await ask(of, 1n, { by: stranger }))
      expect(refused).toMatchObject({ reason: 'bad_voucher' })
      expect(journal.channel(of.id)).toBeNull()
    }
    const honest = await channel()
    expect('receipt' in (await service.handle(await ask(honest, 1n)))).toBe(true)
    expect(journal.channel(honest.id)?.terms).toEqual(honest.terms)
  })

  /** Hands requests over as those of one message, and gives the results by ticket. */
  async function together(service: JobService, requests: JobRequest[]): Promise<(JobAnswer | JobRefusal)[]> {
    const results: (JobAnswer | JobRefusal)[] = []
    await new Promise<void>((resolve) =>
      service.handleAll(
        requests.map((request, ticket) => ({ ...request, ticket })),
        (result) => {
          results[result.ticket] = result
          if (Object.keys(results).length === requests.length) resolve()
        },
      ),
    )
    return results
  }

  test('behavior: the jobs of one message are answered, the first opening its channel for those behind it', async () => {
    const { service, journal } = open()
    const of = await channel()
    const requests = await Promise.all([1n, 2n, 3n, 4n].map((job) => ask(of, job)))
    for (const request of requests.slice(1)) delete request.opening
    const answers = (await together(service, requests)).map(answered)
    expect(answers.map(({ receipt }) => receipt.status)).toEqual([0, 0, 0, 0])
    expect(journal.latest(of.id)?.receipt.cumulative).toBe(40n)
    expect(journal.channel(of.id)?.voucher?.cumulative).toBe(40n)
  })

  test('attack: a forged voucher higher than the others refuses its own job and no other', async () => {
    const { service, journal } = open()
    const of = await channel()
    const requests = await Promise.all([ask(of, 1n), ask(of, 2n), ask(of, 3n, { by: stranger, cumulative: 1_000n })])
    const results = await together(service, requests)
    expect(results.map(refused)).toEqual(['answered with status 0', 'answered with status 0', 'bad_voucher'])
    expect(journal.channel(of.id)?.voucher?.cumulative).toBe(20n)
  })

  test('attack: terms seen on the chain and a used voucher open no sealing context in a channel of another', async () => {
    const { service } = open()
    const of = await channel()
    answered(await service.handle(await ask(of, 1n, { cumulative: 500n })))
    const { enc, context } = await setupSender(hpke.rawPublicKey, envelopeInfo(of.id))
    const thief = { ...of, enc, envelope: await createEnvelope(of.id, await envelopeKeys(context)) }
    const used = (await ask(of, 1n)).voucher
    for (const voucher of [undefined, used]) {
      const request = await ask(thief, 50n)
      const stolen = await service.handle({ ...request, voucher })
      expect(refused(stolen)).toBe('insufficient_cover')
    }
    expect(answered(await service.handle(await ask(of, 2n, { cumulative: 500n }))).receipt.cumulative).toBe(20n)
  })

  test('attack: a body that does not open leaves the numbers of its channel as they were', async () => {
    const { service } = open()
    const of = await channel()
    answered(await service.handle(await ask(of, 1n)))
    const far = { ...(await ask(of, 2n, { cumulative: 500n })), job: 2n ** 63n }
    expect(refused(await service.handle(far))).toBe('bad_seal')
    expect(answered(await service.handle(await ask(of, 2n, { cumulative: 500n }))).receipt.cumulative).toBe(20n)
  })

  test('attack: an encapsulated key that is no point of the curve is refused and forgotten', async () => {
    const { service } = open()
    const of = await channel()
    const enc = new Uint8Array(32)
    const request = await ask(of, 1n, { change: { opening: { terms: of.terms, enc }, context: contextId(enc) } })
    expect(refused(await service.handle(request))).toBe('bad_seal')
    expect(answered(await service.handle(await ask(of, 1n))).receipt.status).toBe(0)
  })

  test('behavior: what a batch cannot record is charged nowhere, and what runs beside it is not counted twice', async () => {
    const real = openJournal(join(folder, 'flaky.sqlite'))
    let commits = 0
    const journal: Journal = {
      ...real,
      async commit(entries, channels) {
        commits++
        if (commits % 2 === 0) throw new JournalError('disk full')
        await real.commit(entries, channels)
      },
    }
    let clock = Date.now()
    const { service } = open({ journal, now: () => clock })
    const of = await channel()
    let charged = 0n
    for (let job = 1n; job <= 12n; job++) {
      const results = await together(service, [await ask(of, job, { cumulative: 1_000n })])
      if ('receipt' in results[0]!) charged += 10n
      clock += 2_000
    }
    expect(charged).toBe(60n)
    expect(real.latest(of.id)?.receipt.cumulative).toBe(60n)
  })

  test('behavior: a job is answered, journalled first, and its answer opens to what the model gives', async () => {
    const { service, journal } = open()
    const of = await channel()
    const answer = answered(await service.handle(await ask(of, 1n)))
    expect(answer.receipt).toMatchObject({ job: 1n, status: 0, cumulative: 10n })
    expect(journal.find(of.id, 1n)?.answer).toEqual(answer.body)
    const { tensors } = decodeBody('outputs', await of.envelope.open(1n, direction.answer, answer.body))
    const probabilities = new Float32Array(tensors[0]!.data.slice().buffer)
    expect(probabilities.indexOf(Math.max(...probabilities))).toBe(example.digit)
  })

  const lies: [string, () => Promise<{ request: JobRequest; options?: Parameters<typeof open>[0] }>, string][] = [
    [
      'a voucher for less than the price',
      async () => ({ request: await ask(await channel(), 1n, { cumulative: 9n }) }),
      'insufficient_cover',
    ],
    [
      'no voucher',
      async () => ({ request: await ask(await channel(), 1n, { change: { voucher: undefined } }) }),
      'insufficient_cover',
    ],
    [
      'a voucher signed by someone else',
      async () => ({ request: await ask(await channel(), 1n, { by: stranger }) }),
      'bad_voucher',
    ],
    [
      'a voucher of another channel',
      async () => ({
        request: { ...(await ask(await channel(), 1n)), voucher: (await ask(await channel(), 1n)).voucher },
      }),
      'bad_voucher',
    ],
    [
      'a contract wallet that says no',
      async () => ({
        request: await ask(await channel(), 1n, { by: stranger }),
        options: { chain: { contractSignature: async () => false } },
      }),
      'bad_voucher',
    ],
    ['expired terms', async () => ({ request: await ask(await channel({ expiresAt: 1n }), 1n) }), 'expired_terms'],
    [
      "another price than the listing's",
      async () => ({ request: await ask(await channel({ price: 1n }), 1n) }),
      'wrong_price',
    ],
    ['another royalty', async () => ({ request: await ask(await channel({ royaltyBps: 0 }), 1n) }), 'bad_terms'],
    [
      'another payout',
      async () => ({ request: await ask(await channel({ publisher: stranger.address }), 1n) }),
      'bad_terms',
    ],
    ['another fee', async () => ({ request: await ask(await channel({ feeBps: 0 }), 1n) }), 'bad_terms'],
    [
      'terms for another runner',
      async () => ({ request: await ask(await channel({ runner: stranger.address }), 1n) }),
      'bad_terms',
    ],
    [
      'a model this runner does not serve',
      async () => ({ request: await ask(await channel({ model: `0x${'33'.repeat(32)}` }), 1n) }),
      'unknown_model',
    ],
    [
      "terms that are not the channel's",
      async () => ({
        request: await ask(await channel(), 1n, {
          change: { opening: { terms: (await channel()).terms, enc: new Uint8Array(32) } },
        }),
      }),
      'bad_terms',
    ],
    [
      'a channel nobody opened',
      async () => ({ request: await ask(await channel(), 1n, { change: { opening: undefined } }) }),
      'unknown_context',
    ],
    [
      'a body sealed for another job',
      async () => ({ request: { ...(await ask(await channel(), 1n, { cumulative: 100n })), job: 2n } }),
      'bad_seal',
    ],
    [
      'a buyer without the deposit',
      async () => ({ request: await ask(await channel(), 1n), options: { chain: { depositOf: async () => 9n } } }),
      'unfunded',
    ],
    [
      'a full runner',
      async () => ({ request: await ask(await channel(), 1n), options: { capacity: 0 } }),
      'at_capacity',
    ],
  ]
  test.each(lies)('refusal: %s', async (_, make, reason) => {
    const { request, options } = await make()
    expect(refused(await open(options).service.handle(request))).toBe(reason)
  })

  test('behavior: a contract wallet that says yes is a buyer', async () => {
    const { service } = open({ chain: { contractSignature: async () => true } })
    answered(await service.handle(await ask(await channel(), 1n, { by: stranger })))
  })

  test('refusal: a model at its own capacity, while the runner has room for others', async () => {
    const { service } = open({ model: { ...served(), capacity: 1 } })
    const of = await channel()
    const results = await together(service, await Promise.all([1n, 2n].map((job) => ask(of, job))))
    expect(results.map(refused).sort()).toEqual(['answered with status 0', 'at_capacity'])
    answered(await service.handle(await ask(of, 3n, { cumulative: 20n })))
  })

  test('refusal: a draining runner takes nothing new', async () => {
    const { service } = open()
    await service.drain()
    expect(refused(await service.handle(await ask(await channel(), 1n)))).toBe('draining')
  })

  test('behavior: the same job again, at once or later, is one answer charged once; another body is a conflict', async () => {
    const { service, journal } = open()
    const of = await channel()
    const request = await ask(of, 1n)
    const [first, second] = (await Promise.all([service.handle(request), service.handle(request)])).map(answered)
    const third = answered(await service.handle(request))
    expect([second!.signature, third.signature]).toEqual([first!.signature, first!.signature])
    expect(third.receipt.cumulative).toBe(10n)
    expect(journal.count(of.id)).toBe(1)
    const other = await ask(of, 1n, { tensors: [{ ...pixels, data: new Uint8Array(256) }] })
    expect(refused(await service.handle(other))).toBe('job_conflict')
  })

  test('behavior: jobs arrive in any order inside the window; below it they are too old', async () => {
    const { service } = open()
    const of = await channel()
    answered(await service.handle(await ask(of, 1_025n, { cumulative: 10n })))
    answered(await service.handle(await ask(of, 2n, { cumulative: 20n })))
    expect(refused(await service.handle(await ask(of, 1n, { cumulative: 30n })))).toBe('job_too_old')
  })

  test('attack: a channel at rest remembers nothing itself, and still begins no job twice', async () => {
    const { service, journal } = open()
    const of = await channel()
    const requests = await Promise.all([1n, 5n].map((job) => ask(of, job, { cumulative: 1_000n })))
    const first = (await together(service, requests)).map(answered)
    service.prune(0)
    expect(answered(await service.handle(requests[0]!)).signature).toEqual(first[0]!.signature)
    service.prune(0)
    expect(answered(await service.handle(requests[1]!)).signature).toEqual(first[1]!.signature)
    expect(refused(await service.handle(await ask(of, 3n, { cumulative: 1_000n })))).toBe('job_too_old')
    expect(refused(await service.handle({ ...requests[0]!, body: requests[1]!.body }))).toBe('job_conflict')
    // Once its answer is kept no longer it is not begun anew either: its nonce has been used.
    await journal.prune({ answersBefore: Number.MAX_SAFE_INTEGER, termsBefore: 0 })
    expect(refused(await service.handle(requests[0]!))).toBe('job_too_old')
    expect(answered(await service.handle(await ask(of, 6n, { cumulative: 1_000n }))).receipt.cumulative).toBe(30n)
  })

  test('behavior: a tensor the model does not take is answered with a receipt that costs nothing', async () => {
    const { service } = open()
    const of = await channel()
    const answer = answered(await service.handle(await ask(of, 1n, { tensors: [{ ...pixels, name: 'other' }] })))
    expect(answer).toMatchObject({
      receipt: { status: 1, cumulative: 0n },
      detail: { price: 0n, output: new Uint8Array(32) },
    })
    const { error } = decodeBody('outputs', await of.envelope.open(1n, direction.answer, answer.body))
    expect(error).toContain('"other" is not one of the tensors')
    expect(answered(await service.handle(await ask(of, 2n, { cumulative: 10n }))).receipt.cumulative).toBe(10n)
  })

  test('behavior: a journal that cannot be written loses the job, not the money, and the next job works', async () => {
    const real = openJournal(join(folder, 'full.sqlite'))
    let full = true
    const journal: Journal = {
      ...real,
      async commit(entries, channels) {
        if (full) throw new JournalError('disk full')
        await real.commit(entries, channels)
      },
    }
    let clock = Date.now()
    const { service } = open({ journal, now: () => clock })
    const of = await channel()
    expect(refused(await service.handle(await ask(of, 1n)))).toBe('job_lost')
    full = false
    expect(refused(await service.handle(await ask(of, 2n, { cumulative: 10n })))).toBe('at_capacity')
    clock += 2_000
    expect(answered(await service.handle(await ask(of, 2n, { cumulative: 10n }))).receipt.cumulative).toBe(10n)
  })

  test('behavior: a journal reopened holds the receipt, its proof and the voucher', async () => {
    const path = join(folder, 'reopened.sqlite')
    const { service, journal } = open({ journal: openJournal(path) })
    const of = await channel()
    const answer = answered(await service.handle(await ask(of, 1n)))
    journal.close()
    const again = openJournal(path)
    expect(again.find(of.id, 1n)).toMatchObject({
      receipt: { job: 1n, cumulative: 10n },
      answer: answer.body,
      signature: answer.signature,
    })
    expect(again.channel(of.id)?.voucher?.cumulative).toBe(10n)
    expect(again.runners()).toEqual([signer.address])
    again.close()
  })

  test('behavior: an executor killed in the middle of a run costs another run, not the answer', async () => {
    let kill = true
    const model = served()
    const { service } = open({
      model: {
        ...model,
        run: (feeds, deadlineMs) => {
          const running = model.run(feeds, deadlineMs)
          if (kill) process.kill(executor.pid()!, 'SIGKILL')
          return running
        },
      },
    })
    const of = await channel()
    expect(answered(await service.handle(await ask(of, 1n))).receipt).toMatchObject({ status: 0, cumulative: 10n })
    kill = false
    expect(answered(await service.handle(await ask(of, 2n, { cumulative: 20n }))).receipt).toMatchObject({
      status: 0,
      cumulative: 20n,
    })
  })

  test('behavior: a run past its deadline is killed, proven and free', async () => {
    const big = writeMlp('big', randomMlp([64, 4_096, 4_096, 4_096, 10]))
    const bigDigest = toHex(new Uint8Array(32).fill(9))
    await executor.load({ digest: bigDigest, graph: big, external: [] })
    const many: Tensor = { name: 'pixels', datatype: 'FP32', shape: [4_000, 64], data: new Uint8Array(4_000 * 256) }
    await expect(executor.run(bigDigest, [many], 20)).rejects.toMatchObject({ name: 'RunDeadlineError' })
    expect(await executor.run(digest, [pixels], 20_000)).toHaveLength(1)
  })

  test('behavior: the longest deadline a frame can carry kills nothing', async () => {
    const before = executor.pid()
    expect(await executor.run(digest, [pixels], 0xffff_ffff)).toHaveLength(1)
    expect(executor.pid()).toBe(before)
  })

  test("behavior: one job's deadline costs another job time, not its answer", async () => {
    const big = writeMlp('big', randomMlp([64, 4_096, 4_096, 4_096, 10]))
    const bigDigest = toHex(new Uint8Array(32).fill(8))
    await executor.load({ digest: bigDigest, graph: big, external: [] })
    const many: Tensor = { name: 'pixels', datatype: 'FP32', shape: [4_000, 64], data: new Uint8Array(4_000 * 256) }
    const late = expect(executor.run(bigDigest, [many], 20)).rejects.toMatchObject({ name: 'RunDeadlineError' })
    expect(await executor.run(digest, [pixels], 20_000)).toHaveLength(1)
    await late
  })

  test('behavior: a job whose deadline passed in the queue is told so and never run', async () => {
    let runs = 0
    const run: ServedModel['run'] = async (feeds, deadlineMs) => {
      runs++
      return executor.run(digest, feeds, deadlineMs)
    }
    const { service } = open({ model: { ...served(), run } })
    const of = await channel()
    const { receipt, detail } = answered(await service.handle(await ask(of, 1n, { deadlineMs: 0 })))
    expect([receipt.status, receipt.cumulative, detail.price, runs]).toEqual([3, 0n, 0n, 0])
  })

  /** A model whose runs are held until they are let go; counts the rows that ran. */
  function held() {
    const gates: (() => void)[] = []
    const ran = { rows: 0 }
    const run: ServedModel['run'] = async (feeds, deadlineMs) => {
      await new Promise<void>((resolve) => gates.push(resolve))
      ran.rows += feeds[0]!.shape[0]!
      return executor.run(digest, feeds, deadlineMs)
    }
    const begun = async (runs: number) => {
      while (gates.length < runs) await new Promise((resolve) => setImmediate(resolve))
    }
    return { model: { ...served(), run }, gates, ran, begun }
  }

  test('behavior: a job cancelled in the queue is never run and costs nothing', async () => {
    const { model, gates, ran, begun } = held()
    const { service, journal } = open({ model })
    const of = await channel()
    const first = service.handle(await ask(of, 1n))
    await begun(1)
    const second = service.handle(await ask(of, 2n))
    expect(service.inFlight).toBe(2)
    service.cancel({ channel: of.id, job: 2n })
    expect(refused(await second)).toBe('cancelled')
    expect(service.inFlight).toBe(1)
    gates[0]!()
    answered(await first)
    // What was held for it is free: a voucher for two jobs covers another.
    const third = service.handle(await ask(of, 3n, { cumulative: 20n }))
    await begun(2)
    gates[1]!()
    expect(answered(await third).receipt.cumulative).toBe(20n)
    expect([ran.rows, journal.count(of.id)]).toEqual([2, 2])
  })

  test('behavior: a job cancelled while it runs gets no receipt; asked for again it is run again and charged once', async () => {
    const { model, gates, ran, begun } = held()
    const { service, journal } = open({ model })
    const of = await channel()
    const request = await ask(of, 1n)
    const [first, copy] = [service.handle(request), service.handle(request)]
    await begun(1)
    service.cancel({ channel: of.id, job: 1n })
    expect([refused(await first), refused(await copy)]).toEqual(['cancelled', 'cancelled'])
    const again = service.handle(request)
    gates[0]!()
    await begun(2)
    gates[1]!()
    expect(answered(await again).receipt.cumulative).toBe(10n)
    expect([ran.rows, journal.count(of.id)]).toEqual([2, 1])
  })

  test('attack: cancelling what has a receipt, or what nobody knows, changes nothing', async () => {
    const { service, journal } = open()
    const of = await channel()
    const request = await ask(of, 1n)
    const { signature } = answered(await service.handle(request))
    service.cancel({ channel: of.id, job: 1n })
    service.cancel({ channel: of.id, job: 2n })
    service.cancel({ channel: new Uint8Array(32), job: 1n })
    expect(answered(await service.handle(request)).signature).toEqual(signature)
    expect([journal.count(of.id), service.inFlight]).toEqual([1, 0])
  })

  test('property: whenever a cancellation comes, a job has one outcome, and what is charged is what was answered', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(12), { minLength: 1, maxLength: 12 }), async (turns) => {
        const { service, journal } = open()
        const of = await channel()
        const total = 10n * BigInt(turns.length)
        const requests = await Promise.all(turns.map((_, at) => ask(of, BigInt(at + 1), { cumulative: total })))
        const results: (JobAnswer | JobRefusal)[] = []
        const ended = Promise.all(
          requests.map(async (request, at) => {
            const handled = service.handle(request).then((result) => void results.push(result))
            for (let left = turns[at]!; left > 0; left--) await new Promise((resolve) => setImmediate(resolve))
            service.cancel({ channel: of.id, job: request.job })
            await handled
          }),
        )
        await ended
        await service.drain()
        const good = results.filter((result) => !('reason' in result)).length
        const cancelled = results.filter((result) => 'reason' in result && result.reason === 'cancelled').length
        expect(good + cancelled).toBe(turns.length)
        expect(journal.count(of.id)).toBe(good)
        expect(journal.latest(of.id)?.receipt.cumulative ?? 0n).toBe(10n * BigInt(good))
        expect(service.inFlight).toBe(0)
      }),
      { numRuns: 25 },
    )
  }, 20_000)

  test('behavior: rows that share a run have the bits they have alone, and a trial found so', async () => {
    const trial = await probeModel(
      { manifest, loadable: { digest, graph, external: [] } },
      { threads: 1, maxBatch: 16 },
    )
    expect([trial.class, trial.batch, trial.findings]).toEqual(['exact', 'free', []])
    const { service } = open({ model: { ...served(), batchSizes: trial.batchSizes } })
    const of = await channel()
    const requests = await Promise.all(
      Array.from({ length: 16 }, (_, index) =>
        ask(of, BigInt(index + 1), {
          cumulative: 160n,
          tensors: [{ ...pixels, data: pixels.data.map((byte, at) => (at % 4 === 0 ? byte ^ index : byte)) }],
        }),
      ),
    )
    const answers = (await Promise.all(requests.map((request) => service.handle(request)))).map(answered)
    expect(Math.max(...answers.map(({ proof }) => proof.count))).toBeGreaterThan(1)
    for (const [index, answer] of answers.entries()) {
      const { tensors } = decodeBody(
        'outputs',
        await of.envelope.open(BigInt(index + 1), direction.answer, answer.body),
      )
      const data = pixels.data.map((byte, at) => (at % 4 === 0 ? byte ^ index : byte))
      const [alone] = await executor.run(digest, [{ ...pixels, data }], 20_000)
      expect(toHex(tensors[0]!.data)).toBe(toHex(alone!.data))
    }
  })

  test('refusal: bytes that are no model, and the executor lives on', async () => {
    await expect(
      executor.load({ digest: toHex(new Uint8Array(32)), graph: graph.slice(0, 500), external: [] }),
    ).rejects.toMatchObject({ name: 'ModelError' })
    expect(await executor.run(digest, [pixels], 20_000)).toHaveLength(1)
  })

  test('behavior: the native and the portable signer write the same bytes', async () => {
    const secret = fromHex(developmentKey('runner'), 32)
    const portable = createRunnerSigner(secret, null)
    for (let i = 0; i < 20; i++) {
      const message = fromHex(developmentKey(`message ${i}`), 32)
      expect(await portable.sign(message)).toEqual(await signer.sign(message))
    }
    expect(portable.address).toBe(signer.address)
    expect(concat(portable.publicKey)).toEqual(concat(signer.publicKey))
  })
})
