import { randomBytes } from 'node:crypto'
import * as files from 'node:fs/promises'
import { join } from 'node:path'
import type { EvidenceOf } from '../../protocol/evidence/index.ts'
import type { Tee } from './tee.ts'

/** Reports that the machine gives no evidence of itself, and what to do. */
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

// AMD SEV-ES guest-hypervisor communication block, §4.1.8.1: the certificate table names its entries by GUID.
const vlekGuid = 'c24b07a85aa23e48aae639c045a0b8a1'

/** Reads the VLEK out of a certificate table, where the host has put one; null where it has not. Throws TeeUnavailableError on a table that lies about its size. */
function readVlek(table: Uint8Array): Uint8Array | null {
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength)
  for (let at = 0; at + 24 <= table.length; at += 24) {
    const guid = Buffer.from(table.subarray(at, at + 16)).toString('hex')
    if (/^0+$/.test(guid)) return null
    const [offset, length] = [view.getUint32(at + 16, true), view.getUint32(at + 20, true)]
    if (offset + length > table.length)
      throw new TeeUnavailableError("The host's certificate table is cut off; ask the provider of the machine.")
    if (guid === vlekGuid) return table.slice(offset, offset + length)
  }
  return null
}

/** Takes TDX quotes and SNP reports from the kernel (Linux ABI testing/configfs-tsm-report): one directory a request, and the generation must be the one this write made, or another writer was in between. */
export function configfsTsm(
  root = '/sys/kernel/config/tsm/report',
  { mkdir, readFile, writeFile, rmdir }: FileOperations = files,
): Tee {
  const read = async (path: string) => new Uint8Array(await readFile(path))
  const text = async (path: string) =>
    Buffer.from(await read(path))
      .toString('utf8')
      .trim()

  const readReport = async (entry: string): Promise<EvidenceOf<'tdx' | 'snp'>> => {
    const provider = await text(join(entry, 'provider'))
    if (provider === 'tdx_guest') return { format: 'tdx', quote: await read(join(entry, 'outblob')) }
    if (provider !== 'sev_guest')
      throw new TeeUnavailableError(`The kernel's TEE is "${provider}"; this runner takes tdx_guest and sev_guest.`)
    const report = await read(join(entry, 'outblob'))
    const vlek = readVlek(await read(join(entry, 'auxblob')).catch(() => new Uint8Array()))
    return { format: 'snp', report, ...(vlek ? { vlek } : {}) }
  }

  return {
    root: 'vendor',
    async evidence(reportData) {
      const entry = join(root, `assay-${randomBytes(8).toString('hex')}`)
      await mkdir(entry).catch((cause) => {
        throw new TeeUnavailableError(
          `No TEE reports at ${root}: is this a TDX or SNP guest with Linux 6.7 or newer?`,
          {
            cause,
          },
        )
      })
      try {
        const generation = async () => Number(await text(join(entry, 'generation')))
        const before = await generation()
        await writeFile(join(entry, 'inblob'), reportData)
        const evidence = await readReport(entry)
        if ((await generation()) !== before + 1)
          throw new TeeUnavailableError('Another writer changed the report while it was read; try again.')
        return evidence
      } finally {
        await rmdir(entry).catch(() => {})
      }
    },
  }
}
