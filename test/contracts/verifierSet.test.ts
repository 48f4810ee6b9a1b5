import { type Hex, hashTypedData } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { runnerRegistryAbi, verifierSetAbi } from '../../contracts/abi.ts'
import {
  type AttestedVerdict,
  attestedVerdictDigest,
  sortSignatures,
  teeNumbers,
} from '../../protocol/attestedVerdict.ts'
import { toHex } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import { openContracts, signerOf } from './setup.ts'

type Setup = Awaited<ReturnType<typeof openContracts>>

const names = ['verifier one', 'verifier two', 'verifier three']
const ascending = (signers: readonly Signer[]) =>
  [...signers].sort((a, b) => (BigInt(a.address) < BigInt(b.address) ? -1 : 1))
const verifiers = ascending(names.map(signerOf))
const runner = signerOf('snp runner')

describe('VerifierSet', () => {
  let it: Setup
  let snapshot: Hex
  beforeAll(async () => {
    it = await openContracts()
    await rotateTo(
      verifiers.map(({ address }) => address),
      2n,
    )
    snapshot = await it.testClient.snapshot()
  })
  beforeEach(async () => {
    await it.testClient.revert({ id: snapshot })
    snapshot = await it.testClient.snapshot()
  })
  afterAll(async () => {
    await it?.chain.stop()
  })

  const owner = (functionName: string, args: readonly unknown[], party = 'deployer') =>
    it.send(party, { address: it.contracts.verifierSet, abi: verifierSetAbi, functionName, args })
  const rotateTo = async (addresses: readonly Hex[], threshold: bigint) => {
    await owner('propose', [addresses, threshold])
    await it.testClient.increaseTime({ seconds: 2 * 86_400 })
    await it.testClient.mine({ blocks: 1 })
    await owner('rotate', [addresses, threshold], 'provider')
  }
  const verdictOf = async (change: Partial<AttestedVerdict> = {}): Promise<AttestedVerdict> => ({
    evidenceDigest: toHex(sha256(new Uint8Array([1]))),
    signer: runner.address,
    provider: signerOf('provider').address,
    workload: it.workload,
    tee: teeNumbers.snp + teeNumbers.gpu,
    tcbTier: 0,
    validUntil: (await it.now()) + 3_600n,
    policyEpoch: 0,
    ...change,
  })
  const domain = () => ({ chainId: it.chain.chainId, registry: it.contracts.registry })
  const signed = async (verdict: AttestedVerdict, by: readonly Signer[], inDomain = domain()) =>
    Promise.all(by.map(async (signer) => toHex(await signer.sign(attestedVerdictDigest(inDomain, verdict)))))
  const register = (verdict: AttestedVerdict, signatures: readonly Hex[]) =>
    owner('register', [verdict, signatures], 'provider')
  const first = verifiers[0]!
  const second = verifiers[1]!
  const stored = () =>
    it.publicClient.readContract({
      address: it.contracts.registry,
      abi: runnerRegistryAbi,
      functionName: 'runners',
      args: [runner.address],
    })

  test('behavior: enough verifiers register a runner, marked by kind, in the one slot settlement reads', async () => {
    const verdict = await verdictOf()
    await register(verdict, await signed(verdict, [first, second]))
    const [provider, , validUntil, , tee, status] = await stored()
    expect(provider.toLowerCase()).toBe(verdict.provider)
    expect([BigInt(validUntil), tee, status]).toEqual([verdict.validUntil, 130, 0])
    const [paid, active] = await it.publicClient.readContract({
      address: it.contracts.registry,
      abi: runnerRegistryAbi,
      functionName: 'providerAt',
      args: [runner.address, await it.now()],
    })
    expect([paid.toLowerCase(), active]).toEqual([verdict.provider, true])
  })

  test('behavior: signatures in any order are put in the order the contract asks for', async () => {
    const verdict = await verdictOf()
    const pairs = await Promise.all(
      [second, first].map(async (each) => ({ signer: each.address, signature: (await signed(verdict, [each]))[0]! })),
    )
    await register(verdict, sortSignatures(pairs))
    expect((await stored())[4]).toBe(130)
  })

  test('behavior: another library computes the digest alike, and so does the contract', async () => {
    const verdict = await verdictOf()
    const ours = toHex(attestedVerdictDigest(domain(), verdict))
    const types = {
      AttestedVerdict: [
        { name: 'evidenceDigest', type: 'bytes32' },
        { name: 'signer', type: 'address' },
        { name: 'provider', type: 'address' },
        { name: 'workload', type: 'bytes32' },
        { name: 'tee', type: 'uint8' },
        { name: 'tcbTier', type: 'uint8' },
        { name: 'validUntil', type: 'uint64' },
        { name: 'policyEpoch', type: 'uint16' },
      ],
    } as const
    const { chainId, registry } = domain()
    const typedDomain = { name: 'Assay', version: '1', chainId, verifyingContract: registry }
    expect(hashTypedData({ domain: typedDomain, types, primaryType: 'AttestedVerdict', message: verdict })).toBe(ours)
    const onChain = await it.publicClient.readContract({
      address: it.contracts.verifierSet,
      abi: verifierSetAbi,
      functionName: 'digestOf',
      args: [verdict],
    })
    expect(onChain).toBe(ours)
  })

  test('refusal: one verifier where two must agree', async () => {
    const verdict = await verdictOf()
    await expect(register(verdict, await signed(verdict, [first]))).rejects.toThrow('TooFewSignatures')
  })

  test('refusal: one verifier twice', async () => {
    const verdict = await verdictOf()
    await expect(register(verdict, await signed(verdict, [first, first]))).rejects.toThrow('SignersNotAscending')
  })

  test('refusal: signatures out of order', async () => {
    const verdict = await verdictOf()
    await expect(register(verdict, await signed(verdict, [second, first]))).rejects.toThrow('SignersNotAscending')
  })

  test('refusal: a signature of somebody else', async () => {
    const verdict = await verdictOf()
    const both = ascending([first, signerOf('stranger')])
    await expect(register(verdict, await signed(verdict, both))).rejects.toThrow('NotAVerifier')
  })

  const changes: [string, Partial<AttestedVerdict>][] = [
    ['provider', { provider: signerOf('other provider').address }],
    ['signer', { signer: signerOf('stranger').address }],
    ['evidence', { evidenceDigest: toHex(new Uint8Array(32)) }],
    ['tier', { tcbTier: 1 }],
    ['kind', { tee: teeNumbers.nitro }],
    ['epoch', { policyEpoch: 1 }],
  ]
  test.each(changes)('refusal: another %s than was signed', async (_, change) => {
    const verdict = await verdictOf()
    const signatures = await signed(verdict, [first, second])
    await expect(register({ ...verdict, ...change }, signatures)).rejects.toThrow('NotAVerifier')
  })

  test.each([
    ['chain', { chainId: 1 }],
    ['registry', { registry: toHex(new Uint8Array(20).fill(7)) }],
  ])('refusal: a verdict for another %s', async (_, change) => {
    const verdict = await verdictOf()
    const signatures = await signed(verdict, [first, second], { ...domain(), ...change } as ReturnType<typeof domain>)
    await expect(register(verdict, signatures)).rejects.toThrow('NotAVerifier')
  })

  const bad: [string, Partial<AttestedVerdict>, string][] = [
    ['a workload nobody approved', { workload: toHex(new Uint8Array(32).fill(5)) }, 'WorkloadNotApproved'],
    ['a status the policy does not allow', { tcbTier: 4 }, 'StatusNotAllowed'],
    ['a revoked platform', { tcbTier: 6 }, 'StatusNotAllowed'],
    ['a verdict that has lapsed', { validUntil: 1n }, 'VerdictExpired'],
    ['a verdict that would count as verified on chain', { tee: 0 }, 'UnknownTee'],
    ['an unknown kind', { tee: 4 }, 'UnknownTee'],
  ]
  test.each(bad)('refusal: %s', async (_, change, error) => {
    const verdict = await verdictOf(change)
    await expect(register(verdict, await signed(verdict, [first, second]))).rejects.toThrow(error)
  })

  test('refusal: a verdict from before the kill switch, sent again', async () => {
    const verdict = await verdictOf()
    const signatures = await signed(verdict, [first, second])
    await register(verdict, signatures)
    await it.policyCall('kill', [])
    await expect(register(verdict, signatures)).rejects.toThrow('PolicyEpochPassed')
  })

  test('refusal: anybody but the verifier set hands the registry a verdict', async () => {
    const record = {
      provider: signerOf('provider').address,
      registeredAt: 0,
      validUntil: 2 ** 31,
      workloadIndex: 0,
      tee: 2,
      status: 0,
    }
    await expect(
      it.send('deployer', {
        address: it.contracts.registry,
        abi: runnerRegistryAbi,
        functionName: 'registerVerdict',
        args: [runner.address, record, it.workload, 0, toHex(new Uint8Array(32))],
      }),
    ).rejects.toThrow('NotTheVerifiers')
  })

  test('behavior: a verifier taken out counts no more, and the threshold stays', async () => {
    const verdict = await verdictOf()
    const signatures = await signed(verdict, [first, second])
    await owner('remove', [first.address])
    await expect(register(verdict, signatures)).rejects.toThrow('NotAVerifier')
    await expect(owner('remove', [first.address])).rejects.toThrow('NotAVerifier')
    await register(verdict, await signed(verdict, [second, verifiers[2]!]))
  })

  test('behavior: a new set takes over after the delay, and the old one with it is gone', async () => {
    const next = [signerOf('next verifier').address]
    await owner('propose', [next, 1n])
    await expect(owner('rotate', [next, 1n], 'provider')).rejects.toThrow('RotationTooEarly')
    await it.testClient.increaseTime({ seconds: 2 * 86_400 })
    await it.testClient.mine({ blocks: 1 })
    await expect(owner('rotate', [[runner.address], 1n], 'provider')).rejects.toThrow('NotProposed')
    await owner('rotate', [next, 1n], 'provider')
    const verdict = await verdictOf()
    await expect(register(verdict, await signed(verdict, [first, second]))).rejects.toThrow('NotAVerifier')
    await register(verdict, await signed(verdict, [signerOf('next verifier')]))
    await expect(owner('rotate', [next, 1n])).rejects.toThrow('NotProposed')
  })

  test('behavior: a proposal can be withdrawn', async () => {
    await owner('propose', [[runner.address], 1n])
    await owner('cancel', [])
    await it.testClient.increaseTime({ seconds: 2 * 86_400 })
    await it.testClient.mine({ blocks: 1 })
    await expect(owner('rotate', [[runner.address], 1n])).rejects.toThrow('NotProposed')
    await expect(owner('cancel', [])).rejects.toThrow('NotProposed')
  })

  test.each([
    ['no threshold', [first.address], 0n, 'BadThreshold'],
    ['a threshold above the set', [first.address], 2n, 'BadThreshold'],
    ['the same verifier twice', [first.address, first.address], 1n, 'VerifiersNotAscending'],
    ['nobody as a verifier', [toHex(new Uint8Array(20))], 1n, 'VerifiersNotAscending'],
  ])('refusal: %s', async (_, set, threshold, error) => {
    await expect(owner('propose', [set, threshold])).rejects.toThrow(error)
  })

  test.each(['propose', 'cancel', 'remove'] as const)('refusal: a stranger calls %s', async (name) => {
    const args = { propose: [[first.address], 1n], cancel: [], remove: [first.address] }[name]
    await expect(owner(name, args, 'provider')).rejects.toThrow('OwnableUnauthorizedAccount')
  })
})
