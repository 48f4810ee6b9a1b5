import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, describe, expect, test } from 'vitest'
import { type Journal, type JournalEntry, openJournal } from '../../gpu-runner/journal.ts'
import { fromHex, toHex, utf8 } from '../../protocol/bytes.ts'
import { encodeJobAnswer } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { domain, termsOf } from './terms.ts'

const idOf = (terms: Terms) => fromHex(channelOf(domain, terms), 32)
const bytes = (label: string) => new Uint8Array(sha256(utf8(label)))

function entryOf(terms: Terms, job: bigint, { cumulative = 10n * job, finishedAt = 1_800_000_000n, size = 100 } = {}) {
  const channel = idOf(terms)
  const detail = { input: bytes('in'), output: bytes('out'), execution: bytes('execution'), price: 10n }
  const receipt = { channel, job, status: 0, cumulative, finishedAt, detail: bytes('detail') }
  const signature = new Uint8Array(65).fill(7)
  const proof = { index: 0, count: 2, path: [bytes('sibling')] }
  const answer = new Uint8Array(size).fill(Number(job % 256n))
  const frame = encodeJobAnswer({ ticket: 0, receipt, detail, signature, proof, body: answer })
  return { channel, job, bodyHash: bytes(`body ${job}`), receipt, detail, signature, proof, answer, frame }
}
const vouched = (terms: Terms, cumulative: bigint) => ({
  channel: idOf(terms),
  terms,
  voucher: { cumulative, signature: new Uint8Array(65).fill(Number(cumulative % 251n)) },
})

describe('openJournal', () => {
  const folder = mkdtempSync(join(tmpdir(), 'assay-journal-'))
  const opened: Journal[] = []
  let files = 0
  afterAll(() => {
    for (const journal of opened) journal.close()
    rmSync(folder, { recursive: true, force: true })
  })
  const nextPath = () => join(folder, `${files++}.sqlite`)
  const open = (path = nextPath(), options: { maxBytes?: number } = {}) => {
    const journal = openJournal(path, options)
    opened.push(journal)
    return journal
  }

  test('behavior: a batch of several channels is found again, job by job, whatever the order of its numbers', async () => {
    const journal = open()
    const [one, two] = [termsOf('one'), termsOf('two')]
    const jobs = [5n, 1n, 2n, 2_000n, 2n ** 64n - 1n]
    const entries = [...jobs.map((job) => entryOf(one, job)), entryOf(two, 3n)]
    await journal.commit(entries, [vouched(one, 500n), vouched(two, 30n)])
    for (const entry of entries) expect(journal.find(entry.channel, entry.job)).toEqual(entry)
    for (const job of [0n, 3n, 4n, 6n, 1_999n, 2_001n]) expect(journal.find(idOf(one), job)).toBeNull()
    expect(journal.find(idOf(two), 5n)).toBeNull()
    expect([journal.count(idOf(one)), journal.count(idOf(two))]).toEqual([5, 1])
    expect(journal.runners()).toEqual([one.runner])
    expect(journal.channelsOf(one.runner).map(toHex).sort()).toEqual(
      [one, two].map((terms) => toHex(idOf(terms))).sort(),
    )
  })

  test('attack: a receipt or voucher that covers less never replaces one that covers more', async () => {
    const journal = open()
    const terms = termsOf('order')
    await journal.commit([entryOf(terms, 9n)], [vouched(terms, 90n)])
    await journal.commit([entryOf(terms, 3n)], [vouched(terms, 30n)])
    await journal.commit([entryOf(terms, 4n)], [{ channel: idOf(terms), terms, voucher: null }])
    expect(journal.latest(idOf(terms))).toMatchObject({ job: 9n, receipt: { cumulative: 90n } })
    expect(journal.channel(idOf(terms))).toEqual({ terms, voucher: vouched(terms, 90n).voucher })
    expect(journal.totals()).toEqual([{ channel: idOf(terms), terms, vouched: 90n, cumulative: 90n }])
    expect(journal.count(idOf(terms))).toBe(3)
  })

  test('behavior: what was committed is there for whoever opens the file next', async () => {
    const path = nextPath()
    const terms = termsOf('again')
    const journal = openJournal(path)
    await journal.commit([entryOf(terms, 1n)], [vouched(terms, 10n)])
    journal.close()
    expect(open(path).find(idOf(terms), 1n)).toEqual(entryOf(terms, 1n))
  })

  test('fault: a full disk refuses the batch, keeps what it had, and takes the next once there is room', async () => {
    const path = nextPath()
    const terms = termsOf('full')
    const journal = openJournal(path, { maxBytes: 256 * 1_024 })
    opened.push(journal)
    await journal.commit([entryOf(terms, 1n)], [vouched(terms, 10n)])
    const large = entryOf(terms, 2n, { size: 400_000, finishedAt: 1_800_000_100n })
    await expect(journal.commit([large], [vouched(terms, 20n)])).rejects.toMatchObject({ name: 'JournalError' })
    expect(journal.find(idOf(terms), 2n)).toBeNull()
    expect(journal.latest(idOf(terms))).toMatchObject({ job: 1n })
    expect(journal.channel(idOf(terms))?.voucher?.cumulative).toBe(10n)
    await journal.commit([entryOf(terms, 3n, { cumulative: 20n })], [vouched(terms, 20n)])
    expect(journal.latest(idOf(terms))).toMatchObject({ job: 3n, receipt: { cumulative: 20n } })
  })

  test('behavior: answers go in time; receipts stay until their terms can be claimed no more', async () => {
    const journal = open()
    const [live, over] = [termsOf('live'), termsOf('over', { expiresAt: 1_800_000_500n })]
    await journal.commit([entryOf(live, 1n), entryOf(over, 1n)], [vouched(live, 10n), vouched(over, 10n)])
    await journal.commit([entryOf(live, 2n, { finishedAt: 1_800_000_900n })], [vouched(live, 20n)])
    await journal.prune({ answersBefore: 1_800_000_500, termsBefore: 1_800_000_501 })
    expect(journal.find(idOf(live), 1n)).toBeNull()
    expect(journal.find(idOf(live), 2n)).not.toBeNull()
    expect(journal.latest(idOf(live))).toMatchObject({ job: 2n })
    expect(journal.channel(idOf(over))).toBeNull()
    await journal.prune({ answersBefore: 1_900_000_000, termsBefore: 0 })
    expect(journal.find(idOf(live), 2n)).toBeNull()
    expect(journal.latest(idOf(live))).toMatchObject({ job: 2n, receipt: { cumulative: 20n } })
  })

  test('refusal: a journal of another version is neither read nor touched', () => {
    const path = nextPath()
    const old = new DatabaseSync(path)
    old.exec('CREATE TABLE receipts (channel BLOB); PRAGMA user_version = 1')
    old.close()
    expect(() => openJournal(path)).toThrow('Settle it with the program that wrote it')
    expect(existsSync(path)).toBe(true)
  })

  test('refusal: a receipt of a channel without terms', async () => {
    const entry: JournalEntry = entryOf(termsOf('nobody'), 1n)
    await expect(open().commit([entry], [])).rejects.toMatchObject({ name: 'JournalError' })
  })
})
