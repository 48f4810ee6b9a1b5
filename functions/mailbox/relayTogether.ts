import { joinFrames, setDeadline, splitFrames } from '../../protocol/frames.ts'
import type { MailboxStub, Relayed, RelayedTogether } from '../platform.ts'

/** Calls that jobs left over share before each asks by itself: every call carries their bytes again. */
const maxCalls = 8

/** One of several jobs: its frame, and how long its buyer waits for it. */
export type TogetherJob = { bytes: Uint8Array; deadlineMs: number }

/** What became of the job at one place; `error` is what the call of its mailbox threw. */
export type Ended = { place: number; frame?: Uint8Array; problem?: Relayed['problem']; error?: unknown }

/** What ended together, and the runner's load as it was then; null where the mailbox did not tell. */
export type EndedTogether = { load: RelayedTogether['load'] | null; ended: Ended[] }

/** Hands several jobs to a runner's mailbox and gives what becomes of them as they end. A call returns with the first of them, so those left over are asked for again, which the mailbox joins; after a call that brought nothing, since all of them are slow or one is too large to share, each asks by itself. */
export async function* relayTogether(
  stub: Pick<MailboxStub, 'job' | 'jobs'>,
  { runner, body, jobs, now }: { runner: string; body: ArrayBuffer; jobs: readonly TogetherJob[]; now: () => number },
): AsyncGenerator<EndedTogether, void> {
  const startedAt = now()
  /** Gives the bytes of a job that is asked for again: what it waited is gone. */
  const again = (place: number): Uint8Array<ArrayBuffer> => {
    const { bytes, deadlineMs } = jobs[place]!
    const copy = bytes.slice()
    setDeadline(copy, Math.max(1, deadlineMs - (now() - startedAt)))
    return copy
  }
  let left = jobs.map((_, place) => place)
  for (let call = 0; left.length > 1 && call < maxCalls; call++) {
    const bodies = call === 0 ? body : joinFrames(left.map(again)).buffer
    let together: EndedTogether
    try {
      together = endedOf(left, await stub.jobs(runner, bodies))
    } catch (error) {
      yield { load: null, ended: left.map((place) => ({ place, error })) }
      return
    }
    if (together.ended.length === 0) break
    yield together
    const done = new Set(together.ended.map(({ place }) => place))
    left = left.filter((place) => !done.has(place))
  }
  yield* asTheyEnd(left, async (place) => {
    try {
      const { queued, capacity, ...ended } = await stub.job(runner, again(place).buffer)
      return { load: { queued, capacity }, ended: [{ place, ...ended }] }
    } catch (error) {
      return { load: null, ended: [{ place, error }] }
    }
  })
}

function endedOf(places: readonly number[], together: RelayedTogether): EndedTogether {
  const ended = outcomesOf(together).map((outcome, index) => outcome && { place: places[index]!, ...outcome })
  return { load: together.load, ended: ended.filter((each) => each !== null) }
}

/** Gives what became of each job of a call: its answer's frame, the problem it met, or null where it has not ended. */
export function outcomesOf({
  answers,
  problems,
}: RelayedTogether): (Required<Pick<Relayed, 'frame'>> | Required<Pick<Relayed, 'problem'>> | null)[] {
  const frames = splitFrames(new Uint8Array(answers)) as Uint8Array<ArrayBuffer>[]
  return frames.map((frame, place) => {
    if (frame.length > 0) return { frame }
    const problem = problems[place]
    return problem ? { problem } : null
  })
}

/** Starts works together and gives their results in the order in which they end. The works must not reject. */
async function* asTheyEnd<T>(places: readonly number[], work: (place: number) => Promise<T>): AsyncGenerator<T, void> {
  const underWay = new Map(places.map((place) => [place, work(place).then((result) => ({ place, result }))]))
  while (underWay.size > 0) {
    const { place, result } = await Promise.race(underWay.values())
    underWay.delete(place)
    yield result
  }
}
