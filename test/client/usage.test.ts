import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'

/** What people type wrong, where nothing has to be up to say so. */
describe('assay, typed wrong', () => {
  const folder = mkdtempSync(join(tmpdir(), 'assay-usage-'))
  const nobody = 'http://127.0.0.1:1'
  const key = developmentKey('buyer')
  const address = `0x${'5e'.repeat(20)}`
  /** Answers at the address of an edge, and is none; under `/market` it names contracts. */
  const answers: Record<string, object> = {
    '/v1/network': {},
    '/market/v1/network': { chainId: 31_337, escrow: address, registry: address, token: address },
  }
  const other = createServer(({ url }, response) => {
    if (url?.startsWith('/refusing')) response.statusCode = 404
    response.end(url && url in answers ? JSON.stringify(answers[url]) : '<html>')
  })
  let otherUrl: string
  beforeAll(async () => {
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    otherUrl = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
    writeFileSync(join(folder, 'null.json'), 'null')
    writeFileSync(join(folder, 'empty.json'), '{}')
    writeFileSync(join(folder, 'text.json'), 'no json')
    writeFileSync(join(folder, 'untyped.json'), '{"inputs":[{"name":"x"}]}')
  })
  afterAll(async () => {
    other.closeAllConnections()
    await new Promise((resolve) => other.close(resolve))
    rmSync(folder, { recursive: true, force: true })
  })

  const assay = async (args: string[], environment: Record<string, string> = {}) => {
    const cli = join(import.meta.dirname, '../../client/cli.ts')
    const env = { PATH: process.env.PATH ?? '', ASSAY_EDGE: nobody, ASSAY_RPC: nobody, ASSAY_KEY: key, ...environment }
    const child = spawn(process.execPath, ['--no-warnings', cli, ...args], { env, cwd: folder })
    let said = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk) => {
        said += chunk
      })
    const exit = await new Promise<number | null>((resolve) => child.on('close', resolve))
    return { exit, said }
  }
  const tell = async (args: string[], environment: Record<string, string>, code: number, words: string) => {
    const { exit, said } = await assay(args, environment)
    expect([args, exit, said]).toEqual([args, code, expect.stringContaining(words)])
    // Neither a stack nor a message of the language itself, and never the key.
    expect(said).not.toMatch(/\n {4}at |Cannot read|is not a function|undefined/)
    expect(said.toLowerCase()).not.toContain((environment.ASSAY_KEY ?? key).slice(2).toLowerCase())
  }

  test('usage: a flag nobody knows, or that another command takes', async () => {
    await tell(['buy', '--imput', 'x'], {}, 2, "Unknown option '--imput'. `assay --help`")
    await tell(['deposit', '5', '--min-stake', '3'], {}, 2, 'assay deposit takes no --min-stake')
    await tell(['collect', '--check'], {}, 2, 'it takes --of')
    await tell(['balance', '--of', 'everybody'], {}, 2, 'publisher, buyer, provider')
    await tell(['models', 'now'], {}, 2, '"models now" is not a command')
    await tell(['verify', 'empty.json', 'null.json'], {}, 2, 'is not a command')
  }, 120_000)

  test('usage: numbers out of their bounds', async () => {
    await tell(['publish', 'x.onnx', '--royalty', '10001'], {}, 2, '--royalty takes a whole number up to 10000')
    await tell(['proxy', '--port', '70000'], {}, 2, '--port takes a whole number up to 65535')
    await tell(['withdraw', 'all'], {}, 2, 'whole number')
    await tell(['settle', '--for', `0x${'11'.repeat(20)}`, '--minimum', '-1'], {}, 2, '--minimum')
  }, 120_000)

  test('usage: settings that cannot be', async () => {
    await tell(['models'], { ASSAY_EDGE: 'localhost:8787' }, 2, 'ASSAY_EDGE takes an address')
    const beyond = `0x${'ff'.repeat(32)}`
    const market = { ASSAY_EDGE: `${otherUrl}/market` }
    await tell(['balance'], { ...market, ASSAY_KEY: beyond }, 2, 'below the order of secp256k1')
    await tell(['balance'], { ...market, ASSAY_KEY: 'a key in words' }, 2, 'Set ASSAY_KEY to a private key')
    await tell(['collect'], market, 1, 'The node at ASSAY_RPC does not answer')
    await tell(['verify', 'empty.json'], { ASSAY_DEVELOPMENT_ROOT: 'zz' }, 2, 'npm start')
    await tell(['balance'], { ASSAY_EDGE: otherUrl }, 2, 'no edge')
    await tell(['models'], { ASSAY_EDGE: otherUrl }, 1, 'gave no JSON. Is it the address of an edge?')
    await tell(['models'], { ASSAY_EDGE: `${otherUrl}/refusing` }, 1, 'answered 404 without a word an edge uses. Is it')
  }, 120_000)

  test('usage: files that are not there, or are none', async () => {
    await tell(['publish', 'none.onnx'], {}, 2, 'none.onnx cannot be read: there is no such file. Name another')
    await tell(['verify', '.'], {}, 2, '. cannot be read: it is a folder. Name another')
  }, 120_000)

  test('usage: files that hold something else', async () => {
    for (const name of ['null.json', 'empty.json']) {
      await tell(['verify', name], {}, 1, 'Not an assay bundle')
      await tell(['verdict', 'replay', name], {}, 1, 'Not a published verdict')
    }
    await tell(['verify', 'text.json'], {}, 2, 'text.json is not JSON')
    await tell(['verdict', 'replay', `${nobody}/verdict`], {}, 2, 'cannot be reached')
    await tell(['verdict', 'replay', `${otherUrl}/verdict`], {}, 2, 'gave no JSON')
    await tell(['verdict', 'replay', 'empty.json', '--rim-signer', 'zz'], {}, 2, 'P-256')
    await tell(['publish', 'text.json'], {}, 2, 'text.json is no ONNX model')
    await tell(['buy', 'digits', '--input', 'null.json'], {}, 1, 'Expected { "inputs"')
  }, 120_000)
})
