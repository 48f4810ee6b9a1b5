import { type Address, keccak256 } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { attestedInferenceAbi, stakeAbi, testTokenAbi } from '../../contracts/abi.ts'
import { concat, type Hex, toHex } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { detailDigest } from '../../protocol/receipt.ts'
import { canonicalTensors, type Tensor, tensorCommitment } from '../../protocol/tensors.ts'
import { openContracts, signerOf } from './setup.ts'

type Setup = Awaited<ReturnType<typeof openContracts>>

const bits = (value: number) => {
  const view = new DataView(new ArrayBuffer(4))
  view.setFloat32(0, value)
  return view.getUint32(0)
}
const score = (...values: number[]): Tensor[] => [
  { name: 'score', datatype: 'FP32', shape: [values.length], data: new Uint8Array(new Float32Array(values).buffer) },
]
const question: Tensor[] = [{ name: 'text', datatype: 'UINT8', shape: [2], data: new Uint8Array([4, 2]) }]
const salt = (fill: number) => new Uint8Array(32).fill(fill)

describe('Grants', () => {
  let it: Setup
  let grants: Address
  let snapshot: Hex
  const runner = signerOf('runner')
  // What the contract it asks refuses reaches the caller as it is.
  const abi = () => [...it.artifacts.Grants!.abi, ...attestedInferenceAbi.filter(({ type }) => type === 'error')]
  const call = (party: string, functionName: string, args: readonly unknown[]) =>
    it.send(party, { address: grants, abi: abi(), functionName, args })
  const beneficiary = signerOf('beneficiary').address

  const open = async (change: Record<string, unknown> = {}) => {
    const { address } = it.wallet('publisher').account
    const token = { address: it.contracts.token, abi: testTokenAbi } as const
    await it.send('publisher', { ...token, functionName: 'mint', args: [address, 500n] })
    await it.send('publisher', { ...token, functionName: 'approve', args: [grants, 500n] })
    await call('publisher', 'open', [
      {
        sponsor: address,
        beneficiary,
        amount: 500n,
        cover: 1_000n,
        expiresAt: (await it.now()) + 3_600n,
        threshold: bits(0.75),
        model: (await it.terms(runner)).model,
        question: keccak256(canonicalTensors(question)),
        shape: keccak256(canonicalTensors(score(0)).slice(0, -4)),
        ...change,
      },
    ])
  }

  /** Makes the arguments of `earn` as the runner's answer gives them. */
  const answer = async (
    output: Tensor[],
    {
      by = runner,
      input = question,
      status = 0,
      finishedAt,
    }: { by?: typeof runner; input?: Tensor[]; status?: number; finishedAt?: bigint } = {},
  ) => {
    const detail = {
      input: tensorCommitment(salt(1), input),
      output: tensorCommitment(salt(2), output),
      execution: sha256(new Uint8Array([3])),
      price: 100n,
    }
    const made = await it.claim(await it.terms(by), {
      cumulative: 100n,
      voucher: 100n,
      receipt: { detail: detailDigest(detail), status, ...(finishedAt === undefined ? {} : { finishedAt }) },
    })
    const other = await it.claim(await it.terms(by), { cumulative: 100n, voucher: 100n })
    const { proofs, signature } = await it.signBatch(by, [other.leaf, made.leaf])
    const ran = {
      terms: made.claim.terms,
      receipt: made.onChain,
      detail: {
        ...detail,
        input: toHex(detail.input),
        output: toHex(detail.output),
        execution: toHex(detail.execution),
      },
      proof: { index: 1, count: 2, path: proofs[1]!.path.map(toHex) },
      batchSignature: signature,
    }
    const opening = (fill: number, tensors: Tensor[]) => ({
      salt: toHex(salt(fill)),
      tensors: toHex(canonicalTensors(tensors)),
    })
    return [ran, opening(1, input), opening(2, output)] as const
  }

  beforeAll(async () => {
    it = await openContracts()
    await it.registerPck()
    await it.register(runner)
    const wallet = it.wallet('deployer')
    const hash = await wallet.deployContract({
      abi: abi(),
      bytecode: it.artifacts.Grants!.bytecode,
      args: [it.contracts.attestedInference, it.contracts.stake],
      account: wallet.account,
      chain: null,
    })
    grants = (await it.publicClient.waitForTransactionReceipt({ hash })).contractAddress!
    const { address } = it.wallet('provider').account
    const token = { address: it.contracts.token, abi: testTokenAbi } as const
    await it.send('provider', { ...token, functionName: 'mint', args: [address, 1_000n] })
    await it.send('provider', { ...token, functionName: 'approve', args: [it.contracts.stake, 1_000n] })
    await it.send('provider', {
      address: it.contracts.stake,
      abi: stakeAbi,
      functionName: 'stake',
      args: [runner.address, 1_000n],
    })
    snapshot = await it.testClient.snapshot()
  })
  beforeEach(async () => {
    await it.testClient.revert({ id: snapshot })
    await it.testClient.mine({ blocks: 2 })
    snapshot = await it.testClient.snapshot()
  })
  afterAll(async () => {
    await it?.chain.stop()
  })
  const balance = (address: Address) =>
    it.publicClient.readContract({
      address: it.contracts.token,
      abi: testTokenAbi,
      functionName: 'balanceOf',
      args: [address],
    })

  test('behavior: pays on a score a runner signed for, sent by anyone, once', async () => {
    await open()
    const ran = await answer(score(0.75))
    await call('buyer', 'earn', [0n, ...ran])
    expect(await balance(beneficiary)).toBe(500n)
    await expect(call('buyer', 'earn', [0n, ...ran])).rejects.toThrow('NothingToPay')
  })

  test('behavior: an inference that paid one grant pays no other', async () => {
    await open()
    await open()
    const ran = await answer(score(0.9))
    await call('buyer', 'earn', [0n, ...ran])
    await expect(call('buyer', 'earn', [1n, ...ran])).rejects.toThrow('AlreadyUsed')
    await call('buyer', 'earn', [1n, ...(await answer(score(0.9)))])
    expect(await balance(beneficiary)).toBe(1_000n)
  })

  test.each([
    ['a lower score', 0.74],
    ['a negative score', -1],
    ['minus zero', -0],
    ['no number', Number.NaN],
    ['infinity', Number.POSITIVE_INFINITY],
  ])('behavior: %s pays nothing', async (_, value) => {
    await open()
    await expect(call('buyer', 'earn', [0n, ...(await answer(score(value)))])).rejects.toThrow('ScoreTooLow')
  })

  test('behavior: another output than the runner committed to pays nothing', async () => {
    await open()
    const [ran, input, output] = await answer(score(0.1))
    const better = { ...output, tensors: toHex(canonicalTensors(score(0.9))) }
    await expect(call('buyer', 'earn', [0n, ran, input, better])).rejects.toThrow('WrongOutput')
    await expect(call('buyer', 'earn', [0n, ran, input, { ...output, tensors: '0x' }])).rejects.toThrow('WrongOutput')
  })

  test('behavior: an output of another shape pays nothing, whatever its last number', async () => {
    await open()
    await expect(call('buyer', 'earn', [0n, ...(await answer(score(0.1, 0.9)))])).rejects.toThrow('WrongOutput')
    const short: Tensor[] = []
    await expect(call('buyer', 'earn', [0n, ...(await answer(short))])).rejects.toThrow('WrongOutput')
  })

  test('behavior: an answer to another question pays nothing', async () => {
    await open()
    const input: Tensor[] = [{ ...question[0]!, data: new Uint8Array([4, 3]) }]
    await expect(call('buyer', 'earn', [0n, ...(await answer(score(0.9), { input }))])).rejects.toThrow('WrongInput')
    const [ran, opening, output] = await answer(score(0.9))
    await expect(call('buyer', 'earn', [0n, ran, { ...opening, salt: toHex(salt(8)) }, output])).rejects.toThrow(
      'WrongInput',
    )
  })

  test('behavior: another model, a failed job, an old answer and an unattested key pay nothing', async () => {
    await open({ model: toHex(sha256(concat(new Uint8Array([7])))) })
    await expect(call('buyer', 'earn', [0n, ...(await answer(score(0.9)))])).rejects.toThrow('WrongModel')
    await open()
    await expect(call('buyer', 'earn', [1n, ...(await answer(score(0.9), { status: 2 }))])).rejects.toThrow('JobFailed')
    const finishedAt = (await it.now()) - 86_500n
    await expect(call('buyer', 'earn', [1n, ...(await answer(score(0.9), { finishedAt }))])).rejects.toThrow('TooOld')
    await expect(
      call('buyer', 'earn', [1n, ...(await answer(score(0.9), { by: signerOf('stranger') }))]),
    ).rejects.toThrow('RunnerNotAttested')
    expect(await balance(beneficiary)).toBe(0n)
  })

  test('behavior: a runner with too little at stake pays nothing', async () => {
    await open({ cover: 1_001n })
    await expect(call('buyer', 'earn', [0n, ...(await answer(score(0.9)))])).rejects.toThrow('TooLittleCover')
  })

  test('behavior: a sponsor has its money back when nobody earned it in time, and cannot spend that of another', async () => {
    const { address } = it.wallet('publisher').account
    await open()
    await expect(call('buyer', 'reclaim', [0n])).rejects.toThrow('TooEarly')
    await expect(open({ sponsor: beneficiary })).rejects.toThrow('BadGrant')
    await expect(open({ threshold: bits(Number.POSITIVE_INFINITY) })).rejects.toThrow('BadGrant')
    await it.testClient.increaseTime({ seconds: 3_700 })
    await it.testClient.mine({ blocks: 1 })
    const before = await balance(address)
    await call('buyer', 'reclaim', [0n])
    expect((await balance(address)) - before).toBe(500n)
    await expect(call('buyer', 'reclaim', [0n])).rejects.toThrow('NothingToPay')
  })
})
