import { join } from 'node:path'
import { startExecutorProcess } from './executorProcess.ts'

const withoutNetwork = ['/usr/bin/unshare', '--net', '--'] as const
/** The user and group that own nothing. */
const asNobody = [
  '/usr/bin/setpriv',
  '--reuid=65534',
  '--regid=65534',
  '--clear-groups',
  '--inh-caps=-all',
  '--no-new-privs',
  '--',
] as const

/** What can be put before a program, the strictest first: no network and a user that owns nothing (root may), no network (root may), no network (anybody may where user namespaces are on). See unshare(1), setpriv(1) and network_namespaces(7). */
const ways: readonly (readonly string[])[] = [
  [...withoutNetwork, ...asNobody],
  withoutNetwork,
  ['/usr/bin/unshare', '--user', '--net', '--'],
]

/** Finds the strictest way in which an executor starts on this system, so that a model which takes over its process reads no file of the runner's and tells nobody what it saw. Gives the words to put before the program; none where the system allows nothing of the kind. */
export async function findSandbox(candidates = ways): Promise<readonly string[]> {
  const main = join(import.meta.dirname, 'executorMain.ts')
  for (const sandbox of candidates) {
    const executor = startExecutorProcess({ answerLimit: 65_536, main, sandbox })
    const starts = await executor.ready.then(
      () => true,
      () => false,
    )
    executor.kill()
    await executor.ended
    if (starts) return sandbox
  }
  return []
}
