import { Refused } from './verdict.ts'

/** Tells one comparison of a verification: what was compared, with what, where that came from, and how it ended. */
export type Check = {
  check: string
  status: 'passed' | 'failed' | 'unknown'
  compared: string
  with: string
  from: string
  /** Says what was found wrong, or what is missing. */
  detail?: string
}

/** Takes the rows of a verification as they are made. */
export type Trace = (check: Check) => void

type Row = Pick<Check, 'check' | 'compared' | 'with' | 'from'>

/** Runs one step of a verification and tells its row, whose texts the step may fill in; a refusal passes through with the row marked failed. */
export async function step<T>(trace: Trace | undefined, row: Row, run: (row: Row) => T | Promise<T>): Promise<T> {
  try {
    const result = await run(row)
    trace?.({ ...row, status: 'passed' })
    return result
  } catch (error) {
    if (error instanceof Refused) trace?.({ ...row, status: 'failed', detail: error.refusal.detail })
    throw error
  }
}
