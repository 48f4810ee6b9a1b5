/** Waits until the first of several works has ended, and a moment for those that end with it; at most until `limit`. Gives what each came to, and null for one that has not ended. The works must not reject. */
export async function firstEnded<T>(
  works: readonly Promise<T>[],
  { limit, pause }: { limit: Promise<void>; pause: () => Promise<void> },
): Promise<(T | null)[]> {
  const results: (T | null)[] = works.map(() => null)
  let left = works.length
  const first = new Promise<void>((resolve) => {
    for (const [place, work] of works.entries())
      void work.then((value) => {
        results[place] = value
        left--
        resolve()
      })
  })
  await Promise.race([first, limit])
  if (left > 0) await pause()
  return results
}
