import { EncodingError } from '../bytes.ts'

/** Parses JSON and refuses an object that names a key twice, which `JSON.parse` lets pass. Throws EncodingError. */
export function parseStrictJson(text: string): unknown {
  return parseMembers(text).value
}

/** Parses a JSON list strictly, in the same way. Throws EncodingError. */
export function parseStrictList(text: string): unknown[] {
  const { list } = parseMembers(`{"list":${text}}`).value
  if (!Array.isArray(list)) throw new EncodingError('JSON: expected a list.')
  return list
}

/** Parses a JSON object strictly and gives the exact text of each of its top-level members, over which vendors sign. Throws EncodingError. */
export function parseMembers(text: string): { value: Record<string, unknown>; raw: Map<string, string> } {
  const raw = new Map<string, string>()
  let offset = 0

  const fail = (expected: string): never => {
    throw new EncodingError(`JSON at ${offset}: expected ${expected}.`)
  }
  const space = () => {
    while (offset < text.length && ' \t\n\r'.includes(text[offset]!)) offset++
  }
  const take = (token: string) => {
    if (!text.startsWith(token, offset)) fail(token)
    offset += token.length
  }
  const scalar = (pattern: RegExp, what: string): unknown => {
    pattern.lastIndex = offset
    const match = pattern.exec(text)
    if (!match) return fail(what)
    offset += match[0].length
    try {
      return JSON.parse(match[0])
    } catch {
      return fail(what)
    }
  }
  const string = () => scalar(/"(?:[^"\\]|\\.)*"/y, 'a string') as string

  const value = (depth: number): unknown => {
    if (depth > 32) fail('fewer nested values')
    space()
    const first = text[offset]
    if (first === '{') return object(depth)
    if (first === '[') {
      const list: unknown[] = []
      take('[')
      space()
      while (text[offset] !== ']') {
        if (list.length > 0) take(',')
        list.push(value(depth + 1))
        space()
      }
      take(']')
      return list
    }
    if (first === '"') return string()
    return scalar(/true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y, 'a value')
  }
  const object = (depth: number): Record<string, unknown> => {
    const members = new Map<string, unknown>()
    take('{')
    space()
    while (text[offset] !== '}') {
      if (members.size > 0) {
        take(',')
        space()
      }
      const key = string()
      if (members.has(key)) fail(`"${key.slice(0, 64)}" once`)
      space()
      take(':')
      space()
      const start = offset
      members.set(key, value(depth + 1))
      if (depth === 0) raw.set(key, text.slice(start, offset))
      space()
    }
    take('}')
    return Object.fromEntries(members)
  }

  space()
  if (text[offset] !== '{') fail('an object')
  const parsed = object(0)
  space()
  if (offset !== text.length) fail('the end')
  return { value: parsed, raw }
}
