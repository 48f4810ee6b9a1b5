import { randomBytes } from 'node:crypto'
import { type Trial, type TrialRun, tryModel } from './admission.ts'
import { createExecutor, type Executor } from './executor.ts'
import type { FetchedModel } from './models.ts'

/** The numbers of threads under which a model is tried besides the configured one: a dispute may be settled on another machine. */
const otherThreadCounts = [1, 2, 4] as const

/** How long one run of a trial may take, in milliseconds. */
const trialRunMs = 60_000

/** Tries a model in processes of its own, one for each number of threads, so that a model which ends its process never ends one that serves. Throws ModelError when it cannot be loaded. */
export async function probeModel(
  model: Pick<FetchedModel, 'manifest' | 'fixed' | 'loadable'>,
  { threads, maxBatch, budgetMs }: { threads: number; maxBatch: number; budgetMs?: number },
): Promise<Trial> {
  const open: Executor[] = []
  const start = async (count: number): Promise<TrialRun> => {
    const executor = createExecutor({ threads: count, spare: false })
    open.push(executor)
    await executor.load(model.loadable)
    return (feeds) => executor.run(model.loadable.digest, feeds, trialRunMs)
  }
  try {
    const run = await start(threads)
    const others = otherThreadCounts.filter((count) => count !== threads)
    const otherThreads = new Map<number, TrialRun>()
    for (const count of others) otherThreads.set(count, await start(count))
    return await tryModel({
      manifest: model.manifest,
      fixed: model.fixed,
      run,
      otherThreads,
      maxBatch,
      random: randomBytes,
      now: () => performance.now(),
      ...(budgetMs === undefined ? {} : { budgetMs }),
    })
  } finally {
    await Promise.all(open.map((executor) => executor.stop()))
  }
}
