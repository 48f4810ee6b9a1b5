import type { RefusalReason } from '../protocol/frames.ts'
import { jobStatus } from '../protocol/receipt.ts'
import { countBuckets, type Metrics, secondsBuckets } from './metrics.ts'

/** Hears what the service does; durations in milliseconds. */
export type Meter = {
  /** A run of the engine ended. */
  ran(rows: number, ms: number): void
  /** The answers of a run were committed to and sealed. */
  sealed(ms: number): void
  /** A batch of receipts was signed and is on disk. */
  recorded(batch: { jobs: number; signMs: number; journalMs: number }): void
  answered(status: number, ms: number): void
  refused(reason: RefusalReason): void
}

const statusNames: Record<number, string> = {
  [jobStatus.ok]: 'ok',
  [jobStatus.badInput]: 'bad_input',
  [jobStatus.modelError]: 'model_error',
  [jobStatus.deadline]: 'deadline',
}

/** Makes a meter that keeps its series in `metrics`. */
export function createMeter(metrics: Metrics): Meter {
  const seconds = (name: string, help: string) =>
    metrics.histogram(`assay_${name}_seconds`, `${help}, in seconds.`, secondsBuckets)
  const jobs = metrics.counter('assay_jobs_total', 'Jobs answered with a receipt, by status.')
  const refusals = metrics.counter('assay_refusals_total', 'Jobs refused before they ran or lost, by reason.')
  const latency = seconds('job_duration', 'From taking a job on to its answer on disk')
  const batchRows = metrics.histogram('assay_batch_rows', 'Rows of one run of the engine.', countBuckets)
  const compute = seconds('compute_duration', 'One run of the engine')
  const seal = seconds('seal_duration', 'Committing to and sealing the answers of one run')
  const batchJobs = metrics.histogram('assay_receipt_batch_jobs', 'Jobs under one signature.', countBuckets)
  const sign = seconds('sign_duration', 'Building and signing one batch of receipts')
  const journal = seconds('journal_duration', 'Writing one batch down, the fsync included')
  return {
    ran(rows, ms) {
      batchRows.observe(rows)
      compute.observe(ms / 1_000)
    },
    sealed: (ms) => seal.observe(ms / 1_000),
    recorded(batch) {
      batchJobs.observe(batch.jobs)
      sign.observe(batch.signMs / 1_000)
      journal.observe(batch.journalMs / 1_000)
    },
    answered(status, ms) {
      jobs.add(1, { status: statusNames[status] ?? 'other' })
      latency.observe(ms / 1_000)
    },
    refused: (reason) => refusals.add(1, { reason }),
  }
}
