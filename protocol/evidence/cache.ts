import { RenewedMap } from '../renewedMap.ts'

/** Remembers work whose outcome depends on its key alone: verified signatures and parsed texts, never a verdict, because a verdict depends on the time. */
export type EvidenceCache = {
  /** Gives what was made under this key before, or makes it. A promise that rejects is forgotten. */
  remember<T>(key: string, make: () => Promise<T>): Promise<T>
}

/** Creates a cache that keeps the most recently used entries. One may serve every format; keys carry the roots they were verified under. */
export function createEvidenceCache(capacity = 256): EvidenceCache {
  const entries = new RenewedMap<string, Promise<unknown>>()
  return {
    remember<T>(key: string, make: () => Promise<T>): Promise<T> {
      const known = entries.get(key) as Promise<T> | undefined
      if (known) {
        entries.delete(key)
        entries.set(key, known)
        return known
      }
      const made = make()
      entries.set(key, made)
      made.catch(() => entries.delete(key))
      entries.trim(capacity)
      return made
    },
  }
}

/** Remembers nothing: the default, which keeps a single verification pure. */
export const noCache: EvidenceCache = { remember: (_, make) => make() }
