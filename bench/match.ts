import { Loads } from '../functions/match/loads.ts'
import type { Candidate, Requirements } from '../functions/match/requirements.ts'
import { Snapshot } from '../functions/match/snapshot.ts'
import { fractionsFrom } from '../test/fixtures/random.ts'
import type { Row } from './main.ts'

const runners = 100_000
const regions = ['eu-west', 'eu-north', 'us-east', 'us-west', 'ap-south']
const now = 1_800_000_000

const directory = (): Candidate[] =>
  Array.from({ length: runners }, (_, index) => ({
    signer: `0x${index.toString(16).padStart(40, '0')}`,
    provider: '0x',
    hpkeKey: '0x',
    evidenceDigest: '0x',
    validUntil: now + 3_600,
    verifiedAt: now - (index % 3_600),
    capacity: 1_000,
    tee: index % 3 === 0 ? 'snp' : 'tdx',
    tcbStatus: 'UpToDate',
    gpuAttested: index % 2 === 0,
    measurement: `0x${(index % 16).toString(16).padStart(64, '0')}`,
    region: regions[index % regions.length]!,
    stake: { amount: BigInt(index % 4) * 1_000n, exiting: 0n, withdrawableAt: 0n },
    slashed: false,
    warm: true,
  }))

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Times a choice, in nanoseconds: the median of seven rounds. */
function time(choose: () => unknown, count: number): number {
  const rounds: number[] = []
  for (let round = 0; round < 7; round++) {
    const started = process.hrtime.bigint()
    for (let i = 0; i < count; i++) choose()
    rounds.push(Number(process.hrtime.bigint() - started) / count)
  }
  return median(rounds)
}

/** Scans and compares every runner, as a directory without an index would. */
function scan(candidates: readonly Candidate[], load: Float64Array): number {
  let best = 0
  for (let index = 1; index < candidates.length; index++) {
    if (candidates[index]!.validUntil > now && load[index]! < load[best]!) best = index
  }
  return best
}

/** Throws `balls` jobs and gives how far the fullest runner is above the mean. */
function excess(balls: number, choose: () => number): number {
  const load = new Uint32Array(runners)
  for (let ball = 0; ball < balls; ball++) {
    const chosen = choose()
    load[chosen] = load[chosen]! + 1
  }
  let highest = 0
  for (const each of load) highest = Math.max(highest, each)
  return highest - balls / runners
}

const row = (figure: string, value: number, unit: string, baseline: number | null, bar: number | null): Row => {
  const ratio = baseline === null ? null : value / baseline
  return { figure, value, unit, baseline, ratio, bar, met: bar === null ? null : (ratio ?? value) <= bar }
}

/** Measures matching over 100,000 runners: the cost of a choice and how evenly it loads them. */
export async function run(): Promise<Row[]> {
  const candidates = directory()
  const open = () => new Snapshot(candidates, { loads: new Loads(), readAt: now * 1_000 })
  const random = fractionsFrom(1)
  const rows: Row[] = []

  const snapshot = open()
  const any: Requirements = {}
  const wanted: Requirements = { tee: 'tdx', gpuAttested: true, region: 'eu-west', maxAttestationAgeSeconds: 3_000 }
  snapshot.choose(wanted, now, random)
  const load = new Float64Array(runners)
  const scanning = time(() => scan(candidates, load), 20)
  rows.push(
    row(
      'choose among 100,000 runners; baseline: scan them all',
      time(() => snapshot.choose(any, now, random), 1_000_000),
      'ns',
      scanning,
      null,
    ),
  )
  const chosen = rows[0]!
  chosen.bar = 1_000
  chosen.met = chosen.value < 1_000
  const filtered = time(() => snapshot.choose(wanted, now, random), 300_000)
  rows.push({
    ...row('choose with four requirements; baseline: scan them all', filtered, 'ns', scanning, null),
    bar: 1_000,
    met: filtered < 1_000,
  })
  const cold = time(() => open().choose(wanted, now, random), 1)
  rows.push(
    row('read a snapshot of 100,000 and sift it for four requirements, once in seconds', cold / 1e6, 'ms', null, null),
  )

  const balls = 100 * runners
  const even = open()
  const index = new Map(candidates.map(({ signer }, at) => [signer, at]))
  const thrown = excess(balls, () => Math.floor(random() * runners))
  const spread = excess(balls, () => index.get(even.choose(any, now, random)!.signer)!)
  rows.push(
    row('fullest runner above the mean after 10,000,000 jobs; baseline: random choice', spread, 'jobs', thrown, 0.1),
  )
  return rows
}
