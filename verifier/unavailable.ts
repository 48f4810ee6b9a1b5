/** Names what a verdict needs and cannot be had without. */
export type Source = 'chain' | 'collateral service' | 'OCSP responder'

/** How long to wait before asking again, in seconds. */
export const retryAfterSeconds = 15

/** Reports that something a verdict needs does not answer: nothing is known of the machine, nothing was signed, and the same question may be answered later. */
export class SourceUnavailableError extends Error {
  override name = 'SourceUnavailableError'
  readonly source: Source
  constructor(source: Source, cause?: unknown) {
    super(`The ${source} does not answer.`, { cause })
    this.source = source
  }
}

/** Asks a source. Throws SourceUnavailableError for whatever it throws. */
export async function reach<T>(source: Source, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask()
  } catch (error) {
    throw error instanceof SourceUnavailableError ? error : new SourceUnavailableError(source, error)
  }
}
