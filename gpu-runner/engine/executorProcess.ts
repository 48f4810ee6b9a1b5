import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Tensor } from '../../protocol/tensors.ts'
import { ExecutorDiedError, ModelError, NotBegunError, RunDeadlineError } from './errors.ts'
import { decodeMessage, encodeMessage, type Kind, kinds, type Message, messageLength, prefixLength } from './wire.ts'

/** Holds one executor process, what it is doing and what it does next. */
export type ExecutorProcess = {
  readonly pid: number | undefined
  /** Settles when the process can take requests, with the execution providers it has; rejects when it never will. */
  readonly ready: Promise<string[]>
  /** Settles when the process has ended. */
  readonly ended: Promise<void>
  /** Sends a request and waits for its answer. One may be sent ahead, so that it lies ready when the process has done the one before. Past `limitMs`, and once it has come to the request, the process is killed. Throws ModelError, RunDeadlineError or ExecutorDiedError; NotBegunError when the process ended before it came to this request. */
  request(request: { kind: Kind; text: string; tensors: Tensor[] }, limitMs: number): Promise<Tensor[]>
  /** Counts the requests that have no answer yet. */
  pending(): number
  kill(): void
  /** Tells whether the process is dead or about to be. */
  gone(): boolean
  /** Tells whether it ended though nobody here ended it. */
  diedByItself(): boolean
}

/** Parts below this are copied into one write: a system call's list of many small parts costs more than the copy. */
const gatherBelow = 65_536

/** How long a process may take to start, in milliseconds. */
const startLimitMs = 30_000

/** How long after a process's end its last words are waited for, in milliseconds: somebody else may hold its end of the socket. */
const lastWordsMs = 250

/** Requests a process has at a time: the one it is doing and the next. */
const mostPending = 2

type Pending = {
  id: number
  until: number
  late: () => Error
  resolve: (message: Message) => void
  reject: (error: Error) => void
}

/** Starts an executor process with nothing of ours in its environment. It talks over a socket pair that has no name, so nobody else can connect; `answerLimit` bounds the bytes of an answer. Throws ExecutorDiedError when the system gives no process. */
export function startExecutorProcess({
  environment = {},
  answerLimit,
  main,
  sandbox = [],
}: {
  environment?: Record<string, string>
  answerLimit: number
  main: string
  /** What to put before the program, such as a command that takes the network away. */
  sandbox?: readonly string[]
}): ExecutorProcess {
  const command = [...sandbox, process.execPath, '--no-warnings', main]
  // Empty, because onnxruntime opens files that a model names below the working directory.
  const cwd = mkdtempSync(join(tmpdir(), 'assay-executor-'))
  const child = spawnIn(cwd, command, environment)
  const socket = child.stdio[3] as Socket
  /** What was asked and not answered, in the order in which the process comes to it. */
  const pending: Pending[] = []
  let nextId = 1
  let started = false
  let gone: Error | null = null
  let killed = false
  let timer: NodeJS.Timeout | undefined

  /** Waits for what the process is doing now, for as long as that may take. */
  const watch = () => {
    clearTimeout(timer)
    const first = pending[0]
    if (!first) return
    timer = setTimeout(
      () => {
        killed = true
        end(first.late())
      },
      Math.max(1, first.until - performance.now()),
    )
  }
  const end = (error: Error) => {
    clearTimeout(timer)
    gone ??= error
    child.kill('SIGKILL')
    const [begun, ...others] = pending.splice(0)
    begun?.reject(gone)
    for (const { reject } of others) reject(new NotBegunError('The executor ended before it came to this.'))
  }
  const receive = messageReader(answerLimit, (message) => {
    if (message.id !== pending[0]?.id) return end(new ExecutorDiedError('The executor answered what nobody asked.'))
    pending.shift()!.resolve(message)
    watch()
  })
  socket.on('data', (chunk: Uint8Array) => {
    try {
      if (!gone) receive(chunk)
    } catch {
      // What runs models may be made to say anything; a process that talks nonsense has lost its trust.
      end(new ExecutorDiedError('The executor sent bytes that are no message.'))
    }
  })
  socket.on('error', () => end(new ExecutorDiedError('The executor process is gone.')))
  child.on('error', (error) => end(new ExecutorDiedError(`The executor process did not start: ${error.message}`)))
  const ended = new Promise<void>((resolve) => {
    const finish = () => {
      end(new ExecutorDiedError('The executor process died.'))
      resolve()
    }
    // What it answered before it died may still lie in the socket, and tells which request it died of.
    const bury = () => {
      if (gone || socket.closed) return finish()
      const timer = setTimeout(finish, lastWordsMs)
      socket.once('close', () => {
        clearTimeout(timer)
        finish()
      })
    }
    child.once('exit', bury)
    if (child.pid === undefined) child.once('error', finish)
  })

  const expect = (id: number, limitMs: number, late: () => Error): Promise<Message> =>
    new Promise<Message>((resolve, reject) => {
      if (gone) return reject(gone)
      pending.push({ id, until: performance.now() + limitMs, late, resolve, reject })
      if (pending.length === 1) watch()
    })
  const ready = expect(
    0,
    startLimitMs,
    () => new ExecutorDiedError('The executor process did not start in time.'),
  ).then(({ text }) => {
    started = true
    return JSON.parse(text) as string[]
  })
  // The process stands in it and needs it no more: nothing can be put there, and nothing is left on disk however this process ends.
  ready.catch(() => {}).finally(() => rmSync(cwd, { recursive: true, force: true }))

  return {
    pid: child.pid,
    ready,
    ended,
    async request({ kind, text, tensors }, limitMs) {
      // A turn given away would let another request overtake this one.
      if (!started) await ready
      if (pending.length >= mostPending) throw new Error('An executor takes one request ahead and no more.')
      const id = nextId++
      const answer = expect(id, limitMs, () => new RunDeadlineError(`The run took longer than ${limitMs} ms.`))
      if (!gone) send(socket, encodeMessage({ kind, id, text, tensors }))
      const message = await answer
      if (message.kind === kinds.failed) throw new ModelError(message.text)
      return message.tensors
    },
    kill() {
      killed = true
      end(new ExecutorDiedError('The executor process was stopped.'))
    },
    pending: () => pending.length,
    gone: () => gone !== null,
    diedByItself: () => gone !== null && !killed,
  }
}

