import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EndedJobs, jobWindow } from '../../gpu-runner/endedJobs.ts'

describe('ended jobs', () => {
  test('property: every job of the window is remembered with its own digest, whatever the order, and no other is made up', () => {
    const jobs = fc.array(
      fc.record({
        step: fc.integer({ min: -1_500, max: 200 }),
        leap: fc.constantFrom(1n, 16n, 1_024n, 1_025n, 2n ** 40n),
      }),
      { maxLength: 3_000, size: 'max' },
    )
    fc.assert(
      fc.property(jobs, (steps) => {
        const ours = new EndedJobs()
        const all = new Map<bigint, string>()
        let highest = 2_000n
        for (const { step, leap } of steps) {
          const job = step > 0 ? highest + (step > 195 ? leap : BigInt(step % 7)) : highest + BigInt(step)
          const digest = `${job} ${all.size}`
          ours.set(job, digest)
          all.set(job, digest)
          if (job > highest) highest = job
        }
        for (const [job, digest] of all) {
          const known = ours.get(job)
          if (known === undefined ? job + jobWindow > highest : known !== digest) return false
        }
        return ours.get(highest + 1n) === undefined && ours.get(highest + jobWindow) === undefined
      }),
      { numRuns: 60 },
    )
  })

  test('attack: a job that ends a window late does not push out the one whose place it has', () => {
    const ended = new EndedJobs()
    for (let job = 1n; job <= 2_000n; job++) if (job !== 5n) ended.set(job, `first ${job}`)
    ended.set(5n, 'late')
    expect(ended.get(1_029n)).toBe('first 1029')
    expect(ended.get(5n)).toBeUndefined()
  })

  test('behavior: forgets all at once, and the largest number there is has a place', () => {
    const ended = new EndedJobs()
    expect(ended.empty).toBe(true)
    expect(ended.get(0n)).toBeUndefined()
    ended.set(2n ** 64n - 1n, 'last')
    expect(ended.get(2n ** 64n - 1n)).toBe('last')
    expect(ended.empty).toBe(false)
    ended.clear()
    expect(ended.empty).toBe(true)
    expect(ended.get(2n ** 64n - 1n)).toBeUndefined()
  })
})
