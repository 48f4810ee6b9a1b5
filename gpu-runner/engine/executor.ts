import { type ChildProcess, fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Tensor } from '../../protocol/tensors.ts'
import type { ExecutorRequest, ExecutorResponse } from './messages.ts'

/** Reports that a model refused to load or to run: the model's or the input's fault, told to the buyer. */
export class ModelError extends Error {
  override name = 'ModelError'
}

/** Reports that a run took longer than allowed; the process that ran it was killed. */
export class RunDeadlineError extends Error {
  override name = 'RunDeadlineError'
}

/** Reports that an executor process died under a run, through no fault the model admits to. */
export class ExecutorDiedError extends Error {
  override name = 'ExecutorDiedError'
}

/** Holds what an executor loads: the graph and the files it names, from memory only. */
export type LoadableModel = { digest: string; graph: Uint8Array; external: { path: string; data: Uint8Array }[] }

/** Runs models in a child process, because a run blocks its thread and cannot be cancelled. */
export type Executor = {
  load(model: LoadableModel): Promise<void>
  /** Throws ModelError, RunDeadlineError or ExecutorDiedError. */
  run(digest: string, feeds: Tensor[], deadlineMs: number): Promise<Tensor[]>
  /** The process's id, for operators and for tests that kill it. */
  pid(): number | undefined
  stop(): Promise<void>
}

/** The longest any run may take, in milliseconds. */
const longestRunMs = 600_000

type Pending = { resolve: (outputs: Tensor[]) => void; reject: (error: Error) => void }

/** Starts an executor. A process that dies is replaced at once and given its models again. */
export function createExecutor({ threads }: { threads: number }): Executor {
  const models = new Map<string, LoadableModel>()
  // Empty, because onnxruntime opens files that a model names below the working directory.
  const workingDirectory = mkdtempSync(join(tmpdir(), 'assay-executor-'))
  let nextId = 1
  let stopped = false
  let child!: ChildProcess
  let pending = new Map<number, Pending>()
  let loaded: Promise<unknown> = Promise.resolve()
  const killedAtDeadline = new WeakSet<ChildProcess>()

  const send = (request: ExecutorRequest): Promise<Tensor[]> =>
    new Promise((resolve, reject) => {
      pending.set(request.id, { resolve, reject })
      child.send(request, (error) => {
        if (!error) return
        pending.delete(request.id)
        reject(new ExecutorDiedError('The executor process is gone.'))
      })
    })
  const loadInto = (model: LoadableModel) =>
    send({ id: nextId++, op: 'load', model: model.digest, graph: model.graph, external: model.external, threads })

  const start = () => {
    const own = fork(join(import.meta.dirname, 'executorMain.ts'), [], {
      cwd: workingDirectory,
      serialization: 'advanced',
      env: { PATH: process.env.PATH ?? '' },
      execArgv: ['--no-warnings'],
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    })
    child = own
    const mine = new Map<number, Pending>()
    pending = mine
    own.on('message', (response: ExecutorResponse) => {
      const waiting = mine.get(response.id)
      mine.delete(response.id)
      if ('error' in response) waiting?.reject(new ModelError(response.error))
      else waiting?.resolve(response.outputs)
    })
    own.once('exit', () => {
      for (const { reject } of mine.values()) reject(new ExecutorDiedError('The executor process died.'))
      mine.clear()
      if (!stopped && child === own) start()
    })
    loaded = Promise.allSettled([...models.values()].map(loadInto))
  }
  start()

  return {
    async load(model) {
      await loaded
      await loadInto(model)
      models.set(model.digest, model)
    },
    async run(digest, feeds, deadlineMs) {
      // A timer longer than 31 bits fires at once, so what a buyer asks for is bounded here whoever passed it on.
      const until = performance.now() + Math.min(deadlineMs, longestRunMs)
      for (;;) {
        await loaded
        const running = child
        let expired = false
        const timer = setTimeout(
          () => {
            expired = true
            killedAtDeadline.add(running)
            running.kill('SIGKILL')
          },
          Math.max(1, until - performance.now()),
        )
        try {
          return await send({ id: nextId++, op: 'run', model: digest, feeds })
        } catch (error) {
          if (!(error instanceof ExecutorDiedError)) throw error
          if (expired) throw new RunDeadlineError(`The run took longer than ${deadlineMs} ms.`)
          // Another job's deadline killed the process under this one, which has time left and did nothing wrong.
          if (!killedAtDeadline.has(running) || performance.now() >= until) throw error
        } finally {
          clearTimeout(timer)
        }
      }
    },
    pid: () => child.pid,
    async stop() {
      stopped = true
      if (child.exitCode === null && child.signalCode === null) {
        const ended = new Promise((resolve) => child.once('exit', resolve))
        child.kill('SIGKILL')
        await ended
      }
      rmSync(workingDirectory, { recursive: true, force: true })
    },
  }
}
