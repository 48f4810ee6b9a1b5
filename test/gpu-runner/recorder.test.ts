import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import { newChannel } from '../../gpu-runner/channels.ts'
import { byteText, digestText } from '../../gpu-runner/digestText.ts'
import { openJournal } from '../../gpu-runner/journal.ts'
import { createNativeEnvelope } from '../../gpu-runner/nativeEnvelope.ts'
import { type Outcome, type RecordedAnswer, Recorder } from '../../gpu-runner/recorder.ts'
import { createRunnerSigner } from '../../gpu-runner/signer.ts'
import { fromHex, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { jobStatus } from '../../protocol/receipt.ts'
import { channelOf } from '../../protocol/terms.ts'
import { domain, termsOf } from './terms.ts'

const signer = createRunnerSigner(sha256(utf8('test key: runner')))
const terms = termsOf('recorder', { runner: signer.address })
const zero = () => new Uint8Array(32)

describe('a recorder', () => {
  const folder = mkdtempSync(join(tmpdir(), 'assay-recorder-'))
  const closing: (() => void)[] = []
  afterAll(() => {
    for (const close of closing) close()
    rmSync(folder, { recursive: true, force: true })
  })

  /** Opens a recorder on a real journal, with a clock and timers turned by hand. */
  function open(name: string) {
    const journal = openJournal(join(folder, `${name}.sqlite`))
    closing.push(() => journal.close())
    const clock = { at: 1_000 }
    const timers: { at: number; run: () => void }[] = []
    const recorder = new Recorder({
      domain,
      signer,
      journal,
      now: () => 1_800_000_000_000,
      elapsed: () => clock.at,
      after: (ms, run) => {
        const timer = { at: clock.at + ms, run }
        timers.push(timer)
        return () => {
          if (timers.includes(timer)) timers.splice(timers.indexOf(timer), 1)
        }
      },
    })
    const id = fromHex(channelOf(domain, terms), 32)
    const channel = newChannel(id, terms, byteText(id))
    const envelope = createNativeEnvelope(id, { request: zero(), answer: zero(), salt: zero() })
    const answers: RecordedAnswer[] = []
    let next = 1n
    /** Makes the outcome of a job that has waited so long. */
    const outcome = (waitedMs: number): Outcome => {
      const job = next++
      const accepted = {
        channel,
        job,
        bodyHash: digestText(utf8(`body ${job}`)),
        envelope,
        input: zero(),
        execution: zero(),
        begun: clock.at - waitedMs,
        stage: 'recorded' as const,
        done: (answer: RecordedAnswer) => void answers.push(answer),
        failed: (error: Error) => {
          throw error
        },
      }
      const data = new Uint8Array(4)
      return { job: accepted, status: jobStatus.ok, outputs: [{ name: 'y', datatype: 'FP32', shape: [1], data }] }
    }
    const pass = (ms: number) => {
      clock.at += ms
      for (const timer of timers.splice(0)) timer.at <= clock.at ? timer.run() : timers.push(timer)
    }
    const answered = async (count: number) => {
      while (answers.length < count) await turn()
      return answers.map(({ proof }) => proof.count)
    }
    return { recorder, outcome, pass, timers, answers, answered }
  }

  test('behavior: a job answered at once waits for nobody', async () => {
    const { recorder, outcome, timers, answered } = open('at-once')
    recorder.push([outcome(0)])
    expect(await answered(1)).toEqual([1])
    recorder.push([outcome(15)])
    expect(await answered(2)).toEqual([1, 1])
    expect(timers).toEqual([])
  })

  test('behavior: jobs that stood in line share a receipt batch, which waits a sixteenth of what they waited', async () => {
    const { recorder, outcome, pass, timers, answers, answered } = open('in-line')
    recorder.push([outcome(64)])
    expect(timers.map(({ at }) => at)).toEqual([1_004])
    pass(2)
    recorder.push([outcome(64)])
    // The first one's time counts.
    expect(timers.map(({ at }) => at)).toEqual([1_004])
    pass(1)
    await turn()
    expect(answers).toEqual([])
    pass(1)
    expect(await answered(2)).toEqual([2, 2])
    expect(answers.map(({ receipt }) => receipt.cumulative)).toEqual([10n, 20n])
  })

  test('behavior: one that cannot wait takes the others with it', async () => {
    const { recorder, outcome, pass, timers, answered } = open('impatient')
    recorder.push([outcome(100)])
    pass(1)
    recorder.push([outcome(2)])
    expect(await answered(2)).toEqual([2, 2])
    expect(timers).toEqual([])
  })

  test('behavior: no receipt waits longer than sixteen milliseconds, nor where half a full batch is there', async () => {
    const { recorder, outcome, pass, timers, answered } = open('bounds')
    recorder.push([outcome(3_600_000)])
    expect(timers.map(({ at }) => at)).toEqual([1_016])
    pass(16)
    expect(await answered(1)).toEqual([1])
    recorder.push(Array.from({ length: 31 }, () => outcome(100)))
    expect(timers).toHaveLength(1)
    recorder.push([outcome(100)])
    expect(await answered(33)).toEqual([1, ...Array(32).fill(32)])
    expect(timers).toEqual([])
  })
})
