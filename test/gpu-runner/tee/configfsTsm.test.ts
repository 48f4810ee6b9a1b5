import { describe, expect, test } from 'vitest'
import { configfsTsm, type FileOperations } from '../../../gpu-runner/tee/configfsTsm.ts'

/** Behaves as configfs does: a directory brings its files, a write to inblob raises the generation and makes a report, rmdir takes all away. */
function fakeConfigfs({ provider = 'tdx_guest', otherWriter = false, present = true } = {}) {
  const entries = new Map<string, { generation: number; inblob: Uint8Array | null }>()
  const split = (path: string) => [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)] as const
  const operations: FileOperations = {
    async mkdir(path) {
      if (!present) throw Object.assign(new Error('ENOENT'), { code: 'ENOENT' })
      entries.set(path, { generation: 0, inblob: null })
    },
    async readFile(path) {
      const [folder, name] = split(path)
      const entry = entries.get(folder)
      if (!entry) throw new Error('ENOENT')
      if (name === 'generation') return Buffer.from(`${entry.generation}\n`)
      if (name === 'provider') return Buffer.from(`${provider}\n`)
      if (name === 'outblob' && entry.inblob) {
        if (otherWriter) entry.generation++
        return Uint8Array.from([4, 0, ...entry.inblob])
      }
      throw new Error('EINVAL')
    },
    async writeFile(path, data) {
      const [folder, name] = split(path)
      const entry = entries.get(folder)
      if (!entry || name !== 'inblob' || data.length > 64) throw new Error('EINVAL')
      entry.inblob = data
      entry.generation++
    },
    async rmdir(path) {
      entries.delete(path)
    },
  }
  return { operations, entries }
}

describe('configfsTsm', () => {
  const reportData = new Uint8Array(64).fill(3)

  test('behavior: writes the report data, reads the quote, and leaves no directory behind', async () => {
    const { operations, entries } = fakeConfigfs()
    const evidence = await configfsTsm('/tsm', operations).evidence(reportData)
    expect(evidence).toEqual({ format: 'tdx', quote: Uint8Array.from([4, 0, ...reportData]) })
    expect(entries.size).toBe(0)
  })

  test('refusal: another writer in between', async () => {
    const { operations, entries } = fakeConfigfs({ otherWriter: true })
    await expect(configfsTsm('/tsm', operations).evidence(reportData)).rejects.toThrow('Another writer')
    expect(entries.size).toBe(0)
  })

  test('refusal: another kind of TEE, or none', async () => {
    await expect(
      configfsTsm('/tsm', fakeConfigfs({ provider: 'sev_guest' }).operations).evidence(reportData),
    ).rejects.toThrow('sev_guest')
    await expect(configfsTsm('/tsm', fakeConfigfs({ present: false }).operations).evidence(reportData)).rejects.toThrow(
      'TDX guest',
    )
  })
})
