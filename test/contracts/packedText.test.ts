import fc from 'fast-check'
import { type Address, encodeFunctionData, parseAbi } from 'viem'
import { anvil } from 'viem/chains'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Chain, startChain } from '../../dev/chain.ts'
import { developmentKey } from '../../dev/keys.ts'
import { walletOf } from '../../dev/marketplace.ts'
import { pack, packingWords, packText } from '../../gpu-runner/packedText.ts'
import { createDevelopmentTee } from '../../gpu-runner/tee/development.ts'
import { fromUtf8, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import type { CollateralOf } from '../../protocol/evidence/index.ts'
import { parseCrl } from '../../protocol/evidence/x509.ts'
import { realQuotes } from '../fixtures/quotes.ts'
import { testContracts } from './compiled.ts'

const abi = parseAbi(['function unpack(bytes packed) view returns (bytes)', 'error PackedTextMalformed()'])
const words = fromUtf8(packingWords)
const real = [...new Set(realQuotes().flatMap(({ collateral }) => [collateral.tcbInfo, collateral.qeIdentity]))]
if (real.length === 0) console.warn('The recorded quotes are not beside this checkout: their texts were not packed.')
const development = createDevelopmentTee({ seed: new Uint8Array(32).fill(9), now: () => 1_795_219_200 })
const { tcbInfo, qeIdentity } = development.collateral() as CollateralOf<'tdx'>

/** Prices a call's bytes, in gas (EIP-2028). */
const callGas = (bytes: Uint8Array) => bytes.reduce((sum, byte) => sum + (byte === 0 ? 4 : 16), 0)

const piece = fc.oneof(
  fc.nat(words.length).chain((from) => fc.nat(1_500).map((size) => words.slice(from, from + size))),
  fc.string({ maxLength: 80 }),
  fc.string({ unit: 'binary', maxLength: 10 }),
  fc.tuple(fc.constantFrom('0', 'ab', '{"svn":0},'), fc.nat(200)).map(([unit, times]) => unit.repeat(times)),
)
const text = fc.array(piece, { maxLength: 5 }).map((pieces) => pieces.join(''))

describe('packed texts', () => {
  let chain: Chain
  let address: Address
  beforeAll(async () => {
    chain = await startChain()
    const wallet = walletOf(developmentKey('deployer'), chain.rpcUrl)
    await chain.testClient.setBalance({ address: wallet.account.address, value: 10n ** 20n })
    const data = testContracts().PackedTexts!.bytecode
    const hash = await wallet.sendTransaction({ account: wallet.account, chain: anvil, data })
    address = (await chain.publicClient.waitForTransactionReceipt({ hash })).contractAddress!
  })
  afterAll(async () => {
    await chain?.stop()
  })

  const unpacked = (packed: Uint8Array): Promise<Hex> =>
    chain.publicClient.readContract({ address, abi, functionName: 'unpack', args: [toHex(packed)] })

  test('property: the chain unpacks what was packed, byte by byte', async () => {
    await fc.assert(
      fc.asyncProperty(text, async (given) => {
        expect(await unpacked(packText(given))).toBe(toHex(utf8(given)))
      }),
      { numRuns: 80, seed: 20_261_121 },
    )
  })

  test('behavior: the words that stand before texts are the same on both sides', async () => {
    expect(await unpacked(packText(words))).toBe(toHex(packingWords))
    // Two steps have room for all of them, and take no byte from the call.
    expect(packText(words)).toHaveLength(8)
  })

  test.each([
    ['nothing', '', 0],
    ['one byte', '{', 5],
    ['more bytes in a row than a step takes', '!#$%&()*+-./;<=>?@GHIJKLMNOPQVWX[]^_`abcdef', 51],
  ])('behavior: %s', async (_, given, size) => {
    expect(await unpacked(packText(given))).toBe(toHex(utf8(given)))
    expect(packText(given)).toHaveLength(size)
  })

  test('behavior: the texts of the development platform', async () => {
    for (const given of [tcbInfo, qeIdentity]) expect(await unpacked(packText(given))).toBe(toHex(utf8(given)))
  })

  test.skipIf(real.length === 0)(
    'behavior: real texts, each for less than a tenth of its bytes in a call',
    async () => {
      for (const given of real) {
        const packed = packText(given)
        expect(await unpacked(packed)).toBe(toHex(utf8(given)))
        if (given.startsWith('{"id":"TDX"')) expect(callGas(packed)).toBeLessThan(callGas(utf8(given)) / 10)
      }
    },
  )

  test.skipIf(real.length === 0)(
    'behavior: real revocation lists, long ones in six tenths of their bytes',
    async () => {
      for (const { tbs } of realQuotes().map(({ collateral }) => parseCrl(collateral.pckCrl))) {
        const packed = pack(tbs)
        expect(await unpacked(packed)).toBe(toHex(tbs))
        // A list that names hardly anyone has little to repeat.
        if (tbs.length > 1_000) expect(packed.length).toBeLessThan(tbs.length * 0.6)
      }
    },
  )

  test('behavior: no text costs much more packed than as it stands', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 3_000 }), (given) => {
        // Four bytes go before every 31 that nothing repeats.
        const bytes = utf8(given).length
        expect(packText(given).length).toBeLessThanOrEqual(bytes + 4 * Math.ceil(bytes / 31))
      }),
      { numRuns: 100, seed: 20_261_121 },
    )
  })

  test('property: packed bytes that were tampered with are refused, or stand for a text at a price their length bounds', async () => {
    const sound = packText(tcbInfo)
    const seen = new Set<string>()
    const tampered = fc.oneof(
      fc.tuple(fc.nat(sound.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, flip]) => {
        const bytes = sound.slice()
        bytes[at]! ^= flip
        return bytes
      }),
      fc.nat(sound.length - 1).map((size) => sound.slice(0, size)),
      fc.uint8Array({ maxLength: 200 }),
    )
    await fc.assert(
      fc.asyncProperty(tampered, async (bytes) => {
        const data = encodeFunctionData({ abi, functionName: 'unpack', args: [toHex(bytes)] })
        const outcome = await unpacked(bytes).catch((error: Error) => {
          expect(error.message).toContain('PackedTextMalformed')
          return null
        })
        seen.add(outcome === null ? 'refused' : 'unpacked')
        if (outcome === null) return
        expect((outcome.length - 2) / 2).toBeLessThanOrEqual((bytes.length / 4) * (31 + 2_047))
        const gas = await chain.publicClient.estimateGas({ account: address, to: address, data })
        expect(Number(gas)).toBeLessThan(60_000 + 2_000 * bytes.length)
      }),
      { numRuns: 200, seed: 20_261_121 },
    )
    expect(seen.size).toBe(2)
  })
})
