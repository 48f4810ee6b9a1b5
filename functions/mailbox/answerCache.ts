import { equalBytes } from '../../protocol/bytes.ts'

/** Longest request whose answer is remembered, in bytes: a longer one is answered again from the runner's journal. */
const maxRequestBytes = 16 * 1024
/** Most bytes remembered: an object has 128 MiB in all. */
const maxTotalBytes = 24 * 1024 * 1024

type Entry = { request: Uint8Array; answer: Uint8Array }

/** Remembers the last answers by channel and job, so that a retry whose answer was lost on the way costs the runner nothing. */
export class AnswerCache {
  readonly #entries = new Map<string, Entry>()
  #bytes = 0

  /** Remembers an answer beside the body it answers. */
  put(key: string, request: Uint8Array, answer: Uint8Array): void {
    if (request.length > maxRequestBytes || this.#entries.has(key)) return
    // Copies, because a view would keep the whole message it came in alive.
    this.#entries.set(key, { request: request.slice(), answer: answer.slice() })
    this.#bytes += request.length + answer.length
    for (const [oldest, entry] of this.#entries) {
      if (this.#bytes <= maxTotalBytes) break
      this.#entries.delete(oldest)
      this.#bytes -= entry.request.length + entry.answer.length
    }
  }

  /** Gives the answer to the same body, `'other'` when the job was answered for another body, or null when nothing is known. */
  find(key: string, request: Uint8Array): Uint8Array | 'other' | null {
    const entry = this.#entries.get(key)
    if (!entry) return null
    return equalBytes(entry.request, request) ? entry.answer : 'other'
  }
}
