import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Tensor } from '../../protocol/tensors.ts'
import { ExecutorDiedError, ModelError, NoExecutorError, NotBegunError, RunDeadlineError } from './errors.ts'
import { type ExecutorProcess, startExecutorProcess } from './executorProcess.ts'
import type { Provider } from './providers.ts'
import { Resident } from './resident.ts'
import { kinds } from './wire.ts'

export { ExecutorDiedError, ModelError, RunDeadlineError } from './errors.ts'

/** Holds what an executor loads: the graph and the files it names, from memory only, and what the publisher feeds to every run. */
export type LoadableModel = {
  digest: string
  graph: Uint8Array
  external: { path: string; data: Uint8Array }[]
  fixed?: readonly Tensor[]
}

/** Runs models in child processes, because a run blocks its thread and cannot be cancelled. */
export type Executor = {
  /** Makes a model known and loads it. With `reread` its bytes are not kept but asked for again whenever a process needs them. Throws ModelError when it cannot be loaded. */
  load(model: LoadableModel, reread?: () => Promise<LoadableModel>): Promise<void>
  /** Throws ModelError, RunDeadlineError, ExecutorDiedError or NoExecutorError. */
  run(digest: string, feeds: Tensor[], deadlineMs: number): Promise<Tensor[]>
  /** Lists the models some process holds in memory now. */
  warm(): string[]
  /** Settles when no process is starting or loading models ahead of use. */
  prepared(): Promise<void>
  /** The first process's id, for operators and for tests that kill it. */
  pid(): number | undefined
  stop(): Promise<void>
}

/** Says how executors are run; sizes in bytes, times in milliseconds. */
export type ExecutorOptions = {
  /** Threads of one run. */
  threads: number
  /** Processes that run at a time: as many as cores or GPUs, divided by the threads of each. */
  executors?: number
  provider?: Provider
  /** Numbers of the provider's devices, an executor for each: as many run at a time, whatever `executors` says, and never two on one. */
  devices?: readonly number[]
  /** How much of models' files each process holds; the least recently used leave for others. */
  memoryBudget?: number
  loadLimitMs?: number
  /** The longest answer taken from a process. */
  answerLimit?: number
  /** Whether a process more than may run at a time stands by with the models loaded, so that one that is killed has a successor at once. */
  spare?: boolean
  /** What processes find in their environment: nothing unless told, as a GPU's libraries may need. */
  environment?: Record<string, string>
  /** What to put before a process's program, as `findSandbox` gives it. */
  sandbox?: readonly string[]
  /** The longest wait before a process that died of itself is replaced. */
  longestBackoffMs?: number
  /** The program of a process. */
  main?: string
  now?: () => number
}

/** The longest any run may take, in milliseconds. */
const longestRunMs = 600_000

/** A model that ends this many processes within the window is not run again until the window has passed. */
const crashesAllowed = 12
const crashWindowMs = 60_000

/** The wait before a process is started after one that died of itself: doubled with each in a row, in milliseconds. */
const shortestBackoffMs = 50

/** A process that lived this long before it died begins the row anew. */
const grownUpMs = 10_000

/** Whoever waits for a process is told so after this many died in a row. */
const hopelessStarts = 5

/** Deadlines come from a clock that counts milliseconds: equal ones may differ by as much. */
const clockTickMs = 1

type Known = { digest: string; bytes: number; read: () => Promise<LoadableModel>; crashes: number[] }
type Worker = { process: ExecutorProcess; device: number | null; providers: string[]; resident: Resident; users: Use[] }
/** Says for which model a process is taken, and until when it may be used, on the executor's clock. */
type Use = { known: Known; until: number }
type Waiting = { use: Use; take: (worker: Worker) => void; refuse: (error: Error) => void }

const bytesOf = ({ graph, external, fixed = [] }: LoadableModel) =>
  [...external, ...fixed].reduce((sum, { data }) => sum + data.length, graph.length)
const fileOf = (name: string, data: Uint8Array): Tensor => ({ name, datatype: 'UINT8', shape: [data.length], data })

