import type { Row } from './main.ts'
import { type Asked, startAsked } from './serve/asker.ts'
import type { ModelName } from './serve/model.ts'

const rounds = 5
const inFlight = 64

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Measures contenders round by round, back to back and in turning order, so that a noisy neighbour meets all of them; gives rates and, for each, the median of its ratios to the last. */
async function compare(contenders: Asked[], jobs: number): Promise<{ rates: number[]; ratios: number[] }> {
  const rates: number[][] = contenders.map(() => [])
  for (let round = -1; round < rounds; round++) {
    for (let step = 0; step < contenders.length; step++) {
      const at = (step + round + contenders.length) % contenders.length
      const rate = jobs / (await contenders[at]!.ask(jobs, inFlight))
      if (round >= 0) rates[at]!.push(rate)
    }
  }
  const last = rates.at(-1)!
  return {
    rates: rates.map(median),
    ratios: rates.map((own) => median(own.map((rate, round) => rate / last[round]!))),
  }
}

async function throughput(model: ModelName, jobs: number, bars: { full: number }): Promise<Row[]> {
  const full = await startAsked('full', model)
  const bare = await startAsked('bare', model)
  try {
    const { rates, ratios } = await compare([full, bare], jobs)
    return [
      {
        figure: `signed, sealed and journalled / the same server with all off, ${model} model, ${inFlight} in flight (at least)`,
        value: rates[0]!,
        unit: 'requests/s',
        baseline: rates[1]!,
        ratio: ratios[0]!,
        bar: bars.full,
        met: ratios[0]! >= bars.full,
      },
    ]
  } finally {
    await full.stop()
    await bare.stop()
  }
}

/** Measures what it costs a runner to be verifiable: the same link, batcher and executor with and without vouchers, seals, receipts and a journal. */
export async function run(): Promise<Row[]> {
  return [
    ...(await throughput('small', 2_000, { full: 0.75 })),
    ...(await throughput('millisecond', 500, { full: 0.99 })),
  ]
}
