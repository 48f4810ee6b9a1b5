import { encodeFunctionData } from 'viem'
import { attestedInferenceAbi } from '../contracts/abi.ts'
import { fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import { detailDigest } from '../protocol/receipt.ts'
import { openContracts, signerOf } from '../test/contracts/setup.ts'
import { run as attestation } from './gasAttestation.ts'
import { run as deposits } from './gasDeposits.ts'
import { run as perJob } from './gasPerJob.ts'
import { run as stake } from './gasStake.ts'
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

    // Reference figures published elsewhere and not measured here: a payment by x402's exact scheme, and a payer at the nearest peer.
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
    const many = Array.from({ length: 100 }, (_, index) => `buyer ${index}`)
    for (const buyer of many) await it.fund(buyer, 10n ** 9n)
    const theirs = await Promise.all(many.map((buyer) => it.terms(runner, { buyer: signerOf(buyer).address })))
    const claimsOf = (cumulative: bigint) =>
      Promise.all(
        theirs.map((each, index) =>
          it.claim(each, { cumulative, voucher: cumulative, voucherSigner: signerOf(many[index]!) }),
        ),
      )
    await it.settle(runner, await claimsOf(100n))
    const apart = await it.settle(runner, await claimsOf(100_000n))
    add('settle 100 channels of 100 buyers again, per channel', apart.gasUsed, 100, nearestPeer, 20_000)
    add('settle 250 channels at once, whole transaction', await whole(it, runner, 250), 1, null, 16_777_216)
    add(
      'verify one receipt, above calldata and the base of a transaction',
      await verifyGas(it, runner),
      1,
      null,
      15_000,
    )
    rows.push(...(await perJob(it)), ...(await deposits(it)), ...(await stake(it, runner)))
    return rows
  } finally {
    await it.chain.stop()
  }
}

type Contracts = Awaited<ReturnType<typeof openContracts>>

async function whole(it: Contracts, runner: ReturnType<typeof signerOf>, count: number): Promise<bigint> {
  const claims = await Promise.all(
    Array.from({ length: count }, async () => it.claim(await it.terms(runner), { cumulative: 100n, voucher: 100n })),
  )
  return (await it.settle(runner, claims)).gasUsed
}

/** Measures what a contract pays to check one inference: the estimate of the call, less the base of a transaction and its calldata (16 gas a byte, 4 a zero). */
async function verifyGas(it: Contracts, runner: ReturnType<typeof signerOf>): Promise<bigint> {
  const bytes = (fill: number) => new Uint8Array(32).fill(fill)
  const detail = { input: bytes(1), output: bytes(2), execution: bytes(3), price: 100n }
  const made = await it.claim(await it.terms(runner), {
    cumulative: 100n,
    voucher: 100n,
    receipt: { detail: detailDigest(detail) },
  })
  const { signature } = await it.signBatch(runner, [made.leaf])
  const onChain = {
    ...detail,
    input: toHex(detail.input),
    output: toHex(detail.output),
    execution: toHex(detail.execution),
  }
  const proof = { index: 0, count: 1, path: [] as Hex[] }
  const data = encodeFunctionData({
    abi: attestedInferenceAbi,
    functionName: 'verify',
    args: [made.claim.terms, made.onChain, onChain, proof, signature],
  })
  const estimate = await it.publicClient.estimateGas({ to: it.contracts.attestedInference, data })
  const calldata = fromHex(data).reduce((sum, byte) => sum + (byte === 0 ? 4n : 16n), 0n)
  return estimate - 21_000n - calldata
}
