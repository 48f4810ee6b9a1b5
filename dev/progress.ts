/** Reports a step of starting up: visible while it works, with the time it took once done. */
export type Progress = <T>(step: string, work: () => Promise<T>) => Promise<T>

/** Says which step failed, and why. */
export class StepError extends Error {
  override name = 'StepError'
  readonly step: string
  constructor(step: string, cause: unknown) {
    super(`failed at: ${step}. ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    this.step = step
  }
}

/** Makes a progress reporter that writes lines to a stream and remembers how long each step took, in milliseconds. */
export function createProgress(write: (text: string) => void, now: () => number = performance.now.bind(performance)) {
  const timings: Record<string, number> = {}
  const progress: Progress = async (step, work) => {
    const started = now()
    write(`assay  ${step} …\n`)
    try {
      const result = await work()
      timings[step] = Math.round(now() - started)
      write(`assay  ${step} ✓ ${(timings[step] / 1000).toFixed(1)} s\n`)
      return result
    } catch (error) {
      throw error instanceof StepError ? error : new StepError(step, error)
    }
  }
  return { progress, timings }
}
