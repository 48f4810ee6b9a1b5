import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { createRandom, drawDigit } from '../../dev/sample/glyphs.ts'
import { sampleModel } from '../../dev/sample/model.ts'
import { writeModel } from '../../dev/sample/onnxWriter.ts'
import type { Bundle } from '../../protocol/bundle.ts'
import { fromHex, type Hex } from '../../protocol/bytes.ts'
import { createSigner } from '../../protocol/secp256k1.ts'
import { admit, openMarketplace } from './marketplace.ts'

/** The way the guides take a publisher, a buyer and an agent, as they type it. */
describe('assay, as one types it', () => {
  let close: () => Promise<void>
  let environment: Record<string, string>
  let folder: string
  let runnerAdmits: (digest: Hex) => Promise<void>
  let forward: (seconds: number) => Promise<void>
  const at = (name: string) => join(folder, name)

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'assay-cli-'))
    const opened = await openMarketplace()
    close = opened.close
    const { edgeUrl, developmentRoot, chain } = opened.marketplace
    environment = {
      PATH: process.env.PATH ?? '',
      ASSAY_EDGE: edgeUrl,
      ASSAY_RPC: chain.rpcUrl,
      ASSAY_DEVELOPMENT_ROOT: developmentRoot,
    }
    const runner = await opened.marketplace.startRunner()
    runnerAdmits = (digest) => admit(runner, digest)
    forward = async (seconds) => {
      await chain.testClient.increaseTime({ seconds })
      await chain.testClient.mine({ blocks: 1 })
    }
    writeFileSync(at('digits.onnx'), sampleModel().graph)
    const data = Array.from(drawDigit(5, createRandom(1)))
    writeFileSync(
      at('tensors.json'),
      JSON.stringify({ inputs: [{ name: 'pixels', datatype: 'FP32', shape: [1, 64], data }] }),
    )
  })
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true })
    await close?.()
  })

  const assay = async (party: string, ...args: string[]) => {
    const cli = join(import.meta.dirname, '../../client/cli.ts')
    const child = spawn(process.execPath, ['--no-warnings', cli, ...args, '--json'], {
      env: { ...environment, ASSAY_KEY: developmentKey(party) },
      cwd: folder,
    })
    let out = ''
    let errors = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    child.stderr.on('data', (chunk) => {
      errors += chunk
    })
    const exit = await new Promise<number | null>((resolve) => child.on('close', resolve))
    expect(errors).not.toContain(developmentKey(party).slice(2))
    return { exit, errors, result: JSON.parse(out) }
  }
  const depositOf = async (party: string) => BigInt((await assay(party, 'balance')).result.deposit)

  test('behavior: publish, pay in, buy, keep, verify, and ask back', async () => {
    const published = await assay(
      'publisher',
      'publish',
      'digits.onnx',
      '--version',
      '1',
      '--price',
      '250',
      '--royalty',
      '500',
    )
    expect(published).toMatchObject({ exit: 0, result: { name: 'digits', version: '1' } })
    const { digest } = published.result
    const again = await assay('publisher', 'publish', 'digits.onnx', '--version', '1', '--price', '300')
    expect(again.result).toMatchObject({ digest, listing: { price: '250' } })
    await runnerAdmits(digest)

    const unfunded = await assay('buyer', 'buy', digest, '--input', 'tensors.json')
    expect([unfunded.exit, unfunded.result.error.code]).toEqual([1, 'unfunded'])
    expect((await assay('buyer', 'deposit', '10000')).exit).toBe(0)
    const tooDear = await assay('buyer', 'buy', digest, '--input', 'tensors.json', '--max-price', '249')
    expect([tooDear.exit, tooDear.result.error.code]).toEqual([1, 'price_above_cap'])

    const bought = await assay(
      'buyer',
      'buy',
      'digits',
      '--input',
      'tensors.json',
      '--max-price',
      '250',
      '--bundle',
      'kept.json',
    )
    expect(bought).toMatchObject({
      exit: 0,
      result: { price: '250', receiptVerified: true, verdict: { root: 'development' } },
    })
    const [scores] = bought.result.outputs
    expect(scores.data.indexOf(Math.max(...scores.data))).toBe(5)
    expect(await assay('buyer', 'verify', 'kept.json')).toMatchObject({ exit: 0, result: { verdict: 'verified' } })
    const bundle = JSON.parse(readFileSync(at('kept.json'), 'utf8')) as Bundle
    writeFileSync(at('forged.json'), JSON.stringify({ ...bundle, detail: { ...bundle.detail, price: '1' } }))
    expect(await assay('buyer', 'verify', 'forged.json')).toMatchObject({ exit: 1, result: { verdict: 'refuted' } })

    const none = await assay('buyer', 'withdraw')
    expect(none.result.error.message).toContain('Ask first')
    expect((await assay('buyer', 'withdraw', '4000')).result.requested).toBe('4000')
    const early = await assay('buyer', 'withdraw')
    expect(early.result.error.message).toContain('can be withdrawn from')
    await forward(120)
    const before = await depositOf('buyer')
    expect(await assay('buyer', 'withdraw')).toMatchObject({ exit: 0, result: { amount: '4000' } })
    expect(await depositOf('buyer')).toBe(before - 4_000n)
  }, 120_000)

  test('behavior: a model that keeps its weights in another file is published with it, and sold', async () => {
    const graph = writeModel({
      name: 'scaler',
      inputs: [{ name: 'x', elementType: 1, shape: ['rows', 2] }],
      outputs: [{ name: 'y', elementType: 1, shape: ['rows', 2] }],
      weights: [{ name: 'w', shape: [2], data: new Float32Array(2), external: 'scaler.bin' }],
      nodes: [{ op: 'Mul', inputs: ['x', 'w'], outputs: ['y'] }],
    })
    writeFileSync(at('scaler.onnx'), graph)
    expect((await assay('publisher', 'publish', 'scaler.onnx')).result.error.message).toContain('is not beside it')
    writeFileSync(at('scaler.bin'), new Uint8Array(Float32Array.of(2, -3).buffer))
    const { result } = await assay('publisher', 'publish', 'scaler.onnx', '--price', '10')
    expect(result.manifest.files.map(({ path }: { path: string }) => path)).toEqual(['model.onnx', 'scaler.bin'])
    await runnerAdmits(result.digest)
    writeFileSync(
      at('x.json'),
      JSON.stringify({ inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 2], data: [1.5, 1] }] }),
    )
    const bought = await assay('buyer', 'buy', 'scaler', '--input', 'x.json')
    expect(bought.result.outputs[0].data).toEqual([3, -3])
  }, 120_000)

  test('behavior: an agent spends within its mandate, and nothing once it is revoked', async () => {
    const address = (party: string) => createSigner(fromHex(developmentKey(party), 32)).address
    const buy = () => assay('agent', 'buy', 'digits', '--input', 'tensors.json', '--on-behalf-of', address('buyer'))
    const stranger = await buy()
    expect([stranger.exit, stranger.result.error.code]).toEqual([1, 'bad_voucher'])
    const granted = await assay(
      'buyer',
      'mandate',
      address('agent'),
      '--cap',
      '1000',
      '--channel-cap',
      '500',
      '--model',
      'digits',
    )
    expect(granted).toMatchObject({
      exit: 0,
      result: { cap: '1000', channelCap: '500', models: [expect.stringMatching(/^0x/)] },
    })
    expect(await buy()).toMatchObject({ exit: 0, result: { price: '250' } })
    expect((await assay('buyer', 'mandate', 'revoke', address('agent'))).exit).toBe(0)
    expect((await buy()).exit).toBe(1)
    const twice = await assay('buyer', 'mandate', 'revoke', address('agent'))
    expect(twice.result.error.message).toContain('only one that stands can be revoked')
  }, 120_000)

  test('usage: what is typed wrong ends with 2 and says what to type', async () => {
    const cases: [string[], string][] = [
      [['buy'], 'Name the model'],
      [['buy', 'digits'], '--input'],
      [['deposit', '1.5'], 'whole number'],
      [['mandate', 'me', '--cap', '1'], 'takes an address'],
      [['mandate', createSigner(fromHex(developmentKey('agent'), 32)).address], '--cap'],
      [['verify', 'nothing.json'], 'cannot be read'],
      [['proxy', '--host', '0.0.0.0'], 'ASSAY_PROXY_TOKEN'],
      [['conquer'], 'not a command'],
    ]
    for (const [args, message] of cases) {
      const { exit, errors } = await assay('buyer', ...args)
      expect([args, exit]).toEqual([args, 2])
      expect(errors).toContain(message)
    }
  }, 120_000)
})
