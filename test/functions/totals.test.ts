import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JournalTotal } from '../../gpu-runner/journal.ts'
import { postTotals } from '../../gpu-runner/totals.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import type { Terms } from '../../protocol/terms.ts'
import { type ChannelTotal, totalsDigest } from '../../protocol/totals.ts'
import { domain, keyOf, model, openEdge, type TestEdge } from './edgeSetup.ts'

let edge: TestEdge
const runner = keyOf('runner of totals')
beforeAll(async () => {
  edge = await openEdge()
  await edge.addRunner(runner.address)
}, 60_000)
afterAll(() => edge.dispose(), 30_000)

const now = () => Math.floor(Date.now() / 1000)
const channelOf = (number: number): Hex => `0x${number.toString(16).padStart(64, '0')}`
const send = async (signer: Hex, body: unknown) => {
  const response = await fetch(`${edge.url}/v1/runners/${signer}/totals`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return { status: response.status, ...((await response.json()) as { code?: string; channels?: number }) }
}
const signed = async (
  totals: ChannelTotal[],
  { at = now(), by = runner, runner: of = runner.address }: { at?: number; by?: Signer; runner?: Hex } = {},
) => ({
  at: String(at),
  totals: totals.map((each) => ({ ...each, cumulative: String(each.cumulative), vouched: String(each.vouched) })),
  signature: toHex(await by.sign(totalsDigest(domain, { runner: of, at: BigInt(at), totals }))),
})
const kept = () =>
  edge.sql<{ channel: Hex; cumulative: string; vouched: string; at: string }>(
    'SELECT channel, cumulative, vouched, at FROM journal_totals WHERE runner = $1 ORDER BY channel',
    [runner.address],
  )

describe('totals of a journal', () => {
  test('behavior: kept as the runner signed them; older ones never replace newer', async () => {
    const at = now()
    const total = { channel: channelOf(1), cumulative: 2n ** 100n, vouched: 7n }
    expect(await send(runner.address, await signed([total], { at }))).toMatchObject({ status: 200, channels: 1 })
    expect(await send(runner.address, await signed([{ ...total, vouched: 6n }], { at: at - 5 }))).toMatchObject({
      status: 200,
    })
    expect(await kept()).toEqual([
      { channel: total.channel, cumulative: String(2n ** 100n), vouched: '7', at: String(at) },
    ])
    await send(runner.address, await signed([{ ...total, vouched: 8n }], { at: at + 5 }))
    expect((await kept())[0]).toMatchObject({ vouched: '8' })
  })

  test('refusal: another key, another runner, a changed amount, an old time, a runner nobody registered', async () => {
    const totals = [{ channel: channelOf(2), cumulative: 5n, vouched: 5n }]
    const good = await signed(totals)
    const stranger = keyOf('stranger')
    const bad = [
      await signed(totals, { by: stranger }),
      await signed(totals, { runner: stranger.address }),
      { ...good, totals: [{ ...good.totals[0], cumulative: '6' }] },
      await signed(totals, { at: now() - 301 }),
      await signed(totals, { at: now() + 310 }),
    ]
    for (const each of bad)
      expect(await send(runner.address, each)).toMatchObject({ status: 401, code: 'unauthorized' })
    const own = await signed(totals, { by: stranger, runner: stranger.address })
    expect(await send(stranger.address, own)).toMatchObject({ status: 401 })
    expect((await kept()).map(({ channel }) => channel)).not.toContain(channelOf(2))
  })

  test('refusal: malformed bodies', async () => {
    const good = await signed([{ channel: channelOf(3), cumulative: 5n, vouched: 5n }])
    for (const each of [
      {},
      { ...good, totals: [] },
      { ...good, totals: [{ ...good.totals[0], cumulative: '-1' }] },
      { ...good, at: 'now' },
      { ...good, totals: Array.from({ length: 1_001 }, () => good.totals[0]) },
    ])
      expect(await send(runner.address, each)).toMatchObject({ status: 400, code: 'invalid_request' })
  })

  test('behavior: a runner tells its own channels that can still be claimed, a thousand at a time', async () => {
    const at = now()
    const termsOf = (change: Partial<Terms> = {}): Terms => ({
      buyer: keyOf('buyer').address,
      runner: runner.address,
      model,
      publisher: keyOf('publisher').address,
      price: 1n,
      royaltyBps: 0,
      feeBps: 0,
      expiresAt: BigInt(at),
      salt: channelOf(0),
      ...change,
    })
    const total = (number: number, change: Partial<Terms> = {}): JournalTotal => ({
      channel: fromHex(channelOf(number), 32),
      terms: termsOf(change),
      cumulative: BigInt(number),
      vouched: 5_000n,
    })
    const journal = {
      totals: () => [
        ...Array.from({ length: 1_500 }, (_, index) => total(10_000 + index)),
        total(20_000, { runner: keyOf('predecessor').address }),
        total(20_001, { expiresAt: BigInt(at - 86_401) }),
      ],
    }
    const posted: number[] = []
    const post = async (body: object) => {
      const { status, channels } = await send(runner.address, body)
      expect(status).toBe(200)
      posted.push(channels!)
    }
    expect(await postTotals({ journal, signer: runner, domain, now: at, post })).toBe(1_500)
    expect(posted).toEqual([1_000, 500])
    const rows = await kept()
    expect(rows.filter(({ channel }) => channel >= channelOf(10_000))).toHaveLength(1_500)
    expect(rows.find(({ channel }) => channel === channelOf(10_007))).toMatchObject({ cumulative: '10007' })
  })
})
