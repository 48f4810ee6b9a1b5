import { decodeFunctionData, encodeFunctionData } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { runnerRegistryAbi } from '../../contracts/abi.ts'
import { pack } from '../../gpu-runner/packedText.ts'
import {
  collateralCall,
  crlCall,
  issuerCall,
  issuerIdOf,
  pckCall,
  platformIdOf,
  platformKeyOf,
  postRevocations,
  postWhatIsMissing,
} from '../../gpu-runner/registrar.ts'
import { createDevelopmentTee, type TeeFault } from '../../gpu-runner/tee/development.ts'
import { type Hex, toHex } from '../../protocol/bytes.ts'
import { crlEntries } from '../../protocol/evidence/crlEntries.ts'
import type { CollateralOf } from '../../protocol/evidence/index.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { parseCertificate, parseCrl, parsePem } from '../../protocol/evidence/x509.ts'
import { openRecorded } from './recorded.ts'

const start = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const reportData = new Uint8Array(64).fill(3)
const hour = 3_600
const day = 24 * hour

/** A development TEE's evidence and collateral as of a moment. */
function at(now: number, faults: readonly TeeFault[] = []) {
  const tee = createDevelopmentTee({ seed, now: () => now, faults })
  const quote = tee.quote(reportData)
  const [pck, platformCa, root] = parseTdxQuote(quote).chain.map((der) => parseCertificate(der))
  const collateral = tee.collateral() as CollateralOf<'tdx'>
  const signer = parseCertificate(parsePem(collateral.tcbInfoChain)[0]!)
  return { quote, pck: pck!, platformCa: platformCa!, root: root!, signer, collateral, rootDer: tee.rootDer }
}

