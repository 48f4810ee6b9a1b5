import { afterEach, describe, expect, test } from 'vitest'
import { createRandom } from '../../dev/sample/glyphs.ts'
import { Directory, type DirectoryReader } from '../../functions/match/directory.ts'
import { Loads } from '../../functions/match/loads.ts'
import { type Candidate, mismatchReasons, missesOf, type Requirements } from '../../functions/match/requirements.ts'
import { Snapshot } from '../../functions/match/snapshot.ts'

const now = 1_800_000_000
const day = 86_400
const model = `0x${'a1'.repeat(32)}`
const key = (index: number) => `0x${index.toString(16).padStart(40, '0')}`
const candidate = (index: number, over: Partial<Candidate> = {}): Candidate => ({
  signer: key(index),
  provider: key(9_999),
  hpkeKey: '0x',
  evidenceDigest: '0x',
  validUntil: now + 3_600,
  verifiedAt: now - 60,
  capacity: 100,
  tee: 'tdx',
  tcbStatus: 'UpToDate',
  gpuAttested: true,
  measurement: `0x${'bb'.repeat(32)}`,
  region: 'eu-west',
  stake: { amount: 0n, exiting: 0n, withdrawableAt: 0n },
  slashed: false,
  warm: true,
  ...over,
})
const snapshotOf = (candidates: Candidate[], loads = new Loads()) =>
  new Snapshot(candidates, { loads, readAt: now * 1000 })

describe('missesOf', () => {
  const cases: [(typeof mismatchReasons)[number], Partial<Candidate>, Requirements][] = [
    ['excluded', {}, { exclude: [key(1)] }],
    ['attestation_expired', { validUntil: now }, {}],
    ['attestation_age', { verifiedAt: now - 61 }, { maxAttestationAgeSeconds: 60 }],
    ['tee', {}, { tee: 'snp' }],
    ['tcb_status', { tcbStatus: 'SWHardeningNeeded' }, { tcbStatus: 'UpToDate' }],
    ['gpu', { gpuAttested: false }, { gpuAttested: true }],
    ['measurement', {}, { measurement: `0x${'cc'.repeat(32)}` }],
    ['region', { region: null }, { region: 'eu-west' }],
    // What could be gone before the last receipt of a day's channel is beyond dispute does not count.
    [
      'stake',
      { stake: { amount: 900n, exiting: 401n, withdrawableAt: BigInt(now + 8 * day - 1) } },
      { minStake: '500' },
    ],
    ['slashed', { slashed: true }, {}],
  ]
  test.each(cases)('refusal: %s, and nothing else', (reason, over, wanted) => {
    expect(missesOf(candidate(1, over), wanted, now).map((miss) => miss.reason)).toEqual([reason])
    expect(missesOf(candidate(2), { ...wanted, ...matching[reason] }, now)).toEqual([])
  })
  const matching: Record<string, Requirements> = {
    tee: { tee: 'tdx' },
    measurement: { measurement: `0x${'bb'.repeat(32)}` },
    stake: { minStake: '0' },
  }
  test('every reason has a case', () => {
    expect(cases.map(([reason]) => reason).sort()).toEqual([...mismatchReasons].sort())
  })
  test('a stake counts to its last unit while its exit is beyond the dispute window', () => {
    const stake = { amount: 900n, exiting: 900n, withdrawableAt: BigInt(now + 8 * day) }
    expect(missesOf(candidate(1, { stake }), { minStake: '900' }, now)).toEqual([])
    expect(missesOf(candidate(1, { stake }), { minStake: '901' }, now)).toEqual([
      { reason: 'stake', wanted: '901', has: '900' },
    ])
    expect(missesOf(candidate(1, { stake }), { minStake: '1' }, now + 1)).toMatchObject([{ reason: 'stake', has: '0' }])
  })
  test('of two that miss as much, the one with more at stake is named the nearest', () => {
    const candidates = [0n, 500n, 400n].map((amount, index) =>
      candidate(index, { stake: { amount, exiting: 0n, withdrawableAt: 0n } }),
    )
    expect(snapshotOf(candidates).explain({ minStake: '501' }, now)).toEqual({
      reasons: [{ reason: 'stake', count: 3 }],
      nearest: { signer: key(1), misses: [{ reason: 'stake', wanted: '501', has: '500' }] },
    })
  })
  test('a status that is not known is worse than any that is', () => {
    const wanted: Requirements = { tcbStatus: 'Revoked' }
    expect(missesOf(candidate(1, { tcbStatus: null }), wanted, now)).toHaveLength(1)
    expect(missesOf(candidate(1, { tcbStatus: 'NotSupported' }), wanted, now)).toHaveLength(1)
    expect(missesOf(candidate(1, { tcbStatus: 'OutOfDate' }), wanted, now)).toHaveLength(0)
  })
})

