import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { abiSource, buildContracts } from '../../dev/contracts.ts'
import { toHex } from '../../protocol/bytes.ts'
import { flip, openContracts, signerOf, type Twist } from './setup.ts'

type Setup = Awaited<ReturnType<typeof openContracts>>

describe('RunnerRegistry', () => {
  let it: Setup
  let snapshot: `0x${string}`
  beforeAll(async () => {
    it = await openContracts()
    await it.registerPck()
    snapshot = await it.testClient.snapshot()
  })
  beforeEach(async () => {
    await it.testClient.revert({ id: snapshot })
    // A reverted chain has forgotten its newest block hash.
    await it.testClient.mine({ blocks: 2 })
    snapshot = await it.testClient.snapshot()
  })
  afterAll(async () => {
    await it?.chain.stop()
  })
  const runner = signerOf('runner')
  const isActive = () =>
    it.publicClient.readContract({
      address: it.contracts.registry,
      abi: it.artifacts.RunnerRegistry!.abi,
      functionName: 'isActiveNow',
      args: [runner.address],
    })

  test.each([4, 5] as const)('behavior: a version %i quote verified on chain registers its key', async (version) => {
    const receipt = await it.register(runner, { version })
    expect(receipt.status).toBe('success')
    expect(await isActive()).toBe(true)
  })

  test('behavior: a registration ends with its statement', async () => {
    await it.register(runner)
    await it.testClient.increaseTime({ seconds: 3_700 })
    await it.testClient.mine({ blocks: 1 })
    expect(await isActive()).toBe(false)
  })

  test('behavior: revoking the workload, or the kill switch, ends it at once', async () => {
    await it.register(runner)
    await it.policyCall('revoke', [it.workload])
    expect(await isActive()).toBe(false)
    await it.policyCall('approve', [it.workload])
    expect(await isActive()).toBe(true)
    await it.policyCall('kill', [])
    expect(await isActive()).toBe(false)
  })

  test('refusal: nobody but the owner touches the policy', async () => {
    await expect(it.policyCall('revoke', [it.workload], 'provider')).rejects.toThrow('OwnableUnauthorizedAccount')
  })

  test('refusal: a PCK certificate with one bit changed', async () => {
    await expect(it.registerPck([], true)).rejects.toThrow('CertificateNotSigned')
  })

  test('refusal: a PCK certificate that has expired', async () => {
    await expect(it.registerPck(['expired_leaf'])).rejects.toThrow('CertificateExpired')
  })

  const twists: [string, Twist, string][] = [
    ['a bit of the quote', { change: (a) => ({ ...a, signed: flip(a.signed, 300) }) }, 'QuoteNotSigned'],
    ["a bit of the quote's signature", { change: (a) => ({ ...a, quoteR: flip(a.quoteR, 3) }) }, 'QuoteNotSigned'],
    [
      "a bit of the enclave's report",
      { change: (a) => ({ ...a, qeReport: flip(a.qeReport, 70) }) },
      'QeReportNotSigned',
    ],
    [
      'another attestation key',
      { change: (a) => ({ ...a, attestationX: flip(a.attestationX, 3) }) },
      'AttestationKeyUnbound',
    ],
    [
      'changed authentication data',
      { change: (a) => ({ ...a, qeAuthData: flip(a.qeAuthData, 3) }) },
      'AttestationKeyUnbound',
    ],
    ['an enclave that vouches for another key', { faults: ['qe_unbound'] }, 'AttestationKeyUnbound'],
    ['a platform nobody registered', { change: (a) => ({ ...a, pckId: flip(a.pckId, 0) }) }, 'UnknownPlatform'],
    ['debug mode', { faults: ['debug'] }, 'DebugEnabled'],
    ['a migratable domain', { faults: ['migratable'] }, 'AttributesNotAllowed'],
    ['no SEPT_VE_DISABLE', { faults: ['no_sept_ve'] }, 'AttributesNotAllowed'],
    ['a service domain', { faults: ['service_td'], version: 5 }, 'AttributesNotAllowed'],
    [
      'report data that names another signer',
      { change: (a) => ({ ...a, signerX: flip(a.signerX, 5) }) },
      'ReportDataMismatch',
    ],
    ['a changed statement', { change: (a) => ({ ...a, statement: flip(a.statement, 80) }) }, 'ReportDataMismatch'],
    ['a statement for another chain', { statement: { chainId: 1n } }, 'StatementMismatch'],
    ['a statement for another registry', { statement: { registry: toHex(new Uint8Array(20)) } }, 'StatementMismatch'],
    ['a production statement under a development root', { statement: { root: 'vendor' } }, 'ReportDataMismatch'],
    ['an expired statement', { statement: { notAfter: 1n } }, 'StatementExpired'],
    ['a nonce that is no recent block', { statement: { nonce: new Uint8Array(32).fill(1) } }, 'NonceNotRecent'],
    ['a nonce of a block to come', { change: (a) => ({ ...a, nonceBlock: a.nonceBlock + 1_000n }) }, 'NonceNotRecent'],
    ['a registration signed by another key', { signWith: signerOf('stranger') }, 'NotSignedByRunner'],
    [
      'a provider the key did not name',
      { change: (a) => ({ ...a, provider: signerOf('stranger').address }) },
      'NotSignedByRunner',
    ],
    [
      'a quote cut short',
      { change: (a) => ({ ...a, signed: a.signed.slice(0, 1_000) as `0x${string}` }) },
      'QuoteNotSigned',
    ],
  ]
  test.each(twists)('refusal: %s', async (_, twist, error) => {
    await expect(it.register(runner, twist)).rejects.toThrow(error)
  })

  test('refusal: a workload that is not approved', async () => {
    await it.policyCall('revoke', [it.workload])
    await expect(it.register(runner)).rejects.toThrow('WorkloadNotApproved')
  })

  test('refusal: a denied platform', async () => {
    const { pckId } = await it.attestation(runner)
    await it.policyCall('denyPlatform', [pckId])
    await expect(it.register(runner)).rejects.toThrow('PlatformDenied')
  })

  test('refusal: another provider takes over a registered key', async () => {
    await it.register(runner)
    await expect(it.register(runner, { provider: signerOf('other provider').address })).rejects.toThrow(
      'ProviderMismatch',
    )
  })

  test('behavior: the committed ABIs are those of the sources', () => {
    expect(readFileSync(join(import.meta.dirname, '../../contracts/abi.ts'), 'utf8')).toBe(abiSource(buildContracts()))
  })
})

describe('a chain that is not local', () => {
  test('refusal: no development root and no test token', async () => {
    await expect(openContracts(10)).rejects.toThrow()
    const { startChain } = await import('../../dev/chain.ts')
    const chain = await startChain({ chainId: 10 })
    try {
      const artifacts = buildContracts()
      const zero = toHex(new Uint8Array(32))
      const address = toHex(new Uint8Array(20).fill(1))
      const deploy = async (name: string, args: unknown[]) => {
        const { encodeDeployData } = await import('viem')
        const { abi, bytecode } = artifacts[name]!
        return chain.publicClient.call({ data: encodeDeployData({ abi, bytecode, args }) })
      }
      await expect(deploy('RunnerRegistry', [address, address, true, zero, zero, zero])).rejects.toThrow()
      await expect(deploy('TestToken', [])).rejects.toThrow()
      // The same call without the development flag deploys, so it is the flag that was refused.
      await expect(deploy('RunnerRegistry', [address, address, false, zero, zero, zero])).resolves.toBeDefined()
    } finally {
      await chain.stop()
    }
  })
})
