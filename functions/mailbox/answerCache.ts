import { equalBytes } from '../../protocol/bytes.ts'

/** Longest request whose answer is remembered, in bytes: a longer one is answered again from the runner's journal. */
const maxRequestBytes = 16 * 1024
/** Most bytes of one generation: an object has 128 MiB in all. */
const maxGenerationBytes = 12 * 1024 * 1024

type Entry = { request: Uint8Array; answer: Uint8Array }

/** Remembers the last answers by channel and job, so that a retry whose answer was lost on the way costs the runner nothing. Kept in two generations, of which the older is dropped whole: dropping one entry at a time costs more the longer it goes on. */
export class AnswerCache {
  #young = new Map<string, Entry>()
  #old = new Map<string, Entry>()
  #youngBytes = 0

  /** Remembers an answer beside the body it answers. */
  put(key: string, request: Uint8Array, answer: Uint8Array): void {
    if (request.length > maxRequestBytes || answer.length > maxGenerationBytes || this.#young.has(key)) return
    // Copies, because a view would keep the whole message it came in alive.
    this.#young.set(key, { request: request.slice(), answer: answer.slice() })
    this.#youngBytes += request.length + answer.length
    if (this.#youngBytes < maxGenerationBytes) return
    this.#old = this.#young
    this.#young = new Map()
    this.#youngBytes = 0
  }

  /** Tells whether a job's answer is remembered, whatever its body. */
  has(key: string): boolean {
    return this.#young.has(key) || this.#old.has(key)
  }

  /** Gives the answer to the same body, `'other'` when the job was answered for another body, or null when nothing is known. */
  find(key: string, request: Uint8Array): Uint8Array | 'other' | null {
    const entry = this.#young.get(key) ?? this.#old.get(key)
    if (!entry) return null
    return equalBytes(entry.request, request) ? entry.answer : 'other'
  }
}
