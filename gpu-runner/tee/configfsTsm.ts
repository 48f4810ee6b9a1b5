import { randomBytes } from 'node:crypto'
import * as files from 'node:fs/promises'
import { join } from 'node:path'
import type { Tee } from './tee.ts'

/** Reports that the machine gives no TDX quote. */
export class TeeUnavailableError extends Error {
  override name = 'TeeUnavailableError'
}

/** Names the file operations configfs answers to. */
export type FileOperations = {
  mkdir(path: string): Promise<unknown>
  readFile(path: string): Promise<Uint8Array>
  writeFile(path: string, data: Uint8Array): Promise<void>
  rmdir(path: string): Promise<void>
}

/** Takes TDX quotes from the kernel (Linux ABI testing/configfs-tsm-report): one directory a request, and the generation must be the one this write made, or another writer was in between. */
export function configfsTsm(
  root = '/sys/kernel/config/tsm/report',
  { mkdir, readFile, writeFile, rmdir }: FileOperations = files,
): Tee {
  const text = async (path: string) =>
    Buffer.from(await readFile(path))
      .toString('utf8')
      .trim()
  return {
    root: 'vendor',
    async evidence(reportData) {
      const entry = join(root, `assay-${randomBytes(8).toString('hex')}`)
      await mkdir(entry).catch((cause) => {
        throw new TeeUnavailableError(`No TEE reports at ${root}: is this a TDX guest with Linux 6.7 or newer?`, {
          cause,
        })
      })
      try {
        const generation = async () => Number(await text(join(entry, 'generation')))
        const before = await generation()
        await writeFile(join(entry, 'inblob'), reportData)
        const provider = await text(join(entry, 'provider'))
        if (provider !== 'tdx_guest')
          throw new TeeUnavailableError(`The kernel's TEE is "${provider}"; this runner takes tdx_guest.`)
        const quote = new Uint8Array(await readFile(join(entry, 'outblob')))
        if ((await generation()) !== before + 1)
          throw new TeeUnavailableError('Another writer changed the report while it was read; try again.')
        return { format: 'tdx', quote }
      } finally {
        await rmdir(entry).catch(() => {})
      }
    },
  }
}
