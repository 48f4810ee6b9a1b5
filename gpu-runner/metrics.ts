/**
 * Counts what a runner does and shows it as Prometheus reads it (text exposition format 0.0.4). Own code because three kinds of series and
 * one page of text do not carry a dependency into the machine that holds the keys.
 */

type Labels = Record<string, string>

/** Counts up. */
export type Counter = { add(amount?: number, labels?: Labels): void }

/** Sorts observations into buckets. */
export type Histogram = { observe(value: number): void }

/** Holds series and shows them. */
export type Metrics = {
  counter(name: string, help: string): Counter
  /** `read` is asked whenever somebody looks; null shows nothing. Amounts beyond 2^53 may be given as bigint. */
  gauge(name: string, help: string, read: () => number | bigint | null): void
  /** `buckets` are upper bounds, ascending. */
  histogram(name: string, help: string, buckets: readonly number[]): Histogram
  text(): string
}

/** Bounds in seconds for what takes from ten microseconds to ten seconds. */
export const secondsBuckets = [
  0.00001, 0.000025, 0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1, 2.5, 10,
] as const

/** Bounds for numbers of jobs or rows that are handled together. */
export const countBuckets = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1_024, 4_096] as const

const escaped = (value: string) => value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')
const labelText = (labels: Labels) => {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}
const numberText = (value: number | bigint) =>
  value === Number.POSITIVE_INFINITY ? '+Inf' : value === Number.NEGATIVE_INFINITY ? '-Inf' : String(value)

/** Makes an empty set of series. Throws when a name is taken twice or is none Prometheus reads. */
export function createMetrics(): Metrics {
  const series = new Map<string, () => string[]>()
  const register = (name: string, kind: string, help: string, lines: () => string[]) => {
    if (!/^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(name)) throw new Error(`"${name}" is no name of a metric.`)
    if (series.has(name)) throw new Error(`The metric "${name}" exists already.`)
    series.set(name, () => {
      const own = lines()
      return own.length === 0 ? [] : [`# HELP ${name} ${help}`, `# TYPE ${name} ${kind}`, ...own]
    })
  }
  return {
    counter(name, help) {
      const values = new Map<string, number>()
      register(name, 'counter', help, () => [...values].map(([labels, value]) => `${name}${labels} ${value}`))
      return {
        add(amount = 1, labels = {}) {
          const key = labelText(labels)
          values.set(key, (values.get(key) ?? 0) + amount)
        },
      }
    },
    gauge(name, help, read) {
      register(name, 'gauge', help, () => {
        const value = read()
        return value === null ? [] : [`${name} ${numberText(value)}`]
      })
    },
    histogram(name, help, buckets) {
      const counts = buckets.map(() => 0)
      let count = 0
      let sum = 0
      register(name, 'histogram', help, () => {
        let below = 0
        const lines = buckets.map((bound, at) => {
          below += counts[at]!
          return `${name}_bucket{le="${bound}"} ${below}`
        })
        return [...lines, `${name}_bucket{le="+Inf"} ${count}`, `${name}_sum ${sum}`, `${name}_count ${count}`]
      })
      return {
        observe(value) {
          const at = buckets.findIndex((bound) => value <= bound)
          if (at >= 0) counts[at]!++
          count++
          sum += value
        },
      }
    },
    text: () => `${[...series.values()].flatMap((lines) => lines()).join('\n')}\n`,
  }
}
