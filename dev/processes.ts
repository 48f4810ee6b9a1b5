import type { ChildProcess } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Finds a TCP port nobody listens on at 127.0.0.1. */
export async function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port')),
      )
    })
  })
}

/** Polls `ready` until it holds. Throws with what the process last wrote to standard error when it dies or the time runs out; the process is stopped then. */
export async function untilReady(
  name: string,
  child: ChildProcess,
  timeoutMs: number,
  ready: () => Promise<boolean>,
): Promise<void> {
  let tail = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    tail = (tail + chunk.toString()).slice(-2_000)
  })
  let spawnError: Error | undefined
  child.once('error', (error) => {
    spawnError = error
  })
  const deadline = Date.now() + timeoutMs
  while (Date.now() < deadline) {
    if (spawnError) throw new Error(`The ${name} could not be started: ${spawnError.message}`)
    if (child.exitCode !== null || child.signalCode !== null) break
    if (await ready().catch(() => false)) return
    await sleep(25)
  }
  await stopProcess(child)
  throw new Error(`The ${name} did not come up. ${tail.trim()}`)
}

/** Asks a process to end and waits; kills it when it has not ended after `graceMs`. */
export async function stopProcess(child: ChildProcess, graceMs = 10_000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  await ended
  clearTimeout(timer)
}

/** Kills a process without a word (SIGKILL), and waits until it is gone. */
export async function killProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  child.kill('SIGKILL')
  await ended
}

/** Lists the children of a process by the name of their executable; Linux only. */
export async function childrenOf(parent: number, name: string): Promise<number[]> {
  const ids = (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))
  const found = await Promise.all(
    ids.map(async (id) => {
      const stat = await readFile(`/proc/${id}/stat`, 'utf8').catch(() => '')
      const [, command, , ppid] = /^\d+ \((.*)\) (\S) (\d+)/.exec(stat) ?? []
      return command === name && Number(ppid) === parent ? [Number(id)] : []
    }),
  )
  return found.flat()
}
