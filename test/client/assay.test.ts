import { describe, expect, test } from 'vitest'
import { EquivocationError } from '../../client/errors.ts'
import { batchDigest } from '../../protocol/batch.ts'
import { type Bundle, verifyBundle } from '../../protocol/bundle.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import { equivocationFromJson, judgeEquivocation } from '../../protocol/equivocation.ts'
import { defaultPolicy } from '../../protocol/evidence/index.ts'
import type { JobAnswer } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { detailDigest, receiptLeaf } from '../../protocol/receipt.ts'
import { recoverAddress, type Signer } from '../../protocol/secp256k1.ts'
import { channelOf } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { address, input, key, type Lies, problem, seconds, shownAs, world } from './world.ts'

describe('Assay.infer', () => {
  test('behavior: an honest answer is verified, opened, and kept in a bundle that verifies offline', async () => {
    const { buy, digest, roots, runner } = await world()
    const answer = await buy.infer(digest, [input])
    expect(new Float32Array(answer.outputs[0]!.data.slice().buffer)).toEqual(Float32Array.of(2, 4))
    expect(answer).toMatchObject({
      price: 10n,
      runner: runner.address,
      verdict: { verdict: 'verified', root: 'development' },
    })
    const bundle = JSON.parse(JSON.stringify(answer.bundle({ reveal: true }))) as Bundle
    expect((await verifyBundle(bundle, { roots, policy: defaultPolicy })).verdict).toBe('verified')
    const { checks } = await verifyBundle(answer.bundle(), { roots, policy: defaultPolicy })
    expect(checks.find(({ status }) => status === 'unknown')?.check).toBe('input and output')
  })

  /** A buyer whose wallet counts what it signs, and is done with it after as many turns as `turnsOf` says. */
  function countingBuyer(turnsOf = (_: number) => 0) {
    const own = key('buyer')
    const signed: Uint8Array[] = []
    const sign = async (digest: Uint8Array) => {
      const turns = turnsOf(signed.push(digest))
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
      return own.sign(digest)
    }
    return { signed, signer: { ...own, sign } }
  }

  test('behavior: jobs asked at once share one voucher, which covers all of them and nothing else', async () => {
    const buyer = countingBuyer()
    const { buy, digest, requests } = await world({ buyer: buyer.signer })
    await buy.infer(digest, [input])
    await Promise.all(Array.from({ length: 8 }, () => buy.infer(digest, [input])))
    expect(buyer.signed).toHaveLength(2)
    expect(requests.map(({ voucher }) => voucher!.cumulative)).toEqual([10n, ...Array(8).fill(90n)])
  })

  test('behavior: each job is covered by its voucher, however long a wallet takes over which', async () => {
    const buyer = countingBuyer((nth) => [0, 9, 1, 5, 0][nth % 5]!)
    const { buy, digest, requests, domain } = await world({ buyer: buyer.signer })
    const asked: Promise<unknown>[] = []
    for (let job = 0; job < 24; job++) {
      asked.push(buy.infer(digest, [input]))
      for (let turn = 0; turn < job % 4; turn++) await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all(asked)
    expect(requests).toHaveLength(24)
    for (const { job, channel, voucher } of requests) {
      expect(voucher!.cumulative).toBeGreaterThanOrEqual(job * 10n)
      expect(voucher!.cumulative).toBeLessThanOrEqual(240n)
      const signed = voucherDigest(domain, { channel: toHex(channel), cumulative: voucher!.cumulative })
      expect(recoverAddress(signed, voucher!.signature)).toBe(buy.buyer)
    }
  })

  test('behavior: a wallet that refuses once fails the jobs of that turn and no later one', async () => {
    const own = key('buyer')
    let refuse = false
    const sign = async (digest: Uint8Array) => {
      if (refuse) throw new Error('the wallet is locked')
      return own.sign(digest)
    }
    const { buy, digest } = await world({ buyer: { ...own, sign } })
    await buy.infer(digest, [input])
    refuse = true
    await expect(Promise.all([buy.infer(digest, [input]), buy.infer(digest, [input])])).rejects.toThrow('locked')
    refuse = false
    expect((await buy.infer(digest, [input])).price).toBe(10n)
  })

  const lies: [string, Lies, string][] = [
    [
      'an output changed in flight',
      { answer: (a) => ({ ...a, body: a.body.map((byte, index) => (index === 20 ? byte ^ 1 : byte)) }) },
      'answer_seal',
    ],
    [
      'an output other than the one committed to',
      { outputs: ([y]) => [{ ...y!, data: y!.data.slice().fill(0) }] },
      'receipt_output',
    ],
    ['an output the manifest does not know', { outputs: ([y]) => [{ ...y!, name: 'z' }] }, 'receipt_output'],
    ['an output shorter than its shape', { outputs: ([y]) => [{ ...y!, data: y!.data.slice(0, 4) }] }, 'answer_form'],
    ['the receipt of another job', { receipt: (a) => ({ ...a, receipt: { ...a.receipt, job: 99n } }) }, 'receipt_job'],
    [
      'the receipt of another channel',
      { receipt: (a) => ({ ...a, receipt: { ...a.receipt, channel: new Uint8Array(32) } }) },
      'receipt_channel',
    ],
    [
      'a receipt for another input',
      { receipt: (a) => relabel(a, { input: new Uint8Array(32).fill(1) }) },
      'receipt_input',
    ],
    ['a receipt at another price', { receipt: (a) => relabel(a, { price: 11n }) }, 'receipt_price'],
    [
      'a running total above what was asked',
      { receipt: (a) => ({ ...a, receipt: { ...a.receipt, cumulative: 11n } }) },
      'receipt_total',
    ],
    [
      'a receipt from the future',
      { receipt: (a) => ({ ...a, receipt: { ...a.receipt, finishedAt: BigInt(seconds + 3_000) } }) },
      'receipt_time',
    ],
    [
      'a detail swapped after signing',
      { answer: (a) => ({ ...a, detail: { ...a.detail, execution: new Uint8Array(32) } }) },
      'receipt_detail',
    ],
    [
      'a receipt changed after signing',
      { answer: (a) => ({ ...a, receipt: { ...a.receipt, finishedAt: a.receipt.finishedAt - 1n } }) },
      'batch_signature',
    ],
    ['a broken Merkle proof', { answer: (a) => ({ ...a, proof: { ...a.proof, path: [] } }) }, 'batch_proof'],
    ['a batch signed by another key', { signer: key('another runner') }, 'batch_signature'],
    ['a batch signed for another chain', { domain: (d) => ({ ...d, chainId: 1 }) }, 'batch_signature'],
    [
      'a batch signed for another escrow',
      { domain: (d) => ({ ...d, escrow: address('elsewhere') }) },
      'batch_signature',
    ],
    [
      'a listing at another price',
      { listing: ({ listing }) => ({ listing: { ...listing, price: '1' } }) },
      'listing_signature',
    ],
    [
      'a listing whose manifest was changed',
      { listing: ({ manifest }) => ({ manifest: { ...manifest, version: '2' } }) },
      'listing_digest',
    ],
    ['a match at another price', { match: ({ model }) => ({ model: { ...model, price: '11' } }) }, 'price_changed'],
    [
      'a match with another royalty',
      { match: ({ model }) => ({ model: { ...model, royaltyBps: 0 } }) },
      'price_changed',
    ],
    [
      'a match with another payout',
      { match: ({ model }) => ({ model: { ...model, payout: address('thief') } }) },
      'price_changed',
    ],
    ['a match with another fee', { match: () => ({ feeBps: 0 }) }, 'price_changed'],
    [
      'a match that names another sealing key',
      { match: ({ runner }) => ({ runner: { ...runner, hpkeKey: toHex(new Uint8Array(32).fill(9)) } }) },
      'hpke_key_mismatch',
    ],
    [
      'a quote that vouches for another signer',
      { statement: (s) => ({ ...s, signerKey: key('another runner').publicKey }) },
      'signer_mismatch',
    ],
    [
      'a statement for another registry',
      { statement: (s) => ({ ...s, registry: address('elsewhere') }) },
      'statement_mismatch',
    ],
    ['a statement for another chain', { statement: (s) => ({ ...s, chainId: 1n }) }, 'statement_mismatch'],
    ['an expired registration', { statement: (s) => ({ ...s, notAfter: BigInt(seconds - 1) }) }, 'statement_mismatch'],
    [
      'a quote with one bit flipped',
      { quote: (q) => q.map((byte, index) => (index === 400 ? byte ^ 1 : byte)) },
      'evidence_refuted',
    ],
    ['a machine in debug mode', { faults: ['debug'] }, 'evidence_refuted'],
    ['a machine whose key was revoked', { faults: ['revoked_leaf'] }, 'evidence_refuted'],
  ]
  test.each(lies)('refusal: %s', async (_, lie, reason) => {
    const { buy, digest } = await world(lie)
    await expect(buy.infer(digest, [input])).rejects.toMatchObject({ name: 'VerificationError', reason })
  })

  test('refusal: a development root nobody allowed; nothing is sealed or sent', async () => {
    const { strict, digest, requests } = await world()
    await expect(strict.infer(digest, [input])).rejects.toMatchObject({ reason: 'development_root' })
    expect(requests).toHaveLength(0)
  })

  test('refusal: wrong tensors and a price above the cap, before a runner is even looked for', async () => {
    const { buy, digest, paths } = await world()
    await expect(buy.infer(digest, [{ ...input, name: 'z' }])).rejects.toThrow('not one of the tensors')
    await expect(buy.infer(digest, [{ ...input, datatype: 'INT32' }])).rejects.toThrow('takes FP32')
    await expect(buy.infer(digest, [{ ...input, shape: [1, 2] }])).rejects.toThrow('takes shape')
    await expect(buy.infer(digest, [{ ...input, shape: [3] }])).rejects.toThrow('takes 12 bytes')
    await expect(buy.infer(digest, [])).rejects.toThrow('missing')
    await expect(buy.infer(digest, [input], { maxPrice: 9n })).rejects.toMatchObject({ reason: 'price_above_cap' })
    expect(paths).not.toContain('/v1/matches')
  })

  test.each(['throw' as const, problem('runner_unreachable', 503), problem('deadline', 504)])(
    'behavior: after a stumble the very same bytes go again under the same number',
    async (stumble) => {
      const { buy, digest, requests } = await world({
        respond: (attempt) =>
          attempt <= 2 ? (stumble instanceof Response ? (stumble.clone() as Response) : stumble) : undefined,
      })
      const answer = await buy.infer(digest, [input])
      expect(requests).toHaveLength(3)
      expect(new Set(requests.map(({ body }) => toHex(body))).size).toBe(1)
      expect(new Set(requests.map(({ job }) => job)).size).toBe(1)
      expect(answer.receipt.cumulative).toBe(10n)
    },
  )

  test('behavior: an answer cut off in its middle is asked for again', async () => {
    const { buy, digest, requests } = await world({
      respond: (attempt) =>
        attempt === 1
          ? new Response(
              new ReadableStream({
                pull(controller) {
                  controller.enqueue(new Uint8Array(10))
                  controller.error(new TypeError('terminated'))
                },
              }),
            )
          : undefined,
    })
    await buy.infer(digest, [input])
    expect(requests.map(({ job }) => job)).toEqual([1n, 1n])
  })

  test('behavior: a lost job is asked again on a new channel', async () => {
    const { buy, digest, requests } = await world({
      respond: (attempt) => (attempt === 1 ? problem('job_lost', 410) : undefined),
    })
    await buy.infer(digest, [input])
    expect(new Set(requests.map(({ channel }) => toHex(channel))).size).toBe(2)
  })

  test('attack: the edge answers a requirement with a machine that does not meet it, and with a channel opened for less', async () => {
    const { buy, digest, requests } = await world()
    await buy.infer(digest, [input])
    await expect(buy.infer(digest, [input], { requirements: { tee: 'snp' } })).rejects.toMatchObject({
      reason: 'requirements_unmet',
    })
    expect(requests).toHaveLength(1)
    await buy.infer(digest, [input], { requirements: { tee: 'tdx' } })
    expect(new Set(requests.map(({ channel }) => toHex(channel))).size).toBe(2)
  })

  describe('a stake that is required', () => {
    const requirements = { minStake: '500' }
    test('behavior: is read from the chain, for until the last receipt of the channel is beyond dispute', async () => {
      const asked: [Hex, bigint][] = []
      const coverOf = async (runner: Hex, until: bigint) => {
        asked.push([runner, until])
        return 500n
      }
      const { buy, digest, runner } = await world({ coverOf })
      const { terms } = await buy.infer(digest, [input], { requirements })
      expect(asked).toEqual([[runner.address, terms.expiresAt + 604_800n]])
    })
    test('attack: the edge names a runner whose stake is less, or could be gone; nothing is sealed', async () => {
      const { buy, digest, requests } = await world({ coverOf: async () => 499n })
      await expect(buy.infer(digest, [input], { requirements })).rejects.toMatchObject({
        reason: 'requirements_unmet',
        message: expect.stringContaining('vouches for 499'),
      })
      expect(requests).toHaveLength(0)
    })
    test('refusal: nobody can say, since no chain was given', async () => {
      const { buy, digest, requests } = await world()
      await expect(buy.infer(digest, [input], { requirements })).rejects.toMatchObject({
        reason: 'requirements_unmet',
        message: expect.stringContaining('coverOf'),
      })
      expect(requests).toHaveLength(0)
    })
  })

  describe('a runner that answers a job twice', () => {
    const twice = (a: JobAnswer): JobAnswer => ({ ...a, receipt: { ...a.receipt, job: 1n } })
    test('attack: the second answer is refused with the proof, which stands by itself', async () => {
      const { buy, digest, domain, runner } = await world({ receipt: twice })
      await buy.infer(digest, [input])
      const error = await buy.infer(digest, [input]).catch((error: unknown) => error)
      expect(error).toBeInstanceOf(EquivocationError)
      const { proof, reason, message } = error as EquivocationError
      expect([reason, message]).toEqual(['equivocation', expect.stringContaining('assay slash')])
      const written = JSON.parse(JSON.stringify(proof))
      expect(judgeEquivocation(domain, equivocationFromJson(written))).toMatchObject({
        proven: true,
        runner: runner.address,
        job: 1n,
        differs: ['cumulative', 'detail'],
      })
    })
    test('attack: the same, signed by another key, is a forgery and accuses nobody', async () => {
      const lies: Lies = { receipt: twice }
      const { buy, digest } = await world(lies)
      await buy.infer(digest, [input])
      lies.signer = key('stranger')
      await expect(buy.infer(digest, [input])).rejects.toMatchObject({ reason: 'receipt_job' })
    })
    test('behavior: the first answer given again is no second one', async () => {
      const lies: Lies = {}
      const { buy, digest } = await world(lies)
      let first: JobAnswer | undefined
      lies.answer = (a) => {
        first ??= a
        return first
      }
      await buy.infer(digest, [input])
      await expect(buy.infer(digest, [input])).rejects.toMatchObject({ reason: 'receipt_job' })
    })
    test('behavior: an audit finds what went to somebody else, and accuses nobody of what proves nothing', async () => {
      const lies: Lies = {}
      const { buy, digest, domain, runner } = await world(lies)
      await buy.infer(digest, [input])
      expect(await buy.audit()).toEqual([])
      const signedBy = async (signer: Signer, [given]: JobAnswer[]) => {
        const receipt = { ...given!.receipt, detail: sha256(new Uint8Array([7])) }
        const root = receiptLeaf(receipt)
        const signature = await signer.sign(batchDigest(domain, { root, count: 1 }))
        return { ...given!, receipt, signature, proof: { index: 0, count: 1, path: [] } }
      }
      let answers: JobAnswer[] = []
      lies.shown = (all) => {
        answers = all
        return []
      }
      await buy.audit()
      const [real, forged] = [await signedBy(runner, answers), await signedBy(key('stranger'), answers)]
      lies.shown = () => [{ receipt: 'nonsense' }, ...shownAs([forged, ...answers])]
      expect(await buy.audit()).toEqual([])
      lies.shown = () => shownAs([forged, real, ...answers])
      expect(await buy.audit()).toMatchObject([{ format: 'assay-equivocation-1', second: { receipt: { job: '1' } } }])
    })
  })

  test('behavior: a job that fails is proven to have failed and costs nothing', async () => {
    const { buy, digest } = await world({ fail: true })
    await expect(buy.infer(digest, [input])).rejects.toMatchObject({
      name: 'JobFailedError',
      status: 2,
      message: 'division by zero',
    })
  })

  test('behavior: a listing is read again after a minute, since a name and a price may move; its channel goes on', async () => {
    const { buy, digest, paths, requests, clock } = await world()
    const reads = () => paths.filter((path) => path === `/v1/models/${digest}`).length
    await buy.infer(digest, [input])
    await buy.infer(digest, [input])
    expect(reads()).toBe(1)
    clock.ms += 61_000
    await buy.infer(digest, [input])
    expect(reads()).toBe(2)
    expect(new Set(requests.map(({ channel }) => toHex(channel))).size).toBe(1)
  })

  test('behavior: parallel calls share a channel and never a job number', async () => {
    const { buy, digest, requests, domain } = await world()
    const answers = await Promise.all(Array.from({ length: 10 }, () => buy.infer(digest, [input])))
    expect(new Set(requests.map(({ channel }) => toHex(channel))).size).toBe(1)
    expect(new Set(answers.map(({ receipt }) => receipt.job)).size).toBe(10)
    expect(channelOf(domain, answers[0]!.terms)).toBe(toHex(answers[0]!.receipt.channel))
  })
})

describe('verifyBundle', () => {
  const spoils: [string, (bundle: Bundle) => void, string][] = [
    ['a raised price', (b) => Object.assign(b.detail, { price: '1' }), 'detail'],
    ['other terms', (b) => Object.assign(b.terms, { price: '1' }), 'channel'],
    ['another total', (b) => Object.assign(b.receipt, { cumulative: '99' }), 'signature'],
    ['another chain', (b) => Object.assign(b, { chainId: 1_337 }), 'channel'],
    [
      'another manifest',
      (b) => Object.assign(b.model, { manifest: { ...(b.model.manifest as object), version: '9' } }),
      'model',
    ],
    ['another listing', (b) => Object.assign(b.model.listing, { price: '1' }), 'listing'],
    ['another input', (b) => Object.assign(b.openings!.inputs[0]!, { data: toHex(new Uint8Array(8)) }), 'input'],
    ['another output', (b) => Object.assign(b.openings!.outputs[0]!, { data: toHex(new Uint8Array(8)) }), 'output'],
    ['another statement', (b) => Object.assign(b, { statement: `${b.statement.slice(0, -2)}00` }), 'statement'],
    [
      'a later verification than the evidence bears',
      (b) => Object.assign(b, { verifiedAt: seconds + 100 * 86_400 }),
      'evidence',
    ],
    ['another format', (b) => Object.assign(b, { format: 'other' }), 'form'],
  ]
  test.each(spoils)('refusal: %s', async (_, spoil, check) => {
    const { buy, digest, roots } = await world()
    const bundle = JSON.parse(JSON.stringify((await buy.infer(digest, [input])).bundle({ reveal: true }))) as Bundle
    spoil(bundle)
    const { verdict, checks } = await verifyBundle(bundle, { roots, policy: defaultPolicy })
    expect(verdict).toBe('refuted')
    expect(checks.filter(({ status }) => status === 'failed').map((each) => each.check)).toContain(check)
  })
})

/** Changes a detail and commits the receipt to it, as a lying runner would. */
function relabel(answer: JobAnswer, change: Partial<JobAnswer['detail']>): JobAnswer {
  const detail = { ...answer.detail, ...change }
  return { ...answer, detail, receipt: { ...answer.receipt, detail: detailDigest(detail) } }
}
