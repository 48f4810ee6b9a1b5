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

/** Says what a condition decides: a requirement, a way, whether a loop goes on, or a value; and what stands in brackets of its own decides as an operand of another. */
export type Kind = 'require' | 'if' | 'loop' | 'value' | 'operands'

/** Finds the condition an operator belongs to, as far as it reaches, and what it decides. */
export function enclosing(code: string, at: number): { range: [number, number]; kind: Kind } {
  let start = at
  for (let depth = 0; start > 0; start--) {
    const before = code[start - 1]!
    if (')]'.includes(before)) depth++
    else if (depth > 0 && '(['.includes(before)) depth--
    else if (depth === 0 && ('([{};,?:'.includes(before) || assigns(code, start - 1) || returns(code, start))) break
  }
  let end = at
  for (; end < code.length; end++) {
    if ('(['.includes(code[end]!)) end = closing(code, end)
    else if (')]};,:'.includes(code[end]!) || (code[end] === '?' && end >= at)) break
  }
  const opened = /(\w+) ?$/.exec(code.slice(0, opening(code, start)))?.[1]
  const first = code[start - 1] === '('
  if (opened === 'for' || opened === 'while') return { range: [start, end], kind: 'loop' }
  if (opened === 'require' && first) return { range: [start, end], kind: 'require' }
  if (opened === 'if' && first) return { range: [start, end], kind: 'if' }
  return { range: [start, end], kind: first && opened === undefined ? 'operands' : 'value' }
}

/** Finds the bracket that stands open before `at`, or -1. */
function opening(code: string, at: number): number {
  let depth = 0
  for (let i = at - 1; i >= 0; i--) {
    if (')]}'.includes(code[i]!)) depth++
    if ('([{'.includes(code[i]!) && depth-- === 0) return i
  }
  return -1
}

const returns = (code: string, at: number): boolean => /\breturn$/.test(code.slice(Math.max(0, at - 7), at))
const assigns = (code: string, at: number): boolean =>
  code[at] === '=' && code[at + 1] !== '=' && code[at + 1] !== '>' && !'=!<>'.includes(code[at - 1]!)

/** Finds the one comparison of sizes a condition consists of, or null. */
export function comparison(code: string, start: number, end: number): { at: number; sign: string } | null {
  let found: { at: number; sign: string } | null = null
  for (let i = start; i < end; i++) {
    if ('([{'.includes(code[i]!)) i = closing(code, i)
    const sign = /^(&&|\|\||<<|>>|=>|[<>]=?)/.exec(code.slice(i, i + 2))?.[0]
    if (sign === undefined) continue
    if (sign === '&&' || sign === '||') return null
    if (/^[<>]=?$/.test(sign)) found = { at: i, sign }
    i += sign.length - 1
  }
  return found
}
