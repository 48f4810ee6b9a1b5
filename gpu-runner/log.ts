/** Writes one structured event; never given payloads, keys or signatures. */
export type Log = (event: string, fields?: Record<string, string | number | boolean>) => void

/** Makes a log that writes JSON lines. */
export function createLog(write: (line: string) => void, now: () => Date = () => new Date()): Log {
  return (event, fields = {}) => write(`${JSON.stringify({ time: now().toISOString(), event, ...fields })}\n`)
}
