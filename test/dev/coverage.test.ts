import { describe, expect, test } from 'vitest'
import { countable, coverageOf } from '../../dev/coverage.ts'
import { codeOf, statementEnd } from '../../dev/mutate/scan.ts'

const mark = '{ uint256 covered_ = 0; covered_++; }'
const body = (source: string) => countable(source).replaceAll(mark, 'MARK')

describe('countable', () => {
  test('behavior: a require becomes a condition with two ways', () => {
    expect(body('require(a && f(b, c), Late(b, "), ("));')).toBe(
      '{ if (!(a && f(b, c))) revert  Late(b, "), ("); else MARK }',
    )
    expect(body('require(a);')).toBe('{ if (!(a)) revert(); else MARK }')
  })

  test('behavior: an if without an else gets one, also within another', () => {
    expect(body('if (a) return 1;')).toBe('if (a) return 1; else MARK')
    expect(body('if (a) { b(); }\nc();')).toBe('if (a) { b(); } else MARK\nc();')
    expect(body('if (a) b(); else c();')).toBe('if (a) b(); else c();')
    expect(body('if (a) b(); else if (c) d();')).toBe('if (a) b(); else if (c) d(); else MARK')
    expect(body('if (a) if (b) c();\nd();')).toBe('if (a) if (b) c(); else MARK else MARK\nd();')
    expect(body('if (a) for (;;) { b(); }')).toBe('if (a) for (;;) { b(); } else MARK')
  })

  test('behavior: what stands in comments, texts and assembly stays', () => {
    const quiet = `// if (a) b();\nstring s = 'require(a)';\n`
    expect(countable(quiet)).toBe(quiet)
    expect(body('assembly ("memory-safe") { if a { revert(0, 0) } }')).toBe(
      'MARK assembly ("memory-safe") { if a { revert(0, 0) } }',
    )
  })

  test('behavior: every line keeps its number', () => {
    const source = 'require(\n  a,\n  E()\n);\nif (b) {\n  c();\n}\nd();'
    expect(countable(source).split('\n').length).toBe(source.split('\n').length)
    expect(countable(source).split('\n').at(-1)).toBe('d();')
  })
})

describe('statementEnd', () => {
  test.each([
    ['a(b; c);', 'a(b; c);'],
    ['{ a; } b;', '{ a; }'],
    ['if (a) b; else { c; } d;', 'if (a) b; else { c; }'],
    ['do { a; } while (b); c;', 'do { a; } while (b);'],
    ['unchecked { a; } b;', 'unchecked { a; }'],
    ['while (a) if (b) c; d;', 'while (a) if (b) c;'],
  ])('behavior: %s', (source, first) => {
    expect(source.slice(0, statementEnd(codeOf(source), 0))).toBe(first)
  })
})

describe('coverageOf', () => {
  const source = ['a();', 'assembly {', '  b()', '}', 'if (c) d();', '}'].join('\n')

  test('behavior: lines inside assembly count as the block does, brackets not at all', () => {
    const records = ['DA:1,4', 'DA:2,3', 'DA:3,0', 'DA:5,1', 'DA:6,0', 'BRDA:3,0,0,-', 'BRDA:5,1,0,-', 'BRDA:5,1,1,1']
    expect(coverageOf('x.sol', source, records)).toEqual({
      file: 'x.sol',
      lines: 4,
      linesHit: 4,
      branches: 2,
      branchesHit: 1,
      missedLines: [],
      missedBranches: [5],
    })
  })

  test('behavior: a block nobody reached counts as not run', () => {
    const { missedLines, linesHit } = coverageOf('x.sol', source, ['DA:1,0', 'DA:2,0', 'DA:3,0'])
    expect(missedLines).toEqual([1, 2, 3])
    expect(linesHit).toBe(0)
  })
})