describe('Snapshot', () => {
  test('spreads load: a tenth of the imbalance of random choice', () => {
    const size = 2_000
    const random = createRandom(7)
    const snapshot = snapshotOf(Array.from({ length: size }, (_, index) => candidate(index)))
    const chosen = new Map<string, number>()
    const thrown = new Array<number>(size).fill(0)
    for (let ball = 0; ball < size * 100; ball++) {
      const { signer } = snapshot.choose({}, now, random)!
      chosen.set(signer, (chosen.get(signer) ?? 0) + 1)
      const at = Math.floor(random() * size)
      thrown[at] = thrown[at]! + 1
    }
    const excess = (loads: Iterable<number>) => Math.max(...loads) - 100
    expect(excess(chosen.values())).toBeLessThanOrEqual(excess(thrown) / 10)
  })

  test('asks machines for as much as they can take, and believes what they say', () => {
    const loads = new Loads()
    const snapshot = snapshotOf([candidate(1, { capacity: 300 }), candidate(2, { capacity: 100 })], loads)
    const count = () => {
      const counts = new Map<string, number>()
      for (let i = 0; i < 400; i++) {
        const { signer } = snapshot.choose({}, now, Math.random)!
        counts.set(signer, (counts.get(signer) ?? 0) + 1)
      }
      return counts
    }
    expect(count().get(key(1))).toBe(300)
    loads.note(key(1), { queued: 3_000, capacity: 300 }, now * 1000)
    expect(count().get(key(1))).toBeUndefined()
  })

  test('prefers a machine that holds the model, until it is full', () => {
    const loads = new Loads()
    const snapshot = snapshotOf([candidate(1), candidate(2, { warm: false })], loads)
    for (let i = 0; i < 100; i++) expect(snapshot.choose({}, now, Math.random)!.signer).toBe(key(1))
    loads.note(key(1), { queued: 150, capacity: 100 }, now * 1000)
    expect(snapshot.choose({}, now, Math.random)!.signer).toBe(key(2))
  })

  test('finds the one that fits among many, excludes, and drops it when its attestation ends', () => {
    const only = candidate(500, { region: 'us-east', validUntil: now + 10 })
    const snapshot = snapshotOf([...Array.from({ length: 499 }, (_, index) => candidate(index)), only])
    expect(snapshot.choose({ region: 'us-east' }, now, Math.random)?.signer).toBe(only.signer)
    expect(snapshot.choose({ region: 'us-east', exclude: [only.signer] }, now, Math.random)).toBeNull()
    expect(snapshot.choose({ region: 'us-east' }, now + 10, Math.random)).toBeNull()
    expect(snapshotOf([]).choose({}, now, Math.random)).toBeNull()
  })

  test('excludes all but one and still finds it', () => {
    const all = Array.from({ length: 200 }, (_, index) => candidate(index))
    const exclude = all.slice(1).map(({ signer }) => signer)
    expect(snapshotOf(all).choose({ exclude }, now, Math.random)?.signer).toBe(key(0))
  })

  test('explains: counts under each reason and the nearest miss', () => {
    const snapshot = snapshotOf([
      candidate(1, { region: 'us-east', tee: 'snp' }),
      candidate(2, { region: 'us-east' }),
      candidate(3, { region: 'us-east', gpuAttested: false, tee: 'snp' }),
    ])
    const { reasons, nearest } = snapshot.explain({ region: 'eu-west', tee: 'tdx', gpuAttested: true }, now)
    expect(Object.fromEntries(reasons.map(({ reason, count }) => [reason, count]))).toEqual({
      region: 3,
      tee: 2,
      gpu: 1,
    })
    expect(nearest).toEqual({
      signer: key(2),
      misses: [{ reason: 'region', wanted: 'eu-west', has: 'us-east' }],
    })
  })

  test('a load nobody confirms fades with each snapshot', () => {
    const loads = new Loads()
    const slot = loads.slotOf(key(1), 10)
    loads.note(key(1), { queued: 10, capacity: 10 }, now * 1000)
    new Snapshot([candidate(1)], { loads, readAt: now * 1000 + 1_000 })
    expect(loads.at(slot)).toBe(1)
    new Snapshot([candidate(1)], { loads, readAt: now * 1000 + 6_000 })
    expect(loads.at(slot)).toBe(0.5)
  })
})