/** Starts executors. A process that dies or is killed is replaced, and work goes on in the others meanwhile. */
export function createExecutor(options: ExecutorOptions): Executor {
  return new ExecutorPool(options)
}

class ExecutorPool implements Executor {
  readonly #options: Required<ExecutorOptions>
  readonly #models = new Map<string, Known>()
  readonly #processes = new Set<ExecutorProcess>()
  /** Processes with nothing to do, the last used last. */
  readonly #idle: Worker[] = []
  /** Processes that run something, the one that began first in front. */
  readonly #busy = new Set<Worker>()
  readonly #waiting: Waiting[] = []
  readonly #preparing = new Set<Promise<void>>()
  #current: Worker | null = null
  #diedInARow = 0
  #stopped = false

  constructor(options: ExecutorOptions) {
    // TensorFloat-32 and a free choice of cuBLAS workspaces both cost the bits of a result (NVIDIA, cuBLAS "Results reproducibility").
    const pinned = { NVIDIA_TF32_OVERRIDE: '0', CUBLAS_WORKSPACE_CONFIG: ':4096:8' }
    this.#options = {
      executors: 1,
      provider: 'cpu',
      devices: [],
      memoryBudget: 4 * 2 ** 30,
      loadLimitMs: 60_000,
      answerLimit: 2 ** 30,
      spare: true,
      sandbox: [],
      longestBackoffMs: 5_000,
      main: join(import.meta.dirname, 'executorMain.ts'),
      now: () => performance.now(),
      ...options,
      environment: { ...(options.provider === 'cuda' ? pinned : {}), ...options.environment },
    }
    const { devices, spare } = this.#options
    if (devices.length > 0) this.#options.executors = devices.length
    const count = this.#options.executors + (spare ? 1 : 0)
    // A model lies in the memory of one device, so each has its own process to stand by.
    const places = devices.length > 0 ? [...devices, ...(spare ? devices : [])] : Array(count).fill(null)
    for (const device of places) this.#prepare(this.#start(device))
  }

  async load(model: LoadableModel, reread?: () => Promise<LoadableModel>): Promise<void> {
    const { loadLimitMs, now } = this.#options
    const { digest } = model
    const known: Known = { digest, bytes: bytesOf(model), read: async () => model, crashes: [] }
    try {
      // Every process may be at a run that takes as long as any.
      await this.#use(known, now() + longestRunMs + 2 * loadLimitMs, async () => {}, { aside: true })
    } catch (error) {
      if (!(error instanceof ExecutorDiedError)) throw error
      throw new ModelError('The model ended two processes that were loading it.')
    }
    this.#models.set(digest, reread ? { ...known, read: reread } : known)
    for (const worker of this.#idle.filter(({ resident }) => !resident.has(digest))) {
      this.#idle.splice(this.#idle.indexOf(worker), 1)
      this.#prepare(this.#warmUp(worker))
    }
  }

  async run(digest: string, feeds: Tensor[], deadlineMs: number): Promise<Tensor[]> {
    const { now } = this.#options
    const known = this.#models.get(digest)
    if (!known) throw new ModelError('The model is not loaded in this executor.')
    // A timer longer than 31 bits fires at once, so what a buyer asks for is bounded here whoever passed it on.
    const until = now() + Math.min(deadlineMs, longestRunMs)
    return this.#use(known, until, ({ process }) =>
      process.request({ kind: kinds.run, text: digest, tensors: feeds }, until - now()),
    )
  }

  warm(): string[] {
    const workers = this.#current ? [this.#current, ...this.#idle] : this.#idle
    return [...new Set(workers.flatMap(({ process, resident }) => (process.gone() ? [] : resident.digests)))]
  }

  async prepared(): Promise<void> {
    while (this.#preparing.size > 0) await Promise.all(this.#preparing)
  }

  #prepare(work: Promise<void>): void {
    this.#preparing.add(work)
    void work.finally(() => this.#preparing.delete(work))
  }

  pid(): number | undefined {
    if (this.#current && !this.#current.process.gone()) return this.#current.process.pid
    return [...this.#processes].find((process) => !process.gone())?.pid
  }

  async stop(): Promise<void> {
    this.#stopped = true
    for (const process of this.#processes) process.kill()
    await Promise.all([...this.#processes].map(({ ended }) => ended))
  }

  /** Starts a process, loads what it should know, and lets it work. One that follows others that died waits a little longer each time. */
  async #start(device: number | null): Promise<void> {
    const { longestBackoffMs, memoryBudget, now } = this.#options
    if (this.#diedInARow > 0)
      await sleep(Math.min(shortestBackoffMs * 2 ** this.#diedInARow, longestBackoffMs), undefined, { ref: false })
    if (this.#stopped) return
    const process = this.#spawn()
    if (!process) {
      this.#diedInARow++
      return this.#start(device)
    }
    const startedAt = now()
    this.#processes.add(process)
    void process.ended.then(() => {
      this.#processes.delete(process)
      const at = this.#idle.findIndex((worker) => worker.process === process)
      if (at >= 0) this.#idle.splice(at, 1)
      if (process.diedByItself()) this.#diedInARow = now() - startedAt > grownUpMs ? 1 : this.#diedInARow + 1
      if (!this.#stopped) this.#prepare(this.#start(device))
    })
    const providers = await process.ready.catch(() => null)
    if (providers) return this.#warmUp({ process, device, providers, resident: new Resident(memoryBudget), users: [] })
    if (this.#diedInARow < hopelessStarts) return
    const error = new NoExecutorError('No executor process starts. Are the dependencies installed (npm ci)?')
    for (const { refuse } of this.#waiting.splice(0)) refuse(error)
  }

  #spawn(): ExecutorProcess | null {
    const { answerLimit, environment, main, sandbox } = this.#options
    try {
      return startExecutorProcess({ environment, answerLimit, main, sandbox })
    } catch {
      return null
    }
  }

  /** Loads models until the budget is spent, so that no buyer waits for it, and then lets the process work. */
  async #warmUp(worker: Worker): Promise<void> {
    for (const known of this.#models.values()) {
      // What ended a process may end this one: it is left for a run to try.
      if (known.crashes.length > 0 || worker.resident.leavingFor(known.bytes).length > 0) continue
      try {
        await this.#ensure(worker, known)
      } catch {
        if (worker.process.gone()) known.crashes.push(this.#options.now())
      }
    }
    this.#offer(worker)
  }

  #offer(worker: Worker): void {
    if (!worker.process.gone()) this.#idle.push(worker)
    this.#serveWaiting()
  }

  /** Gives processes to those that wait for one, in the order in which they came. */
  #serveWaiting(): void {
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      const worker = this.#findFor(next.use)
      if (!worker) return
      this.#waiting.shift()
      next.take(worker)
    }
  }

  /** Takes a process that has nothing to do, one that holds the model where there is one; else one that can be sent the run ahead. */
  #findFor(use: Use): Worker | null {
    const taken = new Set([...this.#busy].map(({ device }) => device ?? undefined))
    const isFree = ({ device }: Worker) => device === null || !taken.has(device)
    if (this.#busy.size >= this.#options.executors || !this.#idle.some(isFree)) return this.#findAhead(use)
    const holds = this.#idle.findLastIndex((worker) => isFree(worker) && worker.resident.has(use.known.digest))
    const worker = this.#idle.splice(holds >= 0 ? holds : this.#idle.findLastIndex(isFree), 1)[0]!
    worker.users.push(use)
    this.#busy.add(worker)
    this.#current = worker
    return worker
  }

  /** Finds a process at a run of the same model, so that the next lies ready for it when that run is done. It has none lying there yet, and its run must end first by deadline as well: a kill at that deadline then costs the next nothing but another process. */
  #findAhead(use: Use): Worker | null {
    if (use.known.crashes.length > 0) return null
    for (const worker of this.#busy) {
      const [first, second] = worker.users
      if (second || first?.known !== use.known || first.until > use.until + clockTickMs) continue
      // It may still be loading the model, or be about to be sent the first.
      if (worker.process.gone() || worker.process.pending() !== 1 || !worker.resident.has(use.known.digest)) continue
      worker.users.push(use)
      return worker
    }
    return null
  }

  async #take(use: Use): Promise<Worker> {
    const found = this.#waiting.length === 0 ? this.#findFor(use) : null
    if (found) return found
    const { promise: taken, resolve: take, reject: refuse } = Promise.withResolvers<Worker>()
    const waiting: Waiting = { use, take, refuse }
    this.#waiting.push(waiting)
    return before(taken, use.until - this.#options.now(), () => {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
    })
  }

  /** Ends one use of a process; it has nothing to do when that was the last. */
  #leave(worker: Worker, use: Use): void {
    worker.users.splice(worker.users.indexOf(use), 1)
    if (worker.users.length === 0) {
      this.#busy.delete(worker)
      if (!worker.process.gone()) this.#idle.push(worker)
    }
    this.#serveWaiting()
  }

  /** Does something with a model in a process of its own for as long; once more in another when the process dies under it. */
  async #use<T>(known: Known, until: number, act: (worker: Worker) => Promise<T>, { aside = false } = {}): Promise<T> {
    const { now } = this.#options
    for (let attempt = 0; ; attempt++) {
      this.#refuseCrashing(known)
      // Aside, it takes a process that has nothing to do and does not count as one of those that run: others serve meanwhile.
      const spared = aside ? this.#idle.shift() : undefined
      const use = { known, until }
      const worker = spared ?? (await this.#take(use))
      let release = Promise.resolve()
      try {
        if (!worker.resident.has(known.digest)) {
          const loading = this.#ensure(worker, known)
          // A load that outlasts the job goes on for the next one.
          release = loading.catch(() => {})
          await before(loading, until - now())
        }
        const acting = act(worker)
        // Now that it has its request, another can be sent ahead.
        this.#serveWaiting()
        const result = await acting
        worker.resident.touch(known.digest)
        this.#diedInARow = 0
        return result
      } catch (error) {
        if (error instanceof NotBegunError) {
          if (now() >= until) throw new RunDeadlineError('The deadline passed before the run was begun.')
          // Nothing was tried.
          attempt--
          continue
        }
        if (!(error instanceof ExecutorDiedError)) throw error
        known.crashes.push(now())
        if (attempt > 0 || now() >= until) throw error
      } finally {
        void release.then(() => (spared ? this.#offer(worker) : this.#leave(worker, use)))
      }
    }
  }

  #refuseCrashing(known: Known): void {
    const { now } = this.#options
    known.crashes = known.crashes.filter((at) => now() - at < crashWindowMs)
    if (known.crashes.length >= crashesAllowed)
      throw new ModelError('The model has ended too many processes; it is tried again in a minute.')
  }

  /** Loads a model into a process, after as many others have left as it takes. */
  async #ensure({ process, device, providers, resident }: Worker, known: Known): Promise<void> {
    if (resident.has(known.digest)) return
    const { provider, threads, loadLimitMs } = this.#options
    if (!providers.includes(provider))
      throw new Error(`The runtime has no execution provider "${provider}"; it has ${providers.join(', ')}.`)
    const { digest, graph, external, fixed = [] } = await known.read()
    for (const leaving of resident.leavingFor(known.bytes)) {
      resident.remove(leaving)
      await process.request({ kind: kinds.unload, text: leaving, tensors: [] }, loadLimitMs)
    }
    const files = external.map(({ path, data }) => fileOf(path, data))
    const tensors = [fileOf('graph', graph), ...files, ...fixed]
    const text = JSON.stringify({ model: digest, threads, provider, device, files: files.length })
    try {
      await process.request({ kind: kinds.load, text, tensors }, loadLimitMs)
    } catch (error) {
      if (!(error instanceof RunDeadlineError)) throw error
      throw new ModelError(`The model took longer than ${loadLimitMs} ms to load.`)
    }
    resident.add(digest, known.bytes)
  }
}

/** Waits for something for so long. Throws RunDeadlineError past it. */
async function before<T>(waited: Promise<T>, limitMs: number, late: () => void = () => {}): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => {
        late()
        reject(new RunDeadlineError('The deadline passed before a process was ready.'))
      },
      Math.max(1, limitMs),
    )
  })
  return Promise.race([waited, limit]).finally(() => clearTimeout(timer))
}
