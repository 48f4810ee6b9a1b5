/** Finds the way through Solidity source well enough to rewrite conditions in place; it is no parser, and throws where it loses the way. */

/** Reads to the end of what opens at `at`, brackets matched. Throws where the source ends first. */
export function closing(code: string, at: number): number {
  let depth = 0
  for (let i = at; i < code.length; i++) {
    if ('([{'.includes(code[i]!)) depth++
    if (')]}'.includes(code[i]!)) depth--
    if (depth === 0) return i
  }
  throw new Error(`The bracket at ${at} is never closed.`)
}

/** Splits a range at a separator that stands outside brackets. */
export function split(code: string, start: number, end: number, separator: string): [number, number][] {
  const parts: [number, number][] = []
  let from = start
  for (let i = start; i < end; i++) {
    if ('([{'.includes(code[i]!)) i = closing(code, i)
    else if (code.startsWith(separator, i)) {
      parts.push([from, i])
      from = i + separator.length
      i = from - 1
    }
  }
  return [...parts, [from, end]]
}

/** Blanks comments and text, so that what they hold is not taken for code; every position stays. */
export function codeOf(source: string): string {
  return source.replace(/\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'/g, (text) =>
    text.replace(/[^\n]/g, ' '),
  )
}

/** Tells the line a position stands in, counted from one. */
export const lineOf = (source: string, at: number): number => source.slice(0, at).split('\n').length

/** Finds the assembly blocks: from the keyword to the closing brace. */
export function assemblyBlocks(code: string): { start: number; open: number; end: number }[] {
  return [...code.matchAll(/\bassembly\b[^{;]*\{/g)].map((match) => {
    const open = match.index + match[0].length - 1
    return { start: match.index, open, end: closing(code, open) }
  })
}

/** Reads to the end of the statement that begins at `at`: the position after it. */
export function statementEnd(code: string, at: number): number {
  let i = at + (/^\s*/.exec(code.slice(at))?.[0].length ?? 0)
  const word = /^(if|for|while|do|unchecked|assembly)\b/.exec(code.slice(i))?.[1]
  if (word === undefined && code[i] !== '{') return split(code, i, code.length, ';')[0]![1] + 1
  if (code[i] === '{') return closing(code, i) + 1
  if (word === 'unchecked' || word === 'assembly') return closing(code, code.indexOf('{', i)) + 1
  if (word === 'do') return code.indexOf(';', statementEnd(code, i + 2)) + 1
  i = statementEnd(code, closing(code, code.indexOf('(', i)) + 1)
  const other = word === 'if' ? /^\s*else\b/.exec(code.slice(i)) : null
  return other ? statementEnd(code, i + other[0].length) : i
}
