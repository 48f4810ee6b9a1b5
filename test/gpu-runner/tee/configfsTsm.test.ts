import { describe, expect, test } from 'vitest'
import { configfsTsm, type FileOperations } from '../../../gpu-runner/tee/configfsTsm.ts'

/** Behaves as configfs does: a directory brings its files, a write to inblob raises the generation and makes a report, rmdir takes all away. */
function fakeConfigfs({
  provider = 'tdx_guest',
  otherWriter = false,
  present = true,
  auxblob,
}: {
  provider?: string
  otherWriter?: boolean
  present?: boolean
  auxblob?: Uint8Array
} = {}) {
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
      if (name === 'auxblob' && entry.inblob && auxblob) return auxblob
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

  test('behavior: an SNP guest gives its report, and the VLEK where the host put one in the table', async () => {
    const vlek = new Uint8Array([0x30, 1, 2, 3])
    const other = new Uint8Array(40).fill(9)
    const table = new Uint8Array(24 * 3 + other.length + vlek.length)
    const view = new DataView(table.buffer)
    const entry = (at: number, guid: string, offset: number, length: number) => {
      table.set(Buffer.from(guid, 'hex'), at)
      view.setUint32(at + 16, offset, true)
      view.setUint32(at + 20, length, true)
    }
    entry(0, '63da758de6644564adc5f4b93be8accd', 72, other.length)
    entry(24, 'c24b07a85aa23e48aae639c045a0b8a1', 72 + other.length, vlek.length)
    table.set(other, 72)
    table.set(vlek, 72 + other.length)
    const report = Uint8Array.from([4, 0, ...reportData])
    const take = (auxblob?: Uint8Array) =>
      configfsTsm('/tsm', fakeConfigfs({ provider: 'sev_guest', ...(auxblob ? { auxblob } : {}) }).operations).evidence(
        reportData,
      )
    expect(await take(table)).toEqual({ format: 'snp', report, vlek })
    expect(await take(new Uint8Array(24))).toEqual({ format: 'snp', report })
    expect(await take()).toEqual({ format: 'snp', report })
    view.setUint32(24 + 20, 10_000, true)
    await expect(take(table)).rejects.toThrow('certificate table')
  })

  test('refusal: another kind of TEE, or none', async () => {
    await expect(
      configfsTsm('/tsm', fakeConfigfs({ provider: 'arm_cca_guest' }).operations).evidence(reportData),
    ).rejects.toThrow('arm_cca_guest')
    await expect(configfsTsm('/tsm', fakeConfigfs({ present: false }).operations).evidence(reportData)).rejects.toThrow(
      'TDX or SNP guest',
    )
  })
})
