import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { encodeJobRequest } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { type KeptClaimJson, readKeptClaim } from '../../protocol/keptClaim.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { domain, keyOf, model, openEdge, type TestEdge, until } from './edgeSetup.ts'
import { honest, openRunner } from './fakeRunner.ts'

let edge: TestEdge
beforeAll(async () => {
  edge = await openEdge({ CLAIMS_AFTER_SECONDS: '0' })
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

const buyer = keyOf('buyer')
let salts = 0

/** Registers and connects a runner of its own for one test, and gives ways to buy from it. */
async function connect(name: string) {
  const by = keyOf(name)
  const runner = by.address
  await edge.addRunner(runner)
  const handle = honest(by, domain)
  const open = () =>
    openRunner({ url: edge.url, domain, runner, by, hello: { models: [model], capacity: 1_000 }, handle })
  const termsOf = (change: Partial<Terms> = {}): Terms => ({
    buyer: buyer.address,
    runner,
    model,
    publisher: keyOf('publisher').address,
    price: 5n,
    royaltyBps: 1_000,
    feeBps: 100,
    expiresAt: BigInt(Math.floor(Date.now() / 1000) + 3_600),
    salt: toHex(sha256(utf8(`salt ${salts++}`))),
    ...change,
  })
  const voucher = async (terms: Terms, cumulative: bigint, signer: Signer = buyer) => ({
    cumulative,
    signature: await signer.sign(voucherDigest(domain, { channel: channelOf(domain, terms), cumulative })),
  })
  const post = async (
    terms: Terms,
    job: bigint,
    { opening = true, vouch }: { opening?: boolean; vouch?: { cumulative: bigint; signature: Uint8Array } } = {},
  ) => {
    const frame = encodeJobRequest({
      ticket: 0,
      channel: fromHex(channelOf(domain, terms), 32),
      job,
      context: new Uint8Array(8),
      deadlineMs: 5_000,
      ...(opening ? { opening: { terms, enc: new Uint8Array(32) } } : {}),
      ...(vouch ? { voucher: vouch } : {}),
      body: utf8(`job ${job}`),
    })
    const response = await fetch(`${edge.url}/v1/runners/${runner}/jobs`, { method: 'POST', body: frame })
    return response.ok ? 'answered' : ((await response.json()) as { code: string }).code
  }
  const claims = async (query = '') => {
    const response = await fetch(`${edge.url}/v1/runners/${runner}/claims${query}`)
    return (await response.json()) as { claims: KeptClaimJson[]; nextCursor: string | null; code?: string }
  }
  return { runner, open, fake: await open(), termsOf, voucher, post, claims }
}

describe('what the edge keeps of channels', () => {
  test('behavior: terms, best receipt and best voucher of each channel, provable by whoever reads them', async () => {
    const { runner, termsOf, voucher, post, claims, fake } = await connect('kept')
    const terms = termsOf()
    expect(await post(terms, 1n, { vouch: await voucher(terms, 20n) })).toBe('answered')
    expect(await post(terms, 3n, { opening: false, vouch: await voucher(terms, 40n) })).toBe('answered')
    expect(await post(terms, 2n, { opening: false })).toBe('answered')
    const other = termsOf()
    expect(await post(other, 1n, { vouch: await voucher(other, 5n) })).toBe('answered')
    const all = await until(async () => {
      const { claims: list } = await claims()
      return list.length === 2 && list.some(({ receipt }) => receipt.cumulative === '15') ? list : null
    })
    const read = all.map((json) => readKeptClaim(domain, runner, json))
    const kept = read.find(({ channel }) => channel === channelOf(domain, terms))!
    expect(kept.terms).toEqual(terms)
    expect(kept.receipt.cumulative).toBe(15n)
    expect(kept.vouchers.map(({ cumulative }) => cumulative)).toEqual([40n])
    await fake.close()
  })

  test('behavior: page by page, by name', async () => {
    const { termsOf, voucher, post, claims, fake } = await connect('paged')
    const channels: Hex[] = []
    for (let at = 0; at < 5; at++) {
      const terms = termsOf()
      channels.push(channelOf(domain, terms))
      await post(terms, 1n, { vouch: await voucher(terms, 5n) })
    }
    await until(async () => (await claims()).claims.length === 5)
    const seen: Hex[] = []
    let cursor: string | null = ''
    while (cursor !== null) {
      const page = await claims(`?limit=2${cursor && `&cursor=${cursor}`}`)
      expect(page.claims.length).toBeLessThanOrEqual(2)
      seen.push(...page.claims.map(({ channel }) => channel))
      cursor = page.nextCursor
    }
    expect(seen).toEqual(channels.sort())
    expect((await claims('?cursor=17')).code).toBe('invalid_request')
    await fake.close()
  })

  test("refusal: a voucher that is not the buyer's never displaces one that is; what only the chain can judge stays beside it", async () => {
    const { runner, termsOf, voucher, post, claims, fake } = await connect('doubted')
    const terms = termsOf()
    await post(terms, 1n, { vouch: await voucher(terms, 20n) })
    await until(async () => (await claims()).claims[0]?.vouchers.length === 1)
    await post(terms, 2n, { vouch: await voucher(terms, 30n, keyOf('stranger')) })
    await post(terms, 3n, { vouch: { cumulative: 29n, signature: new Uint8Array(700) } })
    const [json] = await until(async () => {
      const { claims: list } = await claims()
      return list[0]?.receipt.cumulative === '15' && list[0].vouchers.length === 2 ? list : null
    })
    expect(readKeptClaim(domain, runner, json!).vouchers.map(({ cumulative }) => cumulative)).toEqual([30n, 20n])
    await fake.close()
  })

  test('behavior: a restarted edge still has them, and a runner that leaves has them written at once', async () => {
    const { runner, termsOf, voucher, post, claims, fake, open } = await connect('gone')
    const terms = termsOf()
    await post(terms, 1n, { vouch: await voucher(terms, 20n) })
    await fake.close()
    await until(async () => (await claims()).claims.length === 1)
    await edge.restart()
    const { claims: kept } = await claims()
    expect(readKeptClaim(domain, runner, kept[0]!)).toMatchObject({ receipt: { cumulative: 5n } })
    const again = await open()
    await post(terms, 4n, { opening: false, vouch: await voucher(terms, 25n) })
    await until(async () => (await claims()).claims[0]?.receipt.cumulative === '20')
    await again.close()
  }, 30_000)

  test('behavior: a channel nothing can be claimed of any more is forgotten; a runner nobody knows has none', async () => {
    const { termsOf, voucher, post, claims, fake } = await connect('late')
    const old = termsOf({ expiresAt: BigInt(Math.floor(Date.now() / 1000) - 86_401) })
    const fresh = termsOf()
    await post(old, 1n, { vouch: await voucher(old, 20n) })
    await post(fresh, 1n, { vouch: await voucher(fresh, 20n) })
    const { claims: list } = await until(async () => {
      const page = await claims()
      return page.claims.length > 0 ? page : null
    })
    expect(list.map(({ channel }) => channel)).toEqual([channelOf(domain, fresh)])
    const nobody = await fetch(`${edge.url}/v1/runners/${keyOf('nobody').address}/claims`)
    expect(await nobody.json()).toEqual({ claims: [], nextCursor: null })
    await fake.close()
  })
})

describe('while a runner works', () => {
  test('refusal: its claims, and so the vouchers that others could use, are given to nobody', async () => {
    const reserved = await openEdge({ CLAIMS_AFTER_SECONDS: '6' })
    try {
      const by = keyOf('working')
      await reserved.addRunner(by.address)
      const ask = async () => (await fetch(`${reserved.url}/v1/runners/${by.address}/claims`)).status
      const connect = () =>
        openRunner({ url: reserved.url, domain, runner: by.address, by, hello: { models: [model], capacity: 10 } })
      const fake = await connect()
      expect(await ask()).toBe(409)
      await fake.close()
      expect(await ask()).toBe(409)
      const again = await connect()
      await reserved.restart()
      await again.closed
      expect(await ask()).toBe(409)
      await until(async () => (await ask()) === 200)
    } finally {
      await reserved.dispose()
    }
  }, 30_000)
})

describe('readKeptClaim', () => {
  test('refusal: any part changed', async () => {
    const { runner, termsOf, voucher, post, claims, fake } = await connect('changed')
    const terms = termsOf()
    await post(terms, 1n, { vouch: await voucher(terms, 20n) })
    const [good] = await until(async () => {
      const { claims: list } = await claims()
      return list.length > 0 ? list : null
    })
    await fake.close()
    const json = good!
    expect(readKeptClaim(domain, runner, json).terms).toEqual(terms)
    const wrong: [string, KeptClaimJson][] = [
      ['digest', { ...json, terms: { ...json.terms, price: '6' } }],
      ['digest', { ...json, channel: `0x${'00'.repeat(32)}` }],
      ['batch', { ...json, receipt: { ...json.receipt, cumulative: '500' } }],
      ['batch', { ...json, proof: { index: 0, count: 2, path: [`0x${'00'.repeat(32)}`] } }],
      ['cannot be read', { ...json, terms: null as never }],
      ['cannot be read', { ...json, receipt: { ...json.receipt, job: 'x' } }],
    ]
    for (const [why, each] of wrong) expect(() => readKeptClaim(domain, runner, each)).toThrow(why)
    expect(() => readKeptClaim(domain, keyOf('other').address, json)).toThrow('terms are for')
  })
})
