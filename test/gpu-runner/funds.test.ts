import { describe, expect, test } from 'vitest'
import { Funds } from '../../gpu-runner/funds.ts'
import type { Hex } from '../../protocol/bytes.ts'

const buyer: Hex = `0x${'11'.repeat(20)}`
const channel: Hex = `0x${'22'.repeat(32)}`
const other: Hex = `0x${'33'.repeat(32)}`

function open(deposit = 100n) {
  const world = { deposit, settled: new Map<Hex, bigint>(), clock: 0, reads: 0 }
  const funds = new Funds(
    {
      async depositOf() {
        world.reads++
        return world.deposit
      },
      settledOf: async (id) => world.settled.get(id) ?? 0n,
    },
    () => world.clock,
  )
  return { funds, world }
}

describe('Funds', () => {
  test('behavior: what every channel of a buyer earns counts against one deposit', async () => {
    const { funds } = open()
    expect(funds.covers(buyer, 1n)).toBe(false)
    await funds.refresh(buyer, channel)
    funds.earn(channel, buyer, 60n)
    funds.earn(other, buyer, 30n)
    expect([funds.covers(buyer, 10n), funds.covers(buyer, 11n)]).toEqual([true, false])
    funds.earn(other, buyer, -30n)
    expect(funds.covers(buyer, 40n)).toBe(true)
  })

  test('behavior: callers at the same time share one reading, and a reading lasts a minute', async () => {
    const { funds, world } = open()
    await Promise.all([1, 2, 3].map(() => funds.refresh(buyer, channel)))
    expect(world.reads).toBe(1)
    world.clock = 59_999
    expect(funds.covers(buyer, 100n)).toBe(true)
    world.clock = 60_000
    expect(funds.covers(buyer, 1n)).toBe(false)
  })

  test('behavior: what was paid is no longer owed, and the deposit is read anew', async () => {
    const { funds, world } = open()
    await funds.refresh(buyer, channel)
    funds.earn(channel, buyer, 90n)
    funds.noteSettled(channel, buyer, 90n)
    expect(funds.covers(buyer, 1n)).toBe(false)
    world.deposit = 10n
    world.settled.set(channel, 90n)
    await funds.refresh(buyer, channel)
    expect([funds.covers(buyer, 10n), funds.covers(buyer, 11n)]).toEqual([true, false])
  })

  test('attack: a payment for what a predecessor earned frees nothing here', async () => {
    const { funds } = open()
    await funds.refresh(buyer, channel)
    funds.earn(channel, buyer, 100n)
    funds.noteSettled(other, buyer, 1_000n)
    await funds.refresh(buyer, channel)
    expect(funds.covers(buyer, 1n)).toBe(false)
    expect(funds.known(buyer).owed).toBe(100n)
  })

  test('behavior: a channel forgotten owes nothing, and its buyer is forgotten with the last', async () => {
    const { funds } = open()
    await funds.refresh(buyer, channel)
    funds.earn(channel, buyer, 40n)
    funds.earn(other, buyer, 40n)
    funds.forget(channel)
    expect(funds.known(buyer)).toMatchObject({ deposit: 100n, owed: 40n })
    funds.forget(other)
    expect(funds.known(buyer)).toEqual({ deposit: 0n, owed: 0n })
  })
})
