import { randomUUID } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { PublishedVerdict } from '../protocol/publishedVerdict.ts'
import type { VerdictStore } from './app.ts'

/** Keeps published verdicts as files, one a digest. */
export function fileStore(folder: string): VerdictStore {
  const pathOf = (digest: string) => join(folder, `${digest}.json`)
  return {
    async put(digest, verdict) {
      await mkdir(folder, { recursive: true })
      // Written aside first, so that a crash leaves the old record or the new one.
      const part = `${pathOf(digest)}.${randomUUID()}.part`
      await writeFile(part, JSON.stringify(verdict))
      await rename(part, pathOf(digest))
    },
    async get(digest) {
      try {
        return JSON.parse(await readFile(pathOf(digest), 'utf8')) as PublishedVerdict
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
        throw error
      }
    },
  }
}
