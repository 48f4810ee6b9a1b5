import { describe, expect, test } from 'vitest'
import { type SettlementPolicy, type SettlementState, settlementDue } from '../../gpu-runner/settlementPolicy.ts'

const now = 1_800_000_000
const policy: SettlementPolicy = { threshold: 1_000n, intervalSeconds: 600, leadSeconds: 3_600, dearPercent: 200n }
const calm: SettlementState = {
  unsettled: 10n,
  termsEnd: now + 86_400,
  registrationEnd: now + 86_400,
  gas: { price: 10n, usual: 10n },
  triedAt: now - 60,
  stopping: false,
}
const decide = (change: Partial<SettlementState>, over: Partial<SettlementPolicy> = {}) =>
  settlementDue({ ...calm, ...change }, { ...policy, ...over }, now)
const dear = { price: 21n, usual: 10n }

describe('settlementDue', () => {
  test.each<[string, Partial<SettlementState>, object]>([
    [
      'nothing unsettled, even on shutdown',
      { unsettled: 0n, stopping: true },
      { due: false, because: 'nothing_unsettled' },
    ],
    ['shutdown, whatever gas costs', { stopping: true, gas: dear, triedAt: now }, { due: true, because: 'shutdown' }],
    ['a little, a minute ago', {}, { due: false, because: 'not_yet' }],
    ['the threshold is reached', { unsettled: 1_000n }, { due: true, because: 'threshold' }],
    ['one below the threshold', { unsettled: 999n }, { due: false, because: 'not_yet' }],
    ['the interval has passed', { triedAt: now - 600 }, { due: true, because: 'interval' }],
    ['enough, but tried just now', { unsettled: 5_000n, triedAt: now - 59 }, { due: false, because: 'not_yet' }],
    ['enough, but gas is dear', { unsettled: 5_000n, gas: dear }, { due: false, because: 'gas_dear' }],
    [
      'exactly twice the usual price is not dear',
      { unsettled: 5_000n, gas: { price: 20n, usual: 10n } },
      { due: true, because: 'threshold' },
    ],
    ['the price is unknown', { unsettled: 5_000n, gas: null }, { due: true, because: 'threshold' }],
    [
      'terms end within the lead',
      { termsEnd: now + 3_600, triedAt: now - 900, gas: dear },
      { due: true, because: 'terms_end' },
    ],
    ['terms have ended', { termsEnd: now - 10, triedAt: now - 900, gas: dear }, { due: true, because: 'terms_end' }],
    [
      'terms end in a second more than the lead',
      { termsEnd: now + 3_601, gas: dear, triedAt: now - 900 },
      { due: false, because: 'gas_dear' },
    ],
    [
      'the registration ends',
      { registrationEnd: now + 60, triedAt: now - 900, gas: dear },
      { due: true, because: 'registration_end' },
    ],
    ['terms end, but it was just tried', { termsEnd: now + 10 }, { due: false, because: 'not_yet' }],
  ])('behavior: %s', (_, change, expected) => {
    expect(decide(change)).toEqual(expected)
  })

  test('behavior: without a threshold, time alone decides', () => {
    expect(decide({ unsettled: 10n ** 30n }, { threshold: null })).toEqual({ due: false, because: 'not_yet' })
  })

  test('property: while something is unsettled and a deadline comes, a claim is tried several times before it, whatever gas costs', () => {
    const end = now + 10_000
    let triedAt = now
    const tries: number[] = []
    for (let at = now; at < end; at += 2) {
      const state = { ...calm, triedAt, termsEnd: end, gas: dear }
      if (!settlementDue(state, policy, at).due) continue
      tries.push(at)
      triedAt = at
    }
    expect(tries).toEqual([end - 3_600, end - 2_700, end - 1_800, end - 900])
  })
})