describe('what is posted on chain', () => {
  let it: Awaited<ReturnType<typeof openRecorded>>
  let snapshot: Hex
  const now = at(start)
  beforeAll(async () => {
    it = await openRecorded({ now: start, rootDer: now.rootDer, reportData: toHex(reportData) })
    await it.approve(tdxWorkload(parseTdxQuote(now.quote).body))
    await it.post(now.quote, now.collateral)
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
  const pass = async (seconds: number) => {
    await it.testClient.increaseTime({ seconds })
    await it.testClient.mine({ blocks: 2 })
  }
  const platform = platformIdOf(platformKeyOf(now.pck, now.platformCa))
  const strike = () =>
    it.call(
      encodeFunctionData({
        abi: runnerRegistryAbi,
        functionName: 'strike',
        args: [platformKeyOf(now.pck, now.platformCa)],
      }),
    )
  const call = (functionName: 'postTcbInfo' | 'postQeIdentity', of: CollateralOf<'tdx'>) =>
    it.call(collateralCall(functionName, of))
  const revokingList = () => crlCall(at(start, ['revoked_leaf']).collateral.pckCrl, now.platformCa, 'all')

  test('behavior: sound evidence registers, until the earliest expiry of what it rests on', async () => {
    const { validUntil } = await it.appraise(now.quote)
    // Collateral is dated to the hour and the policy takes it for 14 days.
    expect(validUntil).toBe(start + 14 * day)
    await it.register(now.quote)
  })

  test('behavior: anyone revokes a registered platform with a signed list, and it registers no more', async () => {
    await expect(strike()).rejects.toThrow('NotRevoked')
    await it.register(now.quote)
    await it.call(revokingList())
    await strike()
    await expect(it.register(now.quote)).rejects.toThrow('PlatformIsRevoked')
    await expect(it.appraise(now.quote)).rejects.toThrow('PlatformIsRevoked')
    // Registering its certificate anew does not lift it.
    await expect(it.call(pckCall(now.pck, now.platformCa))).rejects.toThrow('CertificateIsRevoked')
  })

  test('behavior: whoever posts a list finds the registered platforms on it and strikes them', async () => {
    await it.register(now.quote)
    const posting = {
      publicClient: it.publicClient,
      registry: it.registry,
      send: async (data: Hex) => {
        const { transactionHash, gasUsed } = await it.call(data)
        return { hash: transactionHash, gasUsed }
      },
      issuer: now.platformCa,
    }
    expect(await postRevocations({ ...posting, crl: now.collateral.pckCrl })).toBe(0)
    await it.register(now.quote)
    expect(await postRevocations({ ...posting, crl: at(start, ['revoked_leaf']).collateral.pckCrl })).toBe(1)
    await expect(it.register(now.quote)).rejects.toThrow('PlatformIsRevoked')
  })

  test('behavior: a later list that no longer names a certificate does not bring it back', async () => {
    await it.call(revokingList())
    await pass(2 * hour)
    await it.call(crlCall(at(start + 2 * hour).collateral.pckCrl, now.platformCa, 'all'))
    await expect(it.call(pckCall(now.pck, now.platformCa))).rejects.toThrow('CertificateIsRevoked')
  })

  test('refusal: a list older than the one posted', async () => {
    await pass(2 * hour)
    await it.call(crlCall(at(start + 2 * hour).collateral.pckCrl, now.platformCa, 'all'))
    await expect(it.call(crlCall(now.collateral.pckCrl, now.platformCa, 'all'))).rejects.toThrow('CrlOlderThanPosted')
  })

  test('refusal: a list that has lapsed, and one before its day', async () => {
    for (const when of [start - 40 * day, start + day]) {
      const { pckCrl } = at(when).collateral
      await expect(it.call(crlCall(pckCrl, now.platformCa, 'all'))).rejects.toThrow('CrlNotCurrent')
    }
  })

  test('refusal: an offset at which no entry begins', async () => {
    const { pckCrl } = at(start, ['revoked_leaf']).collateral
    const [entry] = crlEntries(pckCrl)
    const { tbs, signature } = parseCrl(pckCrl)
    const half = (bytes: Uint8Array, index: number) => toHex(bytes.slice(index * 32, index * 32 + 32))
    for (const offset of [0, entry!.offset - 1, entry!.offset + 1, entry!.offset + 2, tbs.length, 100_000]) {
      const key = now.platformCa.publicKey.slice(1)
      const args = [
        toHex(pack(tbs)),
        half(signature, 0),
        half(signature, 1),
        half(key, 0),
        half(key, 1),
        [BigInt(offset)],
      ] as const
      await expect(
        it.call(encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'postCrl', args })),
        `offset ${offset}`,
      ).rejects.toThrow('NotInCrl')
    }
  })

  test('refusal: a list of one issuer under the key of another', async () => {
    await expect(it.call(crlCall(now.collateral.pckCrl, now.root, 'all'))).rejects.toThrow('CrlNotSigned')
    const own = { ...now.signer }
    await expect(it.call(crlCall(now.collateral.pckCrl, own, 'all'))).rejects.toThrow('CrlNotSigned')
  })

  test('behavior: with the list lapsed nothing registers until somebody posts a fresh one', async () => {
    await it.setTcbRules(3, 17, 60 * 24)
    await pass(31 * day)
    await expect(it.register(now.quote)).rejects.toThrow('CrlNotCurrent')
    const later = at(start + 31 * day)
    await it.call(crlCall(later.collateral.pckCrl, now.platformCa, 'all'))
    await expect(it.register(now.quote)).rejects.toThrow('CollateralNotCurrent')
    await call('postTcbInfo', later.collateral)
    await call('postQeIdentity', later.collateral)
    await it.register(now.quote)
  })

  test('refusal: no list posted where the policy asks for one; none needed where it does not', async () => {
    const bare = await openRecorded({ now: start, rootDer: now.rootDer, reportData: toHex(reportData) })
    try {
      await bare.approve(tdxWorkload(parseTdxQuote(now.quote).body))
      await bare.call(issuerCall(now.platformCa))
      await bare.call(issuerCall(now.signer))
      await expect(bare.register(now.quote)).rejects.toThrow('UnknownPlatform')
      await bare.call(pckCall(now.pck, now.platformCa))
      await expect(bare.register(now.quote)).rejects.toThrow('CrlMissing')
      await bare.call(crlCall(now.collateral.pckCrl, now.platformCa, 'all'))
      await expect(bare.register(now.quote)).rejects.toThrow('CollateralMissing')
      await bare.call(collateralCall('postQeIdentity', now.collateral))
      await expect(bare.register(now.quote)).rejects.toThrow('CollateralMissing')
      await bare.call(collateralCall('postTcbInfo', now.collateral))
      await bare.register(now.quote)
    } finally {
      await bare.chain.stop()
    }
  })

  test.each(['postTcbInfo', 'postQeIdentity'] as const)('refusal: %s with what is older than posted', async (name) => {
    await pass(2 * hour)
    await call(name, at(start + 2 * hour).collateral)
    await expect(call(name, now.collateral)).rejects.toThrow('CollateralOlderThanPosted')
    // The same again is no step back.
    await call(name, at(start + 2 * hour).collateral)
  })

  test.each(['postTcbInfo', 'postQeIdentity'] as const)('refusal: %s before its day', async (name) => {
    await expect(call(name, at(start + day).collateral)).rejects.toThrow('CollateralNotCurrent')
  })

  test('refusal: collateral older than the policy takes, and evaluations below its floor', async () => {
    await it.setTcbRules(3, 19, 14 * 24)
    await expect(it.register(now.quote)).rejects.toThrow('CollateralTooOld')
    await it.setTcbRules(3, 18, 14 * 24)
    await it.register(now.quote)
    await pass(15 * day)
    await expect(it.register(now.quote)).rejects.toThrow('CollateralTooOld')
  })

  test('behavior: levels that have not changed are not stored again; levels that have are', async () => {
    const tableOf = async () =>
      (
        await it.publicClient.readContract({
          address: it.registry,
          abi: runnerRegistryAbi,
          functionName: 'tcbInfos',
          args: ['0x00a55a7000000000'],
        })
      )[0]
    const before = await tableOf()
    await pass(2 * hour)
    await call('postTcbInfo', at(start + 2 * hour).collateral)
    expect(await tableOf()).toBe(before)
    await call('postTcbInfo', at(start + 2 * hour, ['tcb_out_of_date']).collateral)
    expect(await tableOf()).not.toBe(before)
    await expect(it.register(now.quote)).rejects.toThrow('StatusNotAllowed')
  })

  test('behavior: a revoked CA vouches for nothing more', async () => {
    const lists = at(start, ['revoked_intermediate']).collateral
    await it.call(crlCall(lists.rootCaCrl, now.root, 'all'))
    await expect(it.register(now.quote)).rejects.toThrow('IssuerRevoked')
    await expect(it.call(pckCall(now.pck, now.platformCa))).rejects.toThrow('IssuerRevoked')
    await expect(it.call(issuerCall(now.platformCa))).rejects.toThrow('CertificateIsRevoked')
  })

  test('behavior: what a revoked signer has signed counts no more, whoever posted it', async () => {
    const { rootCaCrl } = at(start, ['revoked_tcb_signer']).collateral
    await it.register(now.quote)
    await it.call(crlCall(rootCaCrl, now.root, 'all'))
    await expect(it.register(now.quote)).rejects.toThrow('CollateralMissing')
    await expect(call('postTcbInfo', now.collateral)).rejects.toThrow('IssuerRevoked')
    await expect(it.call(issuerCall(now.signer))).rejects.toThrow('CertificateIsRevoked')
  })

  test('refusal: a platform CA as a signer of collateral, a signer as a platform CA, a leaf as either', async () => {
    const { tcbInfo, tcbInfoSignature } = now.collateral
    const chainOf = (der: Uint8Array) =>
      `-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString('base64')}\n-----END CERTIFICATE-----\n`
    await expect(
      call('postTcbInfo', { ...now.collateral, tcbInfo, tcbInfoSignature, tcbInfoChain: chainOf(now.platformCa.der) }),
    ).rejects.toThrow('CertificateRole')
    await expect(call('postTcbInfo', { ...now.collateral, tcbInfoChain: chainOf(now.pck.der) })).rejects.toThrow(
      'IssuerUnknown',
    )
    await expect(it.call(pckCall(now.pck, now.signer))).rejects.toThrow('CertificateNotSigned')
    await expect(it.call(issuerCall(now.pck))).rejects.toThrow('CertificateNotSigned')
    // The root vouches for intermediates, not for machines or collateral.
    await expect(it.call(pckCall(now.platformCa, now.root))).rejects.toThrow('CertificateRole')
  })

  test('behavior: the kill switch ends a registration and the nonces drawn before it', async () => {
    const receipt = await it.register(now.quote)
    const kill = await it.call(encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'kill' }))
    expect(kill.blockNumber).toBeGreaterThan(receipt.blockNumber)
    // The nonce of a registration made at once is of a block before the switch.
    await expect(it.register(now.quote)).rejects.toThrow('NonceNotRecent')
    await it.testClient.mine({ blocks: 2 })
    await it.register(now.quote)
    const epoch = await it.publicClient.readContract({
      address: it.registry,
      abi: runnerRegistryAbi,
      functionName: 'policyEpoch',
    })
    expect(epoch).toBe(1)
  })

  test('behavior: a runner posts what is missing, once, and again what is about to lapse', async () => {
    const bare = await openRecorded({ now: start, rootDer: now.rootDer, reportData: toHex(reportData) })
    try {
      await bare.approve(tdxWorkload(parseTdxQuote(now.quote).body))
      const post = async (at_: number) => {
        const sent: string[] = []
        const { quote, collateral } = at(at_)
        await postWhatIsMissing({
          publicClient: bare.publicClient,
          registry: bare.registry,
          send: async (data) => {
            sent.push(decodeFunctionData({ abi: runnerRegistryAbi, data }).functionName)
            const { transactionHash, gasUsed } = await bare.call(data)
            return { hash: transactionHash, gasUsed }
          },
          quote,
          collateral,
          now: at_,
        })
        return sent
      }
      expect(await post(start)).toEqual([
        'addIssuer',
        'addIssuer',
        'postCrl',
        'postCrl',
        'registerPck',
        'postTcbInfo',
        'postQeIdentity',
      ])
      await bare.register(now.quote)
      expect(await post(start)).toEqual([])
      await bare.testClient.increaseTime({ seconds: 13 * day })
      await bare.testClient.mine({ blocks: 2 })
      expect(await post(start + 13 * day)).toEqual(['postTcbInfo', 'postQeIdentity'])
      await bare.register(now.quote)
    } finally {
      await bare.chain.stop()
    }
  })

  test('refusal: a policy that allows revoked platforms', async () => {
    await expect(it.setTcbRules(1 << 6, 0, 1)).rejects.toThrow('StatusNeverAllowed')
  })

  test('behavior: ids are those the registry computes', async () => {
    const read = <T>(functionName: 'platformId' | 'platforms', args: readonly unknown[]) =>
      it.publicClient.readContract({
        address: it.registry,
        abi: runnerRegistryAbi,
        functionName,
        args,
      } as never) as Promise<T>
    expect(await read('platformId', [platformKeyOf(now.pck, now.platformCa)])).toBe(platform)
    const [components, pceSvn, pceId, fmspc, notAfter, barred] = await read<readonly unknown[]>('platforms', [platform])
    expect([components, pceSvn, pceId, fmspc, notAfter, barred]).toEqual([
      '0x05050505050505050000000000000000',
      13,
      '0x0000',
      '0x00a55a700000',
      now.pck.notAfter,
      0,
    ])
    const [role] = await it.publicClient.readContract({
      address: it.registry,
      abi: runnerRegistryAbi,
      functionName: 'issuers',
      args: [issuerIdOf(now.platformCa)],
    })
    expect(role).toBe(2)
  })
})
