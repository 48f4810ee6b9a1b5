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

  test('behavior: what a loop asks, a choice and a value are conditions as well', () => {
    const wider = `contract Wider {
    using Bits for uint256;
    mapping(address => uint256) private held;
    function most(uint256[] memory all, bool late) external returns (uint256 top) {
        for (uint256 i = 0; i < all.length; i++) {
            top = late ? all[i] : held[msg.sender] >= all[i] ? 1 : top;
        }
        top >>= 1;
        bool sound = top != 7 && (late || top <= 9);
        if (sound) return top;
        assembly { if lt(top, 9) { revert(0, 0) } }
        while (top > 3) top--;
    }
    function same(uint256 a) external view returns (bool) { return a == 1 || known(a > 0); }
}
`
    expect(mutantsOf(wider).map(({ line, text, value }) => [line, text, value])).toEqual([
      [5, 'i < all.length', false],
      [6, 'late', true],
      [6, 'late', false],
      [6, 'held[msg.sender] >= all[i]', true],
      [6, 'held[msg.sender] >= all[i]', false],
      [9, 'top != 7 && (late || top <= 9)', true],
      [9, 'top != 7 && (late || top <= 9)', false],
      [9, 'top != 7', true],
      [9, '(late || top <= 9)', true],
      [9, 'late', false],
      [9, 'top <= 9', false],
      [10, 'sound', false],
      [12, 'top > 3', false],
      [14, 'a == 1 || known(a > 0)', true],
      [14, 'a == 1 || known(a > 0)', false],
      [14, 'a == 1', false],
      [14, 'known(a > 0)', false],
      [14, 'a > 0', true],
      [14, 'a > 0', false],
    ])
  })

  test('behavior: with bounds, comparisons of sizes are broken by one', () => {
    const bounded = 'function f() { require(a << 1 <= b[c < d ? 0 : 1] && e > 0, Far(a > b)); if (f >= 2) return; }'
    const byOne = mutantsOf(bounded, true).flatMap(({ value }) => (typeof value === 'string' ? [value] : []))
    expect(byOne).toEqual(['a << 1 < b[c < d ? 0 : 1]', 'c <= d', 'a >= b', 'f > 2'])
    expect(mutantsOf(bounded).every(({ value }) => typeof value === 'boolean')).toBe(true)
    const all = instrument(`pragma solidity ^0.8.30;\n${bounded}`, mutantsOf(bounded, true), 1, './Mutation.sol')
    expect(all).toContain('mutated(')
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
