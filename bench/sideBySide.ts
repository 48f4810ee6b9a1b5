/** Gives the median of times. */
export const median = (times: number[]): number => times.sort((a, b) => a - b)[times.length >> 1]!

/** Runs contenders in turns, so that whatever else the machine does falls on all of them alike. Each is run `repeat` times a turn; gives medians over the turns, in milliseconds a run. */
export async function sideBySide<K extends string>(
  contenders: Record<K, () => unknown>,
  { turns = 15, repeat = 1 }: { turns?: number; repeat?: number } = {},
): Promise<Record<K, number>> {
  const names = Object.keys(contenders) as K[]
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<K, number[]>
  for (let turn = -3; turn < turns; turn++) {
    for (const name of names) {
      const run = contenders[name]
      const start = performance.now()
      for (let each = 0; each < repeat; each++) await run()
      const time = (performance.now() - start) / repeat
      if (turn >= 0) times[name].push(time)
    }
  }
  return Object.fromEntries(names.map((name) => [name, median(times[name])])) as Record<K, number>
}
