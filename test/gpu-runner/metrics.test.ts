import { describe, expect, test } from 'vitest'
import { createMetrics } from '../../gpu-runner/metrics.ts'

describe('createMetrics', () => {
  test('behavior: shows counters, gauges and histograms as the text format has them', () => {
    const metrics = createMetrics()
    const jobs = metrics.counter('jobs_total', 'Jobs.')
    jobs.add(1, { status: 'ok' })
    jobs.add(2, { status: 'ok' })
    jobs.add(1, { status: 'a "quoted"\n\\ one' })
    metrics.gauge('owed', 'Owed.', () => 2n ** 80n)
    metrics.gauge('nothing', 'Nothing to show.', () => null)
    const sizes = metrics.histogram('sizes', 'Sizes.', [1, 4])
    for (const size of [1, 2, 4, 5]) sizes.observe(size)
    expect(metrics.text()).toBe(
      [
        '# HELP jobs_total Jobs.',
        '# TYPE jobs_total counter',
        'jobs_total{status="ok"} 3',
        'jobs_total{status="a \\"quoted\\"\\n\\\\ one"} 1',
        '# HELP owed Owed.',
        '# TYPE owed gauge',
        'owed 1208925819614629174706176',
        '# HELP sizes Sizes.',
        '# TYPE sizes histogram',
        'sizes_bucket{le="1"} 1',
        'sizes_bucket{le="4"} 3',
        'sizes_bucket{le="+Inf"} 4',
        'sizes_sum 12',
        'sizes_count 4',
        '',
      ].join('\n'),
    )
  })

  test('refusal: a name taken twice, and one that is none', () => {
    const metrics = createMetrics()
    metrics.counter('jobs_total', 'Jobs.')
    expect(() => metrics.gauge('jobs_total', 'Again.', () => 1)).toThrow('exists already')
    expect(() => metrics.counter('jobs-total', 'Jobs.')).toThrow('is no name')
  })
})
