import { setImmediate as turn } from 'node:timers/promises'
import v8 from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { RenewedMap } from '../../protocol/renewedMap.ts'

describe('a renewed map', () => {
  test('property: it is a map, whatever comes and goes', () => {
    const step = fc.record({
      act: fc.constantFrom('set', 'set', 'set', 'delete', 'clear?'),
      key: fc.nat(300),
      value: fc.nat(),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 2_000, size: 'max' }), (steps) => {
        const ours = new RenewedMap<number, number>()
        const map = new Map<number, number>()
        for (const { act, key, value } of steps) {
          if (act === 'set') {
            ours.set(key, value)
            map.set(key, value)
          } else if (act === 'delete') {
            if (ours.delete(key) !== map.delete(key)) return false
          } else if (value % 50 === 0) {
            ours.clear()
            map.clear()
          }
          if (ours.size !== map.size || ours.get(key) !== map.get(key) || ours.has(key) !== map.has(key)) return false
          if (ours.oldest !== map.keys().next().value) return false
        }
        return JSON.stringify(ours.values()) === JSON.stringify([...map.values()])
      }),
      { numRuns: 60 },
    )
  })

  test('behavior: what was removed goes with the next collection of young memory; a map holds on to it', async () => {
    v8.setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as (options?: { type: 'minor' }) => void
    /** Churns through four megabytes of values, and gives how many bytes collections of young memory leave of them. */
    const kept = async (map: Pick<RenewedMap<number, number[]>, 'set' | 'delete'>) => {
      const put = (key: number) => {
        map.set(key, Array(128).fill(key + 0.5))
        map.delete(key - 32)
      }
      // The table of now leaves the young generation.
      for (let key = 0; key < 32; key++) put(key)
      gc()
      gc()
      const before = process.memoryUsage().heapUsed
      for (let key = 32; key < 4_096; key++) put(key)
      for (let round = 0; round < 3; round++) {
        await turn()
        gc({ type: 'minor' })
      }
      return process.memoryUsage().heapUsed - before
    }
    const map = new Map<number, number[]>()
    expect(await kept(new RenewedMap())).toBeLessThan(500_000)
    // Should a release of V8 let go of it, this class has done its work.
    expect(
      await kept({ set: (key, value) => void map.set(key, value), delete: (key) => map.delete(key) }),
    ).toBeGreaterThan(1_500_000)
  })
})
