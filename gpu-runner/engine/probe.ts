import { randomBytes } from 'node:crypto'
import { type Trial, type TrialRun, tryModel } from './admission.ts'
import { ModelError, RunDeadlineError } from './errors.ts'
import { createExecutor, type Executor, type ExecutorOptions } from './executor.ts'
import type { FetchedModel } from './models.ts'

/** The numbers of threads under which a model is tried besides the configured one: a dispute may be settled on another machine. */
const otherThreadCounts = [1, 2, 4] as const

/** How long one run of a trial may take, in milliseconds. */
const trialRunMs = 60_000

/** Says how models will be run. */
type Conditions = Pick<ExecutorOptions, 'threads' | 'provider' | 'environment' | 'sandbox'> & {
  maxBatch: number
  budgetMs?: number
}

type Candidate = Pick<FetchedModel, 'manifest' | 'loadable'> & Partial<Pick<FetchedModel, 'reread'>>

/** Tries models one after another. */
export type Probe = {
  /** Loads a model, so that one which cannot be loaded is known before it serves. Throws ModelError. */
  load(model: Candidate): Promise<void>
  /** Finds out how a model may be run. Throws ModelError when it cannot be loaded. */
  probe(model: Candidate): Promise<Trial>
  close(): Promise<void>
}

/** Opens processes for trials, one for each number of threads and none before it is needed: a model that ends its process then never ends one that serves. */
export function openProbe({
  threads,
  provider = 'cpu',
  environment = {},
  sandbox = [],
  maxBatch,
  budgetMs,
}: Conditions): Probe {
  const executors = new Map<number, Executor>()
  const start = (count: number): Executor => {
    const open = executors.get(count)
    if (open) return open
    // A budget that nothing fits into: each model is held alone, and leaves for the next.
    const executor = createExecutor({ threads: count, provider, environment, sandbox, spare: false, memoryBudget: 0 })
    executors.set(count, executor)
    return executor
  }
  const load = async (count: number, { loadable, reread }: Candidate): Promise<TrialRun> => {
    const executor = start(count)
    await executor.load(loadable, reread)
    return async (feeds) => {
      try {
        return await executor.run(loadable.digest, feeds, trialRunMs)
      } catch (error) {
        if (error instanceof RunDeadlineError) throw new ModelError(`One run took longer than ${trialRunMs} ms.`)
        throw error
      }
    }
  }
  return {
    load: async (model) => void (await load(threads, model)),
    async probe(model) {
      const others = otherThreadCounts.filter((count) => count !== threads)
      const [run, ...otherRuns] = await Promise.all([threads, ...others].map((count) => load(count, model)))
      return tryModel({
        manifest: model.manifest,
        run: run!,
        otherThreads: new Map(others.map((count, at) => [count, otherRuns[at]!])),
        maxBatch,
        random: randomBytes,
        now: () => performance.now(),
        ...(budgetMs === undefined ? {} : { budgetMs }),
      })
    },
    async close() {
      await Promise.all([...executors.values()].map((executor) => executor.stop()))
      executors.clear()
    },
  }
}

/** Tries one model in processes of its own. Throws ModelError when it cannot be loaded. */
export async function probeModel(model: Candidate, conditions: Conditions): Promise<Trial> {
  const { probe, close } = openProbe(conditions)
  try {
    return await probe(model)
  } finally {
    await close()
  }
}
