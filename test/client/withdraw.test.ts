import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { grantMandate, revokeMandate } from '../../client/mandate.ts'
import { type EscrowAccess, requestWithdrawal, withdrawDeposit } from '../../client/withdraw.ts'
import { escrowAbi } from '../../contracts/abi.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'

let it: Awaited<ReturnType<typeof openContracts>>
let snapshot: `0x${string}`
let buyer: EscrowAccess

beforeAll(async () => {
  it = await openContracts()
  await it.fund('buyer', 10_000n)
  buyer = { publicClient: it.publicClient, wallet: it.wallet('buyer'), contracts: it.contracts }
  snapshot = await it.testClient.snapshot()
}, 60_000)
beforeEach(async () => {
  await it.testClient.revert({ id: snapshot })
  snapshot = await it.testClient.snapshot()
})
afterAll(async () => {
  await it?.chain.stop()
})

const nonce = () => it.publicClient.getTransactionCount({ address: buyer.wallet.account.address })

describe('a deposit asked back', () => {
  test('behavior: is withdrawn after the delay and not before', async () => {
    const { withdrawableAt } = await requestWithdrawal(buyer, 4_000n)
    const { timestamp } = await it.publicClient.getBlock()
    expect(withdrawableAt.getTime() / 1000).toBe(Number(timestamp) + 60)
    await expect(withdrawDeposit(buyer)).rejects.toMatchObject({
      reason: 'TooEarly',
      message: `It can be withdrawn from ${withdrawableAt.toISOString()}.`,
    })
    await it.testClient.increaseTime({ seconds: 61 })
    await it.testClient.mine({ blocks: 1 })
    expect(await withdrawDeposit(buyer)).toBe(4_000n)
    const [balance] = await it.read<readonly [bigint]>('accounts', [signerOf('buyer').address])
    expect(balance).toBe(6_000n)
  })

  test('refusal: more than there is, and nothing asked; no transaction is sent', async () => {
    const before = await nonce()
    await expect(requestWithdrawal(buyer, 10_001n)).rejects.toMatchObject({ reason: 'NothingToWithdraw' })
    await expect(requestWithdrawal(buyer, 0n)).rejects.toMatchObject({ reason: 'NothingToWithdraw' })
    await expect(withdrawDeposit(buyer)).rejects.toThrow('Ask first')
    expect(await nonce()).toBe(before)
  })
})

describe('a mandate', () => {
  const key = signerOf('agent').address
  const model = `0x${'11'.repeat(32)}` as const
  const left = (of: `0x${string}`) =>
    it.publicClient.readContract({
      address: it.contracts.escrow,
      abi: escrowAbi,
      functionName: 'mandateLeft',
      args: [signerOf('buyer').address, key, of, `0x${'22'.repeat(32)}`, BigInt(Math.floor(Date.now() / 1000))],
    })
  const bounds = { key, cap: 500n, channelCap: 200n, expiresAt: new Date(Date.now() + 86_400_000) }

  test('behavior: lets a key spend on the models named and no others, until it is revoked', async () => {
    await grantMandate(buyer, { ...bounds, models: [model] })
    expect(await left(model)).toBe(200n)
    expect(await left(`0x${'33'.repeat(32)}`)).toBe(0n)
    await grantMandate(buyer, { ...bounds, models: [] })
    expect(await left(`0x${'33'.repeat(32)}`)).toBe(200n)
    await revokeMandate(buyer, key)
    expect(await left(model)).toBe(0n)
  })

  test("refusal: one's own key, no bounds, an end that is past, and revoking what is not", async () => {
    const before = await nonce()
    for (const wrong of [
      { key: signerOf('buyer').address },
      { cap: 0n },
      { channelCap: 0n },
      { expiresAt: new Date(0) },
    ])
      await expect(grantMandate(buyer, { ...bounds, models: [], ...wrong })).rejects.toMatchObject({
        reason: 'BadMandate',
      })
    await expect(revokeMandate(buyer, key)).rejects.toMatchObject({ reason: 'BadMandate' })
    expect(await nonce()).toBe(before)
  })
})
