import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { promisify } from 'node:util'

/** Where util-linux puts its tool for namespaces. */
const unsharePaths = ['/usr/bin/unshare', '/bin/unshare'] as const

/** The ways to start a program without a network, the plain one for root first (unshare(1), network_namespaces(7)). */
const ways = [['--net'], ['--user', '--net']] as const

/** Finds a command that starts a program with no network at all, so that a model which takes over its process cannot tell anyone what it saw. Gives the words to put before the program; none where the system allows it to nobody. */
export async function findSandbox(paths: readonly string[] = unsharePaths): Promise<string[]> {
  const unshare = paths.find((path) => existsSync(path))
  if (!unshare) return []
  for (const way of ways) {
    const words = [unshare, ...way, '--']
    const works = await promisify(execFile)(words[0]!, [...words.slice(1), process.execPath, '--version'], {
      env: {},
      timeout: 10_000,
    }).then(
      () => true,
      () => false,
    )
    if (works) return words
  }
  return []
}
