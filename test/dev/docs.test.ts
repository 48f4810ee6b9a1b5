import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { settingNames } from '../../gpu-runner/config.ts'

const root = join(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const pages = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).map((name) => `docs/${name}`),
]
  .filter((name) => name.endsWith('.md'))
  .map((name) => ({ name, text: read(name) }))

/** Finds what a pattern's first group matches, once each, with the page it stands on. */
const found = (pattern: RegExp) =>
  new Map(pages.flatMap(({ name, text }) => [...text.matchAll(pattern)].map((match) => [match[1]!, name] as const)))

/** Names a heading as links do. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\w\- ]/g, '')
    .replaceAll(' ', '-')

describe('what the pages say exists', () => {
  test.each(pages)('links of $name lead somewhere', ({ name, text }) => {
    for (const [, link] of text.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
      const [path, section] = link!.split('#') as [string, string | undefined]
      const target = path === '' ? name : join(dirname(name), path)
      expect(existsSync(join(root, target)), link).toBe(true)
      if (section === undefined) continue
      const headings = [...read(target).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchor(heading!))
      expect(headings, link).toContain(section)
    }
  })

  test('every bench, script and program a page names', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const benches = found(/bench -- (\w+)/g)
    expect(benches.size).toBeGreaterThan(5)
    for (const [bench, page] of benches)
      expect(existsSync(join(root, `bench/${bench}.ts`)), `${page}: ${bench}`).toBe(true)
    for (const [script, page] of found(/npm run ([\w:]+)/g)) expect(Object.keys(scripts), page).toContain(script)
    for (const [program, page] of found(/node ((?:dev|client|gpu-runner|verifier)\/[\w./]+\.m?[jt]s)/g))
      expect(existsSync(join(root, program)), `${page}: ${program}`).toBe(true)
  })

  test('every command of assay a page names', () => {
    const usage = read('client/cli.ts')
    const commands = found(/npx assay ([a-z]+(?: (?:verify|replay|show|add|request|withdraw|collect|revoke|inbox))?)/g)
    expect(commands.size).toBeGreaterThan(15)
    for (const [command, page] of commands)
      expect(usage, `${page}: ${command}`).toMatch(new RegExp(`^ {2}${command}\\b`, 'm'))
  })

  test('every setting has a row', () => {
    const rows = read('docs/settings.md')
    const variables = (path: string) => [...read(path).matchAll(/^ {2}([A-Z][A-Z_]+): /gm)].map(([, name]) => name!)
    const bindings = ['ARTIFACTS', 'MAILBOX', 'ACCOUNT']
    const edge = variables('functions/env.ts').filter((name) => !bindings.includes(name))
    const verifier = variables('verifier/config.ts')
    expect(Math.min(edge.length, verifier.length)).toBeGreaterThan(8)
    for (const name of [...settingNames, ...edge, ...verifier]) expect(rows).toContain(`\`${name}\``)
  })
})
