import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { attestedInferenceAbi, escrowAbi, testTokenAbi } from '../../contracts/abi.ts'
import { fromHex, toHex } from '../../protocol/bytes.ts'
import { packClaims } from '../../protocol/claims.ts'
import { sha256 } from '../../protocol/hash.ts'
import { detailDigest } from '../../protocol/receipt.ts'
import { openContracts, signerOf } from './setup.ts'

type Setup = Awaited<ReturnType<typeof openContracts>>

// In the contract's order.
const status = {
  settled: 0,
  partial: 1,
  nothingNew: 2,
  badVoucher: 3,
  badReceipt: 4,
  runnerInactive: 5,
  expired: 6,
  badTerms: 7,
  noFunds: 8,
  mandateExceeded: 9,
} as const

describe('Escrow', () => {
  let it: Setup
  let snapshot: `0x${string}`
  const runner = signerOf('runner')
  const other = signerOf('second runner')
  beforeAll(async () => {
    it = await openContracts()
    await it.registerPck()
    await it.register(runner)
    await it.register(other)
    await it.fund('buyer', 10_000n)
    snapshot = await it.testClient.snapshot()
  })
  beforeEach(async () => {
    await it.testClient.revert({ id: snapshot })
    snapshot = await it.testClient.snapshot()
  })
  afterAll(async () => {
    await it?.chain.stop()
  })
  const share = async (party: string, royaltyBps = 1_000) => {
    const pot = await it.read<`0x${string}`>('potId', [runner.address, signerOf('publisher').address, royaltyBps])
    const parts = await it.read<readonly bigint[]>('divide', [await it.read<bigint>('pots', [pot]), royaltyBps])
    return parts[['provider', 'publisher', 'treasury'].indexOf(party)] ?? 0n
  }
  /** What a party has earned, divided already or not. */
  const earned = async (party: string) =>
    (await it.read<bigint>('earnings', [signerOf(party).address])) + (await share(party))
  const distribute = () =>
    it.send('buyer', {
      address: it.contracts.escrow,
      abi: escrowAbi,
      functionName: 'distribute',
      args: [runner.address, signerOf('publisher').address, 1_000],
    })
  const deposit = async () =>
    (await it.read<readonly [bigint, bigint, bigint]>('accounts', [signerOf('buyer').address]))[0]
  const one = async (change: Parameters<Setup['claim']>[1], terms: Parameters<Setup['terms']>[1] = {}) =>
    it.claim(await it.terms(runner, terms), change)

  test.each([
    [1_000n, 1_000n, 1_000n],
    [1_000n, 700n, 700n],
    [700n, 1_000n, 700n],
    [333n, 999n, 333n],
  ])('behavior: receipt %i and voucher %i pay %i, split without a rest', async (cumulative, voucher, paid) => {
    const { statuses } = await it.settle(runner, [await one({ cumulative, voucher })])
    expect(statuses).toEqual([status.settled])
    const [provider, publisher, treasury] = await Promise.all([
      earned('provider'),
      earned('publisher'),
      earned('treasury'),
    ])
    expect([publisher, treasury]).toEqual([(paid * 1_000n) / 10_000n, (paid * 100n) / 10_000n])
    expect(provider + publisher + treasury).toBe(paid)
    expect(await deposit()).toBe(10_000n - paid)
  })

  test('behavior: the same claim pays nothing the second time, a higher one the difference', async () => {
    const terms = await it.terms(runner)
    const first = await it.claim(terms, { cumulative: 300n, voucher: 1_000n })
    await it.settle(runner, [first])
    expect((await it.settle(runner, [first])).statuses).toEqual([status.nothingNew])
    expect((await it.settle(runner, [await it.claim(terms, { cumulative: 500n, voucher: 1_000n })])).statuses).toEqual([
      status.settled,
    ])
    expect(await deposit()).toBe(9_500n)
  })

  test('refusal: a voucher signed by someone else', async () => {
    expect(
      (await it.settle(runner, [await one({ cumulative: 100n, voucher: 100n, voucherSigner: signerOf('stranger') })]))
        .statuses,
    ).toEqual([status.badVoucher])
  })

  test('refusal: a batch signed by a registered but different runner', async () => {
    expect((await it.settle(other, [await one({ cumulative: 100n, voucher: 100n })])).statuses).toEqual([
      status.badReceipt,
    ])
  })

  test('refusal: an unregistered key', async () => {
    const stranger = signerOf('stranger')
    const made = await it.claim(await it.terms(stranger), { cumulative: 100n, voucher: 100n })
    expect((await it.settle(stranger, [made])).statuses).toEqual([status.runnerInactive])
  })

  test('refusal: work finished after the registration ended, or before it began', async () => {
    const late = await one(
      { cumulative: 100n, voucher: 100n, receipt: { finishedAt: (await it.now()) + 90_000n } },
      { expiresAt: (await it.now()) + 100_000n },
    )
    const early = await one({ cumulative: 100n, voucher: 100n, receipt: { finishedAt: (await it.now()) - 1_000n } })
    expect((await it.settle(runner, [late, early])).statuses).toEqual([status.runnerInactive, status.runnerInactive])
  })

  test('refusal: a revoked measurement', async () => {
    const made = await one({ cumulative: 100n, voucher: 100n })
    await it.policyCall('revoke', [it.workload])
    expect((await it.settle(runner, [made])).statuses).toEqual([status.runnerInactive])
  })

  /** Moves the clock to a time in unix seconds, in a block of its own. */
  const at = async (seconds: bigint) => {
    await it.testClient.setNextBlockTimestamp({ timestamp: seconds })
    await it.testClient.mine({ blocks: 1 })
  }
  const day = 86_400n

  describe('appeals', () => {
    const frozen = async () => {
      const made = await one({ cumulative: 100n, voucher: 100n })
      const lapses = made.claim.terms.expiresAt + day
      return { made, lapses }
    }
    const settled = async (made: Awaited<ReturnType<typeof one>>) => (await it.settle(runner, [made])).statuses[0]

    test('behavior: a workload stopped and taken up again within a week is paid for what ran out meanwhile, for a day', async () => {
      const { made, lapses } = await frozen()
      await it.policyCall('revoke', [it.workload])
      await at(lapses + 4n * day)
      expect(await settled(made)).toBe(status.expired)
      await it.policyCall('approve', [it.workload])
      const lifted = await it.now()
      const before = await it.testClient.snapshot()
      await at(lifted + day + 1n)
      expect(await settled(made)).toBe(status.expired)
      await it.testClient.revert({ id: before })
      expect(await settled(made)).toBe(status.settled)
    })

    test('refusal: taken up again after the week, or stopped only after the time was up, or never stopped', async () => {
      const { made, lapses } = await frozen()
      const start = await it.testClient.snapshot()
      await it.policyCall('revoke', [it.workload])
      await at((await it.now()) + 7n * day + 1n)
      await it.policyCall('approve', [it.workload])
      expect(await settled(made)).toBe(status.expired)

      await it.testClient.revert({ id: start })
      await at(lapses + 10n)
      await it.policyCall('revoke', [it.workload])
      await it.policyCall('approve', [it.workload])
      expect(await settled(made)).toBe(status.expired)
    })

    test('refusal: the clock does not make late work timely, and an appeal frees no money the buyer took back', async () => {
      const terms = await it.terms(runner)
      const late = await it.claim(terms, {
        cumulative: 100n,
        voucher: 100n,
        receipt: { finishedAt: terms.expiresAt + 1n },
      })
      const { made, lapses } = await frozen()
      await it.policyCall('revoke', [it.workload])
      await at(lapses + day)
      await it.policyCall('approve', [it.workload])
      expect(await settled(late)).toBe(status.expired)
      const { address } = signerOf('buyer')
      const [balance] = await it.read<readonly [bigint, bigint, bigint]>('accounts', [address])
      const exit = (functionName: string, args: readonly unknown[]) =>
        it.send('buyer', { address: it.contracts.escrow, abi: escrowAbi, functionName, args })
      await exit('requestWithdrawal', [balance])
      await at((await it.now()) + 100n)
      await exit('withdraw', [])
      expect(await settled(made)).toBe(status.noFunds)
    })
  })

  test('refusal: expired terms', async () => {
    const made = await one({ cumulative: 100n, voucher: 100n }, { expiresAt: (await it.now()) - 10n })
    expect((await it.settle(runner, [made])).statuses).toEqual([status.expired])
  })

  test('refusal: a claim after the claim window', async () => {
    const made = await one({ cumulative: 100n, voucher: 100n })
    await it.testClient.increaseTime({ seconds: 86_400 + 3_700 })
    await it.testClient.mine({ blocks: 1 })
    expect((await it.settle(runner, [made])).statuses).toEqual([status.expired])
  })

  test('refusal: terms with another fee have another channel, which nothing here signs', async () => {
    expect((await it.settle(runner, [await one({ cumulative: 100n, voucher: 100n }, { feeBps: 0 })])).statuses).toEqual(
      [status.badReceipt],
    )
  })

  test('refusal: a royalty that leaves nothing to take the fee from', async () => {
    const made = await one({ cumulative: 100n, voucher: 100n }, { royaltyBps: 9_901 })
    expect((await it.settle(runner, [made])).statuses).toEqual([status.badTerms])
  })

  test('refusal: a buyer without a deposit; behavior: one with too little pays what is there', async () => {
    const poor = signerOf('poor buyer')
    const terms = await it.terms(runner, { buyer: poor.address })
    const made = await it.claim(terms, { cumulative: 100n, voucher: 100n, voucherSigner: poor })
    expect((await it.settle(runner, [made])).statuses).toEqual([status.noFunds])
    await it.fund('poor buyer', 40n)
    expect((await it.settle(runner, [made])).statuses).toEqual([status.partial])
    await it.fund('poor buyer', 100n)
    expect((await it.settle(runner, [made])).statuses).toEqual([status.settled])
    expect(await it.read<bigint>('settled', [made.channel])).toBe(100n)
  })

  test('behavior: one bad claim does not stop the others', async () => {
    const claims = [
      await one({ cumulative: 100n, voucher: 100n }),
      await one({ cumulative: 100n, voucher: 100n, voucherSigner: other }),
      await one({ cumulative: 200n, voucher: 100n }),
    ]
    expect((await it.settle(runner, claims)).statuses).toEqual([status.settled, status.badVoucher, status.settled])
    expect(await deposit()).toBe(9_800n)
  })

  test('refusal: receipts and vouchers made for another chain or escrow', async () => {
    for (const inDomain of [
      { ...it.domain, chainId: 1 },
      { ...it.domain, escrow: it.contracts.token },
    ]) {
      const made = await it.claim(await it.terms(runner), { cumulative: 100n, voucher: 100n, inDomain })
      expect((await it.settle(runner, [made], inDomain)).statuses).toEqual([status.badReceipt])
    }
  })

  test('refusal: a leaf changed after signing', async () => {
    const made = await one({ cumulative: 100n, voucher: 1_000n })
    made.claim.receipt = { ...made.claim.receipt, cumulative: 1_000n }
    expect((await it.settle(runner, [made])).statuses).toEqual([status.badReceipt])
  })

  test('behavior: anyone settles one receipt of a larger batch with its proof; a proof for another place is refused', async () => {
    const claims = await Promise.all([1, 2, 3, 4, 5].map(() => one({ cumulative: 100n, voucher: 100n })))
    const { proofs, signature } = await it.signBatch(
      runner,
      claims.map(({ leaf }) => leaf),
    )
    const call = (at: number, proof: number) => {
      const packed = packClaims({ claims: [claims[at]!.claim], signature: fromHex(signature), proof: proofs[proof]! })
      return {
        address: it.contracts.escrow,
        abi: escrowAbi,
        functionName: 'settleChannels',
        args: [toHex(packed)],
      } as const
    }
    const simulate = async (at: number, proof: number) =>
      (await it.publicClient.simulateContract({ ...call(at, proof), account: it.wallet('buyer').account } as never))
        .result
    expect(await simulate(4, 3)).toEqual([status.badReceipt])
    expect(await simulate(4, 4)).toEqual([status.settled])
    await it.send('buyer', call(4, 4))
    expect(await earned('provider')).toBe(89n)
  })

  test('behavior: a settlement still draws during the withdrawal delay, and the withdrawal pays what is left', async () => {
    const call = (functionName: string, args: readonly unknown[] = []) => ({
      address: it.contracts.escrow,
      abi: escrowAbi,
      functionName,
      args,
    })
    await it.send('buyer', call('requestWithdrawal', [10_000n]))
    await expect(it.send('buyer', call('withdraw'))).rejects.toThrow('TooEarly')
    await it.settle(runner, [await one({ cumulative: 400n, voucher: 400n })])
    await it.testClient.increaseTime({ seconds: 61 })
    await it.testClient.mine({ blocks: 1 })
    await it.send('buyer', call('withdraw'))
    const balance = await it.publicClient.readContract({
      address: it.contracts.token,
      abi: testTokenAbi,
      functionName: 'balanceOf',
      args: [signerOf('buyer').address],
    })
    expect(balance).toBe(9_600n)
    await expect(it.send('buyer', call('withdraw'))).rejects.toThrow('NotRequested')
  })

  test('behavior: earnings are withdrawn at once, and only once', async () => {
    await it.settle(runner, [await one({ cumulative: 400n, voucher: 400n })])
    const call = {
      address: it.contracts.escrow,
      abi: escrowAbi,
      functionName: 'withdrawEarnings',
      args: [signerOf('provider').address],
    }
    await expect(it.send('provider', call)).rejects.toThrow('NothingToWithdraw')
    await distribute()
    await it.send('provider', call)
    const balance = await it.publicClient.readContract({
      address: it.contracts.token,
      abi: testTokenAbi,
      functionName: 'balanceOf',
      args: [signerOf('provider').address],
    })
    expect(balance).toBe(356n)
    await expect(it.send('provider', call)).rejects.toThrow('NothingToWithdraw')
  })

  /** Signs an EIP-3009 authorization of the buyer for tokens that are minted to it first. */
  const authorization = async (primaryType: 'ReceiveWithAuthorization' | 'TransferWithAuthorization', to: string) => {
    const { account } = it.wallet('buyer')
    const [value, validAfter, validBefore] = [500n, 0n, 2n ** 40n]
    const nonce = toHex(sha256(new Uint8Array([7])))
    await it.send('buyer', {
      address: it.contracts.token,
      abi: testTokenAbi,
      functionName: 'mint',
      args: [account.address, value],
    })
    const field = (name: string, type: string) => ({ name, type })
    const signature = await it.wallet('buyer').signTypedData({
      account,
      domain: {
        name: 'Assay test dollar',
        version: '1',
        chainId: it.chain.chainId,
        verifyingContract: it.contracts.token,
      },
      primaryType,
      types: {
        [primaryType]: [
          field('from', 'address'),
          field('to', 'address'),
          field('value', 'uint256'),
          field('validAfter', 'uint256'),
          field('validBefore', 'uint256'),
          field('nonce', 'bytes32'),
        ],
      },
      message: { from: account.address, to, value, validAfter, validBefore, nonce },
    })
    return { from: account.address, value, validAfter, validBefore, nonce, signature }
  }

  test('behavior: an EIP-3009 authorization deposits once', async () => {
    const { from, ...rest } = await authorization('ReceiveWithAuthorization', it.contracts.escrow)
    const call = {
      address: it.contracts.escrow,
      abi: escrowAbi,
      functionName: 'depositWithAuthorization',
      args: [from, ...Object.values(rest)],
    }
    await it.send('provider', call)
    expect(await deposit()).toBe(10_500n)
    await expect(it.send('provider', call)).rejects.toThrow('reverted')
    expect(await deposit()).toBe(10_500n)
  })

  describe("a buyer's inbox", () => {
    const inboxOf = (buyer: string) => it.read<`0x${string}`>('inboxOf', [buyer])
    const fromInbox = (buyer: string) =>
      it.send('provider', {
        address: it.contracts.escrow,
        abi: escrowAbi,
        functionName: 'depositFromInbox',
        args: [buyer],
      })
    const onToken = (party: string, functionName: string, args: readonly unknown[]) =>
      it.send(party, { address: it.contracts.token, abi: testTokenAbi, functionName, args })
    const buyer = signerOf('buyer').address

    test('behavior: a signed transfer that somebody else sent first is credited all the same, to its signer', async () => {
      const inbox = await inboxOf(buyer)
      const { from, ...rest } = await authorization('TransferWithAuthorization', inbox)
      await onToken('provider', 'transferWithAuthorization', [from, inbox, ...Object.values(rest)])
      expect(await deposit()).toBe(10_000n)
      await fromInbox(buyer)
      expect(await deposit()).toBe(10_500n)
      await expect(fromInbox(buyer)).rejects.toThrow('NothingDeposited')
    })

    test('behavior: plain transfers are credited too, again and again, and nobody else can be credited with them', async () => {
      const inbox = await inboxOf(buyer)
      for (const amount of [30n, 12n]) {
        await onToken('buyer', 'mint', [inbox, amount])
        await expect(fromInbox(signerOf('provider').address)).rejects.toThrow('NothingDeposited')
        await fromInbox(buyer)
      }
      expect(await deposit()).toBe(10_042n)
    })

    test('behavior: is credited while deposits are paused too, as nothing else could take it out', async () => {
      await onToken('buyer', 'mint', [await inboxOf(buyer), 30n])
      await it.send('deployer', {
        address: it.contracts.escrow,
        abi: escrowAbi,
        functionName: 'pauseDeposits',
        args: [true],
      })
      await fromInbox(buyer)
      expect(await deposit()).toBe(10_030n)
    })
  })

  test('refusal: depositing nothing, or withdrawing more than there is', async () => {
    await expect(
      it.send('buyer', {
        address: it.contracts.escrow,
        abi: escrowAbi,
        functionName: 'deposit',
        args: [signerOf('buyer').address, 0n],
      }),
    ).rejects.toThrow('NothingDeposited')
    await expect(
      it.send('buyer', {
        address: it.contracts.escrow,
        abi: escrowAbi,
        functionName: 'requestWithdrawal',
        args: [10_001n],
      }),
    ).rejects.toThrow('NothingToWithdraw')
  })

  test('behavior: a third party verifies one inference in one call; any change is refused', async () => {
    const detail = {
      input: sha256(new Uint8Array([1])),
      output: sha256(new Uint8Array([2])),
      execution: sha256(new Uint8Array([3])),
      price: 100n,
    }
    const made = await one({ cumulative: 100n, voucher: 100n, receipt: { detail: detailDigest(detail) } })
    const failed = await one({
      cumulative: 100n,
      voucher: 100n,
      receipt: { detail: detailDigest(detail), status: 2, job: 2n },
    })
    const { proofs, signature } = await it.signBatch(runner, [made.leaf, failed.leaf])
    const onChain = {
      ...detail,
      input: toHex(detail.input),
      output: toHex(detail.output),
      execution: toHex(detail.execution),
    }
    const proof = (at: number) => ({
      index: proofs[at]!.index,
      count: proofs[at]!.count,
      path: proofs[at]!.path.map(toHex),
    })
    const verify = (...args: unknown[]) =>
      it.publicClient.readContract({
        address: it.contracts.attestedInference,
        abi: attestedInferenceAbi,
        functionName: 'verify',
        args: args as never,
      })
    const { terms } = made.claim
    const receipt = made.onChain
    expect(await verify(terms, receipt, onChain, proof(0), signature)).toBe(made.channel)
    await expect(verify(terms, receipt, { ...onChain, price: 1n }, proof(0), signature)).rejects.toThrow(
      'DetailMismatch',
    )
    await expect(verify(terms, receipt, onChain, { ...proof(0), path: [] }, signature)).rejects.toThrow('NotInBatch')
    await expect(verify({ ...terms, price: 1n }, receipt, onChain, proof(0), signature)).rejects.toThrow('WrongSigner')
    await expect(verify(failed.claim.terms, failed.onChain, onChain, proof(1), signature)).rejects.toThrow('JobFailed')
    await it.policyCall('kill', [])
    await expect(verify(terms, receipt, onChain, proof(0), signature)).rejects.toThrow('RunnerNotAttested')
  })
})
