import { randomBytes } from 'node:crypto'
import { type Trial, type TrialRun, tryModel } from './admission.ts'
import { ModelError, RunDeadlineError } from './errors.ts'
import { createExecutor, type Executor, type ExecutorOptions } from './executor.ts'
import type { FetchedModel } from './models.ts'

/** The numbers of threads under which a model is tried besides the configured one: a dispute may be settled on another machine. */
const otherThreadCounts = [1, 2, 4] as const

/** How long one run of a trial may take, in milliseconds. */
const trialRunMs = 60_000

/** Says how the model will be run. */
type Conditions = Pick<ExecutorOptions, 'threads' | 'provider' | 'environment'> & {
  maxBatch: number
  budgetMs?: number
}

/** Tries a model in processes of its own, one for each number of threads, so that a model which ends its process never ends one that serves. Throws ModelError when it cannot be loaded. */
export async function probeModel(
  model: Pick<FetchedModel, 'manifest' | 'loadable'>,
  { threads, provider = 'cpu', environment = {}, maxBatch, budgetMs }: Conditions,
): Promise<Trial> {
  const open: Executor[] = []
  const start = async (count: number): Promise<TrialRun> => {
    const executor = createExecutor({ threads: count, provider, environment, spare: false })
    open.push(executor)
    await executor.load(model.loadable)
    return async (feeds) => {
      try {
        return await executor.run(model.loadable.digest, feeds, trialRunMs)
      } catch (error) {
        if (error instanceof RunDeadlineError) throw new ModelError(`One row took longer than ${trialRunMs} ms.`)
        throw error
      }
    }
  }
  try {
    const run = await start(threads)
    const others = otherThreadCounts.filter((count) => count !== threads)
    const otherThreads = new Map<number, TrialRun>()
    for (const count of others) otherThreads.set(count, await start(count))
    return await tryModel({
      manifest: model.manifest,
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
