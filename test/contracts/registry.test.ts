import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { runnerRegistryAbi } from '../../contracts/abi.ts'
import { abiSource, buildContracts } from '../../dev/contracts.ts'
import { platformIdOf } from '../../gpu-runner/registrar.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import { type Attestation, flip, openContracts, signerOf, type Twist } from './setup.ts'

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
      abi: runnerRegistryAbi,
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

  test('behavior: a renewal keeps the beginning and moves the end; an earlier attestation sent again moves neither', async () => {
    const at = { address: it.contracts.registry, abi: runnerRegistryAbi } as const
    const stored = () => it.publicClient.readContract({ ...at, functionName: 'runners', args: [runner.address] })
    const notAfter = (await it.now()) + 3_600n
    const early = await it.attestation(runner, { statement: { notAfter } })
    const send = ({ quote, claim }: Attestation) =>
      it.send('provider', { ...at, functionName: 'register', args: [quote, claim] })
    await send(early)
    const [, since, until] = await stored()
    expect(BigInt(until)).toBe(notAfter)
    await it.testClient.increaseTime({ seconds: 60 })
    await it.register(runner, { statement: { notAfter: notAfter + 3_600n } })
    const renewed = await stored()
    expect([renewed[1], BigInt(renewed[2])]).toEqual([since, notAfter + 3_600n])
    await send(early)
    expect(await stored()).toEqual(renewed)
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

  const quoted =
    (change: (quote: Attestation['quote']) => Partial<Attestation['quote']>) =>
    (a: Attestation): Attestation => ({ ...a, quote: { ...a.quote, ...change(a.quote) } })
  const claimed =
    (change: (claim: Attestation['claim']) => Partial<Attestation['claim']>) =>
    (a: Attestation): Attestation => ({ ...a, claim: { ...a.claim, ...change(a.claim) } })
  const twists: [string, Twist, string][] = [
    ['a bit of the quote', { change: quoted(({ signed }) => ({ signed: flip(signed, 300) })) }, 'QuoteNotSigned'],
    ["a bit of the quote's signature", { change: quoted(({ r }) => ({ r: flip(r, 3) })) }, 'QuoteNotSigned'],
    [
      "a bit of the enclave's report",
      { change: quoted(({ qeReport }) => ({ qeReport: flip(qeReport, 70) })) },
      'QeReportNotSigned',
    ],
    [
      'another attestation key',
      { change: quoted(({ attestationX }) => ({ attestationX: flip(attestationX, 3) })) },
      'AttestationKeyUnbound',
    ],
    [
      'changed authentication data',
      { change: quoted(({ qeAuthData }) => ({ qeAuthData: flip(qeAuthData, 3) })) },
      'AttestationKeyUnbound',
    ],
    ['an enclave that vouches for another key', { faults: ['qe_unbound'] }, 'AttestationKeyUnbound'],
    [
      'a platform nobody registered',
      { change: quoted(({ platform }) => ({ platform: { ...platform, x: flip(platform.x, 0) } })) },
      'UnknownPlatform',
    ],
    ['debug mode', { faults: ['debug'] }, 'DebugEnabled'],
    ['a migratable domain', { faults: ['migratable'] }, 'AttributesNotAllowed'],
    ['no SEPT_VE_DISABLE', { faults: ['no_sept_ve'] }, 'AttributesNotAllowed'],
    ['a service domain', { faults: ['service_td'], version: 5 }, 'AttributesNotAllowed'],
    [
      'report data that names another signer',
      { change: claimed(({ signerY }) => ({ signerY: flip(signerY, 5) })) },
      'ReportDataMismatch',
    ],
    [
      'a changed statement',
      { change: claimed(({ hpkeKey }) => ({ hpkeKey: flip(hpkeKey, 8) })) },
      'ReportDataMismatch',
    ],
    ['a statement for another chain', { statement: { chainId: 1n } }, 'ReportDataMismatch'],
    ['a statement for another registry', { statement: { registry: toHex(new Uint8Array(20)) } }, 'ReportDataMismatch'],
    ['a production statement under a development root', { statement: { root: 'vendor' } }, 'ReportDataMismatch'],
    ['an expired statement', { statement: { notAfter: 1n } }, 'StatementExpired'],
    ['a nonce that is no recent block', { statement: { nonce: new Uint8Array(32).fill(1) } }, 'ReportDataMismatch'],
    [
      'a nonce of a block to come',
      { change: claimed(({ nonceBlock }) => ({ nonceBlock: nonceBlock + 1_000n })) },
      'NonceNotRecent',
    ],
    ['a registration signed by another key', { signWith: signerOf('stranger') }, 'NotSignedByRunner'],
    [
      'a provider the key did not name',
      { change: claimed(() => ({ provider: signerOf('stranger').address })) },
      'NotSignedByRunner',
    ],
    [
      'a quote cut short',
      { change: quoted(({ signed }) => ({ signed: signed.slice(0, 1_000) as Hex })) },
      'MalformedQuote',
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
    const { quote } = await it.attestation(runner)
    await it.policyCall('denyPlatform', [platformIdOf(quote.platform)])
    await expect(it.register(runner)).rejects.toThrow('PlatformIsDenied')
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
      await expect(deploy('RunnerRegistry', [address, address, address, true, zero, zero, zero])).rejects.toThrow()
      await expect(deploy('TestToken', [])).rejects.toThrow()
      // The same call without the development flag deploys, so it is the flag that was refused.
      await expect(
        deploy('RunnerRegistry', [address, address, address, false, zero, zero, zero]),
      ).resolves.toBeDefined()
    } finally {
      await chain.stop()
    }
  })
})