describe('Directory', () => {
  let pending: Promise<unknown>[] = []
  afterEach(() => {
    pending = []
  })
  const open = (over: Partial<DirectoryReader> = {}) => {
    let at = now * 1000
    let reads = 0
    const reader: DirectoryReader = {
      async runnersOf() {
        reads++
        return { candidates: [candidate(reads)], sampled: false }
      },
      listingOf: async () => null,
      countOnline: async () => 0,
      ...over,
    }
    const clock = {
      now: () => at,
      sleep: async (ms: number) => {
        at += ms
        await new Promise((resolve) => setImmediate(resolve))
      },
    }
    return {
      directory: new Directory(reader, clock),
      advance: (ms: number) => {
        at += ms
      },
      reads: () => reads,
    }
  }
  const later = (work: Promise<unknown>) => void pending.push(work)

  test('answers from memory; a stale copy is renewed behind the answer, once', async () => {
    const { directory, advance, reads } = open()
    await directory.snapshot(model, later)
    await directory.snapshot(model, later)
    expect([reads(), pending.length]).toEqual([1, 0])
    advance(2_000)
    const stale = await Promise.all([directory.snapshot(model, later), directory.snapshot(model, later)])
    expect(stale.map(({ candidates }) => candidates[0]!.signer)).toEqual([key(1), key(1)])
    expect(pending).toHaveLength(1)
    await Promise.all(pending)
    expect((await directory.snapshot(model, later)).candidates[0]!.signer).toBe(key(2))
    expect(reads()).toBe(2)
  })

  test('keeps answering while the database is away', async () => {
    let up = true
    const { directory, advance } = open({
      runnersOf: async () => {
        if (!up) throw new Error('away')
        return { candidates: [candidate(1)], sampled: false }
      },
    })
    await directory.snapshot(model, later)
    up = false
    advance(600_000)
    expect((await directory.snapshot(model, later)).candidates).toHaveLength(1)
    await Promise.all(pending)
    await expect(directory.snapshot(`0x${'00'.repeat(32)}`, later)).rejects.toThrow('away')
  })

  test('of many first questions at once, one reads; a reading that hangs holds nobody for long', async () => {
    const { directory, reads } = open()
    await Promise.all(Array.from({ length: 50 }, () => directory.snapshot(model, later)))
    expect(reads()).toBe(1)

    let calls = 0
    const hanging = open({
      runnersOf: () =>
        ++calls === 1 ? new Promise(() => {}) : Promise.resolve({ candidates: [candidate(1)], sampled: false }),
    })
    void hanging.directory.snapshot(model, later)
    expect((await hanging.directory.snapshot(model, later)).candidates).toHaveLength(1)
  })
})
