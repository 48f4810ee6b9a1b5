import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { escrowAbi } from '../../contracts/abi.ts'
import { developmentKey } from '../../dev/keys.ts'
import type { Marketplace, RunnerProcess } from '../../dev/marketplace.ts'
import { digitTensor as pixels, sampleModel } from '../../dev/sample/model.ts'
import { localBuyer, settleNow } from '../../dev/story.ts'
import type { Hex } from '../../protocol/bytes.ts'
import { eventually, fund, list, openMarketplace } from './marketplace.ts'

const run = promisify(execFile)
const price = 1_000n

type Outcome = { paid: string; channels: { status: string; amount: string; transaction: Hex | null }[] }

describe('a runner that vanished with its disk', () => {
  let marketplace: Marketplace
  let close: () => Promise<void>
  let runner: RunnerProcess
  const logged: string[] = []
  beforeAll(async () => {
    ;({ marketplace, close } = await openMarketplace())
    runner = await marketplace.startRunner({ onLog: (line) => logged.push(line) })
    await fund(marketplace, 1_000_000n)
    const stranger = privateKeyToAccount(developmentKey('stranger')).address
    await marketplace.chain.testClient.setBalance({ address: stranger, value: 10n ** 20n })
  })
  afterAll(() => close?.())

  /** Settles as a stranger does, from the command line. */
  const settle = async (...more: string[]): Promise<Outcome> => {
    const { stdout } = await run(
      process.execPath,
      [join(import.meta.dirname, '../../client/cli.ts'), 'settle', '--for', runner.signer, '--json', ...more],
      {
        env: {
          ...process.env,
          ASSAY_EDGE: marketplace.edgeUrl,
          ASSAY_RPC: marketplace.rpcUrl,
          ASSAY_KEY: developmentKey('stranger'),
        },
      },
    )
    return JSON.parse(stdout) as Outcome
  }
  const pot = async () => {
    const { publicClient } = marketplace.chain
    const escrow = { address: marketplace.contracts.escrow, abi: escrowAbi } as const
    const publisher = privateKeyToAccount(developmentKey('publisher')).address
    const args = [runner.signer, publisher, 1_000] as const
    const id = await publicClient.readContract({ ...escrow, functionName: 'potId', args })
    return publicClient.readContract({ ...escrow, functionName: 'pots', args: [id] })
  }

  test('behavior: anyone settles what it earned from what the edge kept; the provider is paid, once', async () => {
    const buyers = [localBuyer(marketplace), localBuyer(marketplace)] as const
    const digest = await list(buyers[0], runner, sampleModel().graph, 'digits', price)
    await eventually(() => buyers[0].infer(digest, [pixels(3)]))
    await buyers[0].infer(digest, [pixels(4)])
    await buyers[0].infer(digest, [pixels(5)])
    await eventually(() => buyers[1].infer(digest, [pixels(6)]))
    // What it claims itself it tells the edge of, so that the books can be compared.
    expect((await settleNow(runner)).channels).toBe(2)
    for (let left = 100; !logged.some((line) => line.includes('totals_posted')) && left > 0; left--)
      await new Promise((resolve) => setTimeout(resolve, 100))
    expect(JSON.parse(logged.find((line) => line.includes('totals_'))!)).toMatchObject({
      event: 'totals_posted',
      channels: 2,
    })
    await buyers[0].infer(digest, [pixels(7)])
    await buyers[1].infer(digest, [pixels(8)])
    await buyers[0].infer(digest, [pixels(9)])
    // While it is there, nobody else is given its buyers' vouchers.
    await expect(settle()).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('claims for itself') })
    runner.child.kill('SIGKILL')
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    const before = await pot()
    const first = await settle()
    expect(first.channels.map(({ status, amount }) => [status, amount]).sort()).toEqual([
      ['settled', String(price)],
      ['settled', String(2n * price)],
    ])
    expect(first.paid).toBe(String(3n * price))
    expect((await pot()) - before).toBe(3n * price)
    const again = await settle()
    expect(again.channels.map(({ status, transaction }) => [status, transaction])).toEqual([
      ['nothing_new', null],
      ['nothing_new', null],
    ])
    expect((await pot()) - before).toBe(3n * price)
  })

  test('refusal: dust stays unclaimed below a minimum, and a runner that is none is said', async () => {
    expect((await settle('--minimum', '5000')).paid).toBe('0')
    const attempt = run(process.execPath, [join(import.meta.dirname, '../../client/cli.ts'), 'settle', '--for', 'me'])
    await expect(attempt).rejects.toMatchObject({ code: 2 })
  })
})
