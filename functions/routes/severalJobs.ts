import { EncodingError, type Hex } from '../../protocol/bytes.ts'
import { decodeFrame, encodeJobProblem, jobsType, joinFrames, splitFrames } from '../../protocol/frames.ts'
import type { Context } from '../context.ts'
import { AssayError, type ErrorCode, openHeaders, problemBody, shownError } from '../errors.ts'
import { type Ended, type EndedTogether, relayTogether, type TogetherJob } from '../mailbox/relayTogether.ts'
import type { Match } from '../services/match.ts'
import type { Posted } from './jobs.ts'
import { nextMatch } from './nextMatch.ts'

/** Most bytes of several jobs. */
export const maxJobsBytes = 8 * 1024 * 1024
/** Most jobs of one request. */
const maxJobs = 64

const severalJobs = /^application\/vnd\.assay\.jobs\s*(?:;|$)/i

/** Tells whether a request says that it posts several jobs. */
export function isSeveral(request: Request): boolean {
  const type = request.headers.get('content-type')
  return type !== null && severalJobs.test(type)
}

type Job = TogetherJob & { ticket: number }

/** Reads the jobs of a body. Throws `invalid_request` where any of them is none, before any of them is handed on. */
function readJobs(body: ArrayBuffer): Job[] {
  const refuse = (detail: string, hint: string) => new AssayError('invalid_request', detail, { hint })
  let frames: Uint8Array[]
  try {
    frames = splitFrames(new Uint8Array(body))
  } catch {
    throw refuse('The last job is cut off.', 'Put its length in bytes before each frame, as a u32.')
  }
  if (frames.length === 0) throw refuse('There is no job in the body.', 'Post one frame at least.')
  if (frames.length > maxJobs)
    throw refuse(`A request carries at most ${maxJobs} jobs, not ${frames.length}.`, 'Post the others in another one.')
  const seen = new Set<number>()
  return frames.map((bytes, place) => {
    const { ticket, deadlineMs } = readJob(bytes, place)
    if (seen.has(ticket))
      throw refuse(`Two jobs have the ticket ${ticket}.`, 'Give each a ticket of its own: its answer carries it.')
    seen.add(ticket)
    return { bytes, ticket, deadlineMs }
  })
}

function readJob(bytes: Uint8Array, place: number): { ticket: number; deadlineMs: number } {
  const refuse = (why: string) =>
    new AssayError('invalid_request', `Frame ${place + 1} is no job request. ${why}`.trim(), {
      hint: 'Frames are described in docs/protocol.md; the SDK writes them.',
    })
  try {
    const frame = decodeFrame(bytes)
    if (frame.type === 'jobRequest') return frame
  } catch (error) {
    if (!(error instanceof EncodingError)) throw error
    throw refuse(error.message)
  }
  throw refuse('')
}

/** Joins what is told of jobs that ended, each under its ticket; `next` is named to those that met a problem. */
function tellingOf(
  jobs: readonly Job[],
  ended: readonly Ended[],
  requestId: string,
  next: Match | null,
): Uint8Array<ArrayBuffer> {
  const frames = ended.map(({ place, frame, problem: met }) => {
    if (frame) return frame
    const { code, message, hint, extra } = met!
    const shown = { ...extra, ...(next ? { next } : {}) }
    const problem = problemBody(code as ErrorCode, message, requestId, hint, shown)
    return encodeJobProblem({ ticket: jobs[place]!.ticket, problem })
  })
  return joinFrames(
    frames,
    ended.map(({ place }) => jobs[place]!.ticket),
  )
}

/** Words what a call threw as a job by itself would hear it. */
function worded(ended: Ended[], requestId: string, log: Context['log']): Ended[] {
  const failed = ended.find(({ error }) => error !== undefined)
  if (!failed) return ended
  const { code, message, hint, extra } = shownError(failed.error, requestId, log)
  return ended.map(({ place }) => ({ place, problem: { code, message, hint, extra } }))
}

/** Relays several jobs to one runner and answers with what becomes of each, in the order in which they end: in one piece where all end together, and otherwise piece by piece. Throws AssayError where the body is not what it should be. */
export async function postJobs(context: Context, posted: Posted, body: ArrayBuffer): Promise<Response> {
  const { mailbox, directory, now, log } = context
  const { request, signer: runner, requestId, execution } = posted
  const jobs = readJobs(body)
  const noted = ({ load, ended }: EndedTogether): Ended[] => {
    if (load) directory.loads.note(runner, load, now())
    return worded(ended, requestId, log)
  }
  const calls = relayTogether(mailbox.get(mailbox.idFromName(runner)), { runner, body, jobs, now })
  const first = (await calls.next()).value!
  const { load } = first
  const headers = {
    ...openHeaders,
    'content-type': jobsType,
    'x-request-id': requestId,
    ...(load ? { 'assay-load': `${load.queued}/${load.capacity}` } : {}),
  }
  const asksForNext = request.headers.has('assay-match')
  const moves = ({ problem }: Ended) => asksForNext && problem?.extra?.accepted === false
  const ended = noted(first)
  if (ended.length === jobs.length && !ended.some(moves))
    return new Response(tellingOf(jobs, ended, requestId, null), { headers })

  let found: Promise<Match | null> | undefined
  const next = () => {
    found ??= nextMatch(context, runner as Hex, request, execution)
    return found
  }
  const tell = (ended: Ended[], match: Match | null) => tellingOf(jobs, ended, requestId, match)
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
  const writer = writable.getWriter()
  const writing = tellAll(writer, { ended, more: calls, noted, moves, next, tell })
  // A write fails when the asker has gone, and then nobody is left to be told.
  writing.catch((error) => writer.abort(error).catch(() => {}))
  return new Response(readable, { headers })
}

type Telling = {
  ended: Ended[]
  more: AsyncIterable<EndedTogether>
  noted: (together: EndedTogether) => Ended[]
  /** Tells whether a job is to go to another runner. */
  moves: (ended: Ended) => boolean
  next: () => Promise<Match | null>
  tell: (ended: Ended[], next: Match | null) => Uint8Array
}

/** Writes what becomes of jobs as they end. Throws where nobody reads it. */
async function tellAll(
  writer: WritableStreamDefaultWriter<Uint8Array>,
  { ended, more, noted, moves, next, tell }: Telling,
): Promise<void> {
  const moving: Promise<void>[] = []
  const write = async (ended: Ended[]) => {
    const leaving = ended.filter(moves)
    const staying = ended.filter((each) => !moves(each))
    // Looking for a match must not hold back what others wait for.
    if (leaving.length > 0) moving.push(next().then((match) => writer.write(tell(leaving, match)).catch(() => {})))
    if (staying.length > 0) await writer.write(tell(staying, null))
  }
  await write(ended)
  for await (const together of more) await write(noted(together))
  await Promise.all(moving)
  await writer.close()
}
