import { openContracts, signerOf } from '../test/contracts/setup.ts'
import { run as attestation } from './gasAttestation.ts'
import type { Row } from './main.ts'

/** Measures what the chain charges: whole transactions on anvil under the Osaka rules, so the figures are deterministic. */
export async function run(): Promise<Row[]> {
  const it = await openContracts()
  try {
    const rows: Row[] = []
    const add = (figure: string, gas: bigint, per: number, baseline: number | null, bar: number | null) => {
      const value = Number(gas) / per
      rows.push({
        figure,
        value,
        unit: 'gas',
        baseline,
        ratio: baseline === null ? null : value / baseline,
        bar,
        met: bar === null ? null : value <= bar,
      })
    }
    const runner = signerOf('runner')
    await it.registerPck()
    await it.register(runner)
    rows.push(...(await attestation()))
    await it.fund('buyer', 10n ** 12n)

    // Reference figures published elsewhere and not measured here: a payment by x402's exact scheme, a payer at the nearest peer, a registration of the heaviest peer.
    const exact = 64_322
    const nearestPeer = 49_302
    const claims = async (count: number, cumulative: bigint) =>
      Promise.all(
        Array.from({ length: count }, async () =>
          it.claim(await it.terms(runner), { cumulative, voucher: cumulative }),
        ),
      )
    const first = await it.settle(runner, await claims(1, 100n))
    add('settle 1 channel, first ever', first.gasUsed, 1, exact, null)
    const again = await it.terms(runner)
    await it.settle(runner, [await it.claim(again, { cumulative: 100n, voucher: 100n })])
    const second = await it.settle(runner, [await it.claim(again, { cumulative: 100_000n, voucher: 100_000n })])
    add('settle 1 channel again', second.gasUsed, 1, exact, 60_000)
    add('settle 1 channel again, per payment at 1,000 payments', second.gasUsed, 1_000, exact, null)
    for (const [count, bar] of [
      [10, null],
      [100, 20_000],
      [200, null],
    ] as const) {
      const terms = await Promise.all(Array.from({ length: count }, () => it.terms(runner)))
      await it.settle(
        runner,
        await Promise.all(terms.map((each) => it.claim(each, { cumulative: 100n, voucher: 100n }))),
      )
      const repeated = await it.settle(
        runner,
        await Promise.all(terms.map((each) => it.claim(each, { cumulative: 100_000n, voucher: 100_000n }))),
      )
      add(`settle ${count} channels again, per channel`, repeated.gasUsed, count, nearestPeer, bar)
      if (count === 100)
        add('settle 100 channels again, per payment at 1,000 payments each', repeated.gasUsed, count * 1_000, exact, 20)
    }
    return rows
  } finally {
    await it.chain.stop()
  }
}
