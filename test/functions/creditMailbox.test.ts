import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { escrowAbi } from '../../contracts/abi.ts'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { encodeJobRefusal, encodeJobRequest, type JobRequest } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'
import type { World } from '../faults/earnings.ts'
import { model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { type FakeRunner, honest, openRunner } from './fakeRunner.ts'

let it: World
let edge: TestEdge
beforeAll(async () => {
  it = await openContracts()
  edge = await openEdge({
    CREDIT_LEASES: 'yes',
    RPC_URL: it.chain.rpcUrl,
    ESCROW: it.contracts.escrow,
    TOKEN: it.contracts.token,
  })
}, 120_000)
afterAll(async () => {
  await edge?.dispose()
  await it?.chain.stop()
}, 30_000)

const price = 5n
const buyers = new Map<string, number>()
const signers = new Map<string, Signer>()

/** Makes a buyer with a deposit. */
async function fund(name: string, amount: bigint): Promise<Hex> {
  await it.fund(name, amount)
  const signer = signerOf(name)
  signers.set(signer.address, signer)
  return signer.address
}

/** Registers and connects a runner, and gives a way to buy from it; `handle` answers honestly unless told. */
async function connect(name: string, handle?: (by: Signer) => (requests: JobRequest[], fake: FakeRunner) => unknown) {
  const by = signerOf(name)
  const runner = by.address
  await edge.addRunner(runner)
  const answering = handle?.(by) ?? honest(by, it.domain)
  const open = () =>
    openRunner({
      url: edge.url,
      domain: it.domain,
      runner,
      by,
      hello: { models: [model], capacity: 1_000 },
      handle: answering,
    })
  const termsOf = (buyer: Hex): Terms => {
    const count = (buyers.get(buyer) ?? 0) + 1
    buyers.set(buyer, count)
    return {
      buyer,
      runner,
      model,
      publisher: signerOf('publisher').address,
      price,
      royaltyBps: 1_000,
      feeBps: 100,
      expiresAt: BigInt(Math.floor(Date.now() / 1000) + 3_600),
      salt: toHex(sha256(utf8(`${buyer} ${count}`))),
    }
  }
  const post = async (
    terms: Terms,
    job: bigint,
    { opening = true, deadlineMs = 5_000, by = signers.get(terms.buyer) ?? (null as Signer | null) } = {},
  ) => {
    const channel = channelOf(it.domain, terms)
    const cumulative = 1_000n * price
    const frame = encodeJobRequest({
      ticket: 0,
      channel: fromHex(channel, 32),
      job,
      context: new Uint8Array(8),
      deadlineMs,
      ...(opening ? { opening: { terms, enc: new Uint8Array(32) } } : {}),
      ...(by
        ? { voucher: { cumulative, signature: await by.sign(voucherDigest(it.domain, { channel, cumulative })) } }
        : {}),
      body: utf8(`job ${job}`),
    })
    const response = await fetch(`${edge.url}/v1/runners/${runner}/jobs`, { method: 'POST', body: frame })
    return response.ok ? 'answered' : ((await response.json()) as { code: string }).code
  }
  /** Buys one job after another until one is refused; gives how many were answered, and the refusal. */
  const drain = async (terms: Terms, most: number) => {
    for (let job = 1; job <= most; job++) {
      const code = await post(terms, BigInt(job))
      if (code !== 'answered') return { answered: job - 1, code }
    }
    return { answered: most, code: null }
  }
  return { fake: await open(), open, termsOf, post, drain, by, runner }
}

/** Shows a buyer's money as the edge does. */
async function moneyOf(buyer: Hex) {
  const response = await fetch(`${edge.url}/v1/accounts/${buyer}`)
  return (await response.json()) as {
    deposit: string
    available: string
    reserved: string
    reservedFor: { unsettled: string; leased: string }
  }
}

describe('credit, leased to mailboxes', () => {
  test('behavior: jobs are handed out for the deposit and not one more, over two runners together', async () => {
    const buyer = await fund('thrifty', 20n * price)
    const one = await connect('credit one')
    const two = await connect('credit two')
    const drained = await Promise.all([one.drain(one.termsOf(buyer), 30), two.drain(two.termsOf(buyer), 30)])
    const handed = one.fake.requests.length + two.fake.requests.length
    expect(handed).toBeLessThanOrEqual(20)
    expect(drained.map(({ code }) => code)).toEqual(['unfunded', 'unfunded'])
    expect(drained.reduce((sum, { answered }) => sum + answered, 0)).toBe(handed)
    expect(handed).toBeGreaterThanOrEqual(15)
    const { deposit, available, reserved, reservedFor } = await moneyOf(buyer)
    expect(deposit).toBe(String(20n * price))
    expect(BigInt(available) + BigInt(reserved)).toBe(20n * price)
    expect(BigInt(reservedFor.unsettled) + BigInt(reservedFor.leased)).toBe(BigInt(reserved))
    await Promise.all([one.fake.close(), two.fake.close()])
  })

  test('behavior: parallel jobs share what there is; each number of jobs is exact', async () => {
    const buyer = await fund('parallel', 10n * price)
    const { post, termsOf, fake } = await connect('credit parallel')
    const terms = termsOf(buyer)
    const codes = await Promise.all(Array.from({ length: 40 }, (_, index) => post(terms, BigInt(index + 1))))
    expect(codes.filter((code) => code === 'answered')).toHaveLength(10)
    expect(codes.filter((code) => code === 'unfunded')).toHaveLength(30)
    expect(fake.requests).toHaveLength(10)
    await fake.close()
  })

  test('behavior: a deposit is noticed within seconds, and an answered job may be asked again without credit', async () => {
    const buyer = await fund('topping up', 2n * price)
    const { drain, post, termsOf, fake } = await connect('credit topping')
    const terms = termsOf(buyer)
    expect(await drain(terms, 5)).toEqual({ answered: 2, code: 'unfunded' })
    expect(await post(terms, 1n)).toBe('answered')
    expect(fake.requests).toHaveLength(2)
    await it.fund('topping up', price)
    await until(async () => (await post(terms, 3n)) === 'answered')
    await fake.close()
  })

  test('behavior: what a runner refuses is free again; what it does not answer stays held, and its retry passes', async () => {
    const buyer = await fund('patient', price)
    let behaviour: 'refuse' | 'silent' | 'honest' = 'refuse'
    const { post, termsOf, fake } = await connect('credit moody', (by) => async (requests, fake) => {
      if (behaviour === 'honest') return honest(by, it.domain)(requests, fake)
      if (behaviour === 'refuse')
        fake.send(...requests.map(({ ticket }) => encodeJobRefusal({ ticket, reason: 'at_capacity', detail: '' })))
    })
    const terms = termsOf(buyer)
    expect(await post(terms, 1n)).toBe('at_capacity')
    expect(await post(terms, 2n)).toBe('at_capacity')
    behaviour = 'silent'
    expect(await post(terms, 3n, { deadlineMs: 300 })).toBe('deadline')
    expect(await post(terms, 4n)).toBe('unfunded')
    behaviour = 'honest'
    expect(await post(terms, 3n)).toBe('answered')
    await fake.close()
  })

  test('behavior: a settlement frees nothing and costs nothing: deposit and debt fall together', async () => {
    await it.registerPck()
    const buyer = await fund('settled', 4n * price)
    const { post, drain, termsOf, fake, by } = await connect('credit settled')
    await it.register(by)
    const terms = termsOf(buyer)
    expect(await drain(terms, 3)).toEqual({ answered: 3, code: null })
    const made = await it.claim(terms, {
      cumulative: 3n * price,
      voucher: 3n * price,
      voucherSigner: signerOf('settled'),
    })
    await it.settle(by, [made])
    expect(await it.read('settled', [channelOf(it.domain, terms)])).toBe(3n * price)
    expect(await post(terms, 4n)).toBe('answered')
    expect(await post(terms, 5n)).toBe('unfunded')
    await fake.close()
  })

  test('behavior: what was asked back is not handed out', async () => {
    const buyer = await fund('leaving', 4n * price)
    await it.send('leaving', {
      address: it.contracts.escrow,
      abi: escrowAbi,
      functionName: 'requestWithdrawal',
      args: [3n * price],
    })
    const { drain, termsOf, fake } = await connect('credit leaving')
    expect(await drain(termsOf(buyer), 4)).toEqual({ answered: 1, code: 'unfunded' })
    await fake.close()
  })

  test('refusal: a channel whose terms nobody told, terms of another channel, a buyer without a deposit', async () => {
    const { post, termsOf, fake } = await connect('credit strict')
    const terms = termsOf(await fund('strict', price))
    expect(await post(terms, 1n, { opening: false })).toBe('unknown_context')
    expect(await post({ ...terms, runner: signerOf('another').address }, 1n)).toBe('bad_terms')
    const poor = signerOf('poor')
    expect(await post(termsOf(poor.address), 1n, { by: poor })).toBe('unfunded')
    expect(fake.requests).toHaveLength(0)
    await fake.close()
  })

  test("refusal: nobody reserves another's deposit: without a voucher, or with one of a key the buyer never named", async () => {
    const buyer = await fund('victim', 2n * price)
    const { post, drain, termsOf, fake } = await connect('credit robbed')
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(await post(termsOf(buyer), 1n, { by: null })).toBe('insufficient_cover')
      expect(await post(termsOf(buyer), 1n, { by: signerOf('thief') })).toBe('bad_voucher')
    }
    expect(fake.requests).toHaveLength(0)
    expect(await moneyOf(buyer)).toMatchObject({ available: String(2n * price), reserved: '0' })
    expect(await drain(termsOf(buyer), 5)).toEqual({ answered: 2, code: 'unfunded' })
    await fake.close()
  })

  test('behavior: a key with a mandate opens channels until the mandate is revoked', async () => {
    const buyer = await fund('principal', 10n * price)
    const agent = signerOf('agent')
    const call = (functionName: string, args: readonly unknown[]) =>
      it.send('principal', { address: it.contracts.escrow, abi: escrowAbi, functionName, args })
    await call('authorize', [agent.address, 1_000n, 1_000n, (await it.now()) + 86_400n, true, []])
    const { post, termsOf, fake } = await connect('credit mandated')
    expect(await post(termsOf(buyer), 1n, { by: agent })).toBe('answered')
    await call('revoke', [agent.address])
    expect(await post(termsOf(buyer), 1n, { by: agent })).toBe('bad_voucher')
    await fake.close()
  })

  test('behavior: a job that costs nothing needs no credit', async () => {
    const { post, termsOf, fake } = await connect('credit free')
    const poor = signerOf('penniless')
    expect(await post({ ...termsOf(poor.address), price: 0n }, 1n, { by: poor })).toBe('answered')
    await fake.close()
  })

  test('behavior: a restarted edge counts on where it was written down, and never hands out more than the deposit', async () => {
    const buyer = await fund('restarted', 12n * price)
    const { post, termsOf, fake, open, drain } = await connect('credit restarted')
    const terms = termsOf(buyer)
    for (let job = 1n; job <= 4n; job++) expect(await post(terms, job)).toBe('answered')
    const handed = fake.requests.length
    // Long enough for the mailbox to write its purse down.
    await new Promise((resolve) => setTimeout(resolve, 4_000))
    await edge.restart()
    await fake.closed
    const again = await open()
    const other = termsOf(buyer)
    const { answered, code } = await drain(other, 20)
    expect(code).toBe('unfunded')
    expect(handed + answered).toBe(12)
    await again.close()
  }, 40_000)

  test('behavior: an edge killed amid jobs holds back what it did not hear the end of, and hands out no more than the deposit', async () => {
    const buyer = await fund('interrupted', 12n * price)
    const { post, termsOf, fake, open, drain } = await connect('credit interrupted')
    const terms = termsOf(buyer)
    for (let job = 1n; job <= 2n; job++) expect(await post(terms, job)).toBe('answered')
    const handed = fake.requests.length
    await edge.restart()
    await fake.closed
    const again = await open()
    const { answered, code } = await drain(termsOf(buyer), 20)
    expect(code).toBe('unfunded')
    expect(handed + answered).toBeLessThanOrEqual(12)
    const { deposit, reserved } = await moneyOf(buyer)
    expect(BigInt(reserved)).toBeGreaterThanOrEqual(BigInt(handed + answered) * price)
    expect(handed + answered).toBeGreaterThanOrEqual(8)
    expect(BigInt(reserved)).toBeLessThanOrEqual(BigInt(deposit))
    await again.close()
  }, 40_000)
})
