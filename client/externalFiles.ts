import { readFileSync, realpathSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import type { ExternalFile } from './publish.ts'

/** Reports a file that a graph names and that is not read: it is missing, or stands where no model's data does. */
export class ExternalFileError extends Error {
  override name = 'ExternalFileError'
}

/** Refuses a path that leads out of the model's folder. Throws ExternalFileError. */
export function checkExternalPath(path: string): void {
  const parts = path.split('/')
  if (!/^[A-Za-z0-9_./-]+$/.test(path) || parts.some((part) => part === '' || part === '.' || part === '..'))
    throw new ExternalFileError(`The graph keeps data in ${JSON.stringify(path)}, which is no plain path beside it.`)
}

/** Reads the files that a graph keeps data in, from beside it. A graph may come from anyone and what it names is published, so nothing outside its folder is read, not even through a link. Throws ExternalFileError. */
export function readExternalFiles(modelPath: string, locations: readonly string[]): ExternalFile[] {
  const folder = realpathSync(dirname(modelPath))
  return locations.map((path) => {
    checkExternalPath(path)
    let real: string
    try {
      real = realpathSync(join(folder, path))
    } catch {
      throw new ExternalFileError(`The graph keeps data in ${path}, which is not beside it.`)
    }
    if (relative(folder, real) !== path)
      throw new ExternalFileError(`${path} is a link, and what a graph names is published; put the file itself there.`)
    return { path, data: new Uint8Array(readFileSync(real)) }
  })
}
