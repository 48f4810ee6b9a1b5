import type { Hex } from '../../protocol/bytes.ts'
import type { Context } from '../context.ts'
import type { ExecutionContext } from '../platform.ts'
import { type Match, matchRunner } from '../services/match.ts'
import { FindMatch } from './schemas.ts'

/** Finds another runner for a job that this one did not take, under the requirements its buyer sent along: a sealed job cannot move by itself, but its buyer is spared a question. */
export async function nextMatch(
  context: Context,
  refusedBy: Hex,
  request: Request,
  execution: ExecutionContext,
): Promise<Match | null> {
  const header = request.headers.get('assay-match')
  if (header === null) return null
  try {
    const { model, requirements } = FindMatch.parse(JSON.parse(header))
    const exclude = [...(requirements.exclude ?? []), refusedBy]
    return await matchRunner(context, { model, requirements: { ...requirements, exclude } }, (work) =>
      execution.waitUntil(work),
    )
  } catch {
    // The refusal is the answer; a match beside it is a courtesy.
    return null
  }
}