function spawnIn(cwd: string, command: readonly string[], env: Record<string, string>): ChildProcess {
  try {
    const child = spawn(command[0]!, command.slice(1), { cwd, env, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] })
    // Without file descriptors left there is no socket, and an error that comes later.
    child.on('error', () => {})
    if (!child.stdio) throw new ExecutorDiedError('No executor process can be started: too many files are open.')
    return child
  } catch (error) {
    rmSync(cwd, { recursive: true, force: true })
    throw error
  }
}

function send(socket: Socket, parts: readonly Uint8Array[]): void {
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  if (length <= gatherBelow) {
    socket.write(parts.length === 1 ? parts[0]! : Buffer.concat(parts, length))
    return
  }
  socket.cork()
  for (const part of parts) socket.write(part)
  socket.uncork()
}

/** Puts messages together from what a socket brings. The function it gives throws WireError on bytes that are none. */
function messageReader(limit: number, deliver: (message: Message) => void): (chunk: Uint8Array) => void {
  let prefix: Uint8Array = new Uint8Array(0)
  let message: Uint8Array | null = null
  let have = 0
  return (chunk) => {
    let rest = chunk
    while (rest.length > 0) {
      if (!message) {
        if (prefix.length > 0) rest = Buffer.concat([prefix, rest])
        prefix = new Uint8Array(0)
        if (rest.length < prefixLength) {
          prefix = rest.slice()
          return
        }
        const length = messageLength(rest, limit)
        if (rest.length >= length) {
          deliver(decodeMessage(rest.subarray(0, length)))
          rest = rest.subarray(length)
          continue
        }
        message = Buffer.allocUnsafeSlow(length)
        have = 0
      }
      const part = rest.subarray(0, message.length - have)
      message.set(part, have)
      have += part.length
      rest = rest.subarray(part.length)
      if (have < message.length) return
      const whole = message
      message = null
      deliver(decodeMessage(whole))
    }
  }
}
