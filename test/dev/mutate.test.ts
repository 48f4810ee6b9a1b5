import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { breakOne, instrument, mutantsOf } from '../../dev/mutate.ts'

const source = `pragma solidity ^0.8.30;

contract Door {
    // require(false, "never read");
    function pass(uint256 key) external view returns (bool) {
        require(key > 0 && known(key, 1), Unknown("a ) and a ( and a && b", key));
        require(open || key == 7);
        if (key == 8) return false;
        if (key == 9 || late()) {
            emit Late(key);
            return false;
        }
        if (key == 10) count++;
        return true;
    }
}
`

describe('mutantsOf', () => {
  const mutants = mutantsOf(source)

  test('behavior: finds each condition, then its operands, and nothing in comments', () => {
    expect(mutants.map(({ line, text, value }) => [line, text, value])).toEqual([
      [6, 'key > 0 && known(key, 1)', true],
      [6, 'key > 0', true],
      [6, 'known(key, 1)', true],
      [7, 'open || key == 7', true],
      [7, 'open', false],
      [7, 'key == 7', false],
      [8, 'key == 8', false],
      [9, 'key == 9 || late()', false],
      [9, 'key == 9', false],
      [9, 'late()', false],
      [13, 'key == 10', false],
    ])
  })

  test('behavior: a broken source differs in that condition alone', () => {
    const broken = breakOne(source, mutants[6]!)
    expect(broken).toBe(source.replace('if (key == 8)', 'if (false)'))
    expect(breakOne(source, mutants[1]!)).toBe(source.replace('key > 0 &&', 'true &&'))
  })

  test('behavior: an instrumented source holds every mutant once, asleep', () => {
    const all = instrument(source, mutants, 5, './Mutation.sol')
    expect([...all.matchAll(/mutated\((\d+)\)/g)].map(([, id]) => Number(id)).sort((a, b) => a - b)).toEqual(
      mutants.map((_, index) => 5 + index),
    )
    expect(all).toContain('(mutated(5) || ((mutated(6) || (key > 0)) && (mutated(7) || (known(key, 1)))))')
    expect(all).toContain('if ((!mutated(11) && (key == 8))) return false;')
    // Without its switches it is the source again, but for brackets.
    const bare = (text: string) => text.replace(/import [^\n]*\n/, '').replace(/[()\s]/g, '')
    expect(bare(all.replace(/!?mutated\(\d+\) (\|\||&&) /g, ''))).toBe(bare(source))
  })

  test('behavior: every require of the contracts is found', () => {
    const folder = join(import.meta.dirname, '../../contracts')
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
      (name) => name.endsWith('.sol') && !/^(test|out|cache)[/\\]/.test(name),
    )
    expect(files.length).toBeGreaterThan(20)
    for (const name of files) {
      const text = readFileSync(join(folder, name), 'utf8')
      const requires = text.match(/^\s*require\(/gm)?.length ?? 0
      const found = mutantsOf(text)
      const whole = found.filter(({ start }) => /require ?\(\s*$/.test(text.slice(0, start)))
      expect(new Set(whole.map(({ start }) => start)).size, name).toBe(requires)
    }
  })
})
