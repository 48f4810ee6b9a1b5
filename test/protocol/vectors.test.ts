import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AEAD_AES_256_GCM, CipherSuite, KDF_HKDF_SHA256, KEM_DHKEM_X25519_HKDF_SHA256 } from 'hpke'
import { hashTypedData } from 'viem'
import { describe, expect, test } from 'vitest'
import { makeVectors, vectorText } from '../../dev/vectors.ts'
import { concat, fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { generateHpkeKeyPair, setupRecipient, setupSender } from '../../protocol/hpke.ts'
import { merkleTree, rootFromProof } from '../../protocol/merkle.ts'
import { channelOf } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'

const folder = join(import.meta.dirname, '../../protocol/vectors')

describe('vectors', () => {
  test.each(Object.entries(makeVectors()))('behavior: %s.json is what the code makes today', (name, vector) => {
    expect(readFileSync(join(folder, `${name}.json`), 'utf8')).toBe(vectorText(vector))
  })

  test('behavior: channel and voucher digests are those an independent EIP-712 implementation computes', () => {
    const escrow = toHex(sha256(new Uint8Array([1]))).slice(0, 42) as Hex
    const address = toHex(sha256(new Uint8Array([2]))).slice(0, 42) as Hex
    const word = toHex(sha256(new Uint8Array([3])))
    const domain = { name: 'Assay', version: '1', chainId: 10, verifyingContract: escrow }
    const field = (name: string, type: string) => ({ name, type })
    const terms = {
      buyer: address,
      runner: address,
      model: word,
      publisher: address,
      price: 7n,
      royaltyBps: 8,
      feeBps: 9,
      expiresAt: 10n,
      salt: word,
    }
    const channel = hashTypedData({
      domain,
      primaryType: 'Terms',
      types: {
        Terms: [
          field('buyer', 'address'),
          field('runner', 'address'),
          field('model', 'bytes32'),
          field('publisher', 'address'),
          field('price', 'uint128'),
          field('royaltyBps', 'uint16'),
          field('feeBps', 'uint16'),
          field('expiresAt', 'uint64'),
          field('salt', 'bytes32'),
        ],
      },
      message: terms,
    })
    expect(channelOf({ chainId: 10, escrow }, terms)).toBe(channel)
    const voucher = hashTypedData({
      domain,
      primaryType: 'Voucher',
      types: { Voucher: [field('channel', 'bytes32'), field('cumulative', 'uint128')] },
      message: { channel, cumulative: 2n ** 127n },
    })
    expect(toHex(voucherDigest({ chainId: 10, escrow }, { channel, cumulative: 2n ** 127n }))).toBe(voucher)
  })

  test("behavior: the tree is RFC 9162's, by its recursive definition", () => {
    const define = (leaves: Uint8Array[]): Uint8Array => {
      if (leaves.length === 1) return leaves[0]!
      let split = 1
      while (split * 2 < leaves.length) split *= 2
      return sha256(concat(new Uint8Array([1]), define(leaves.slice(0, split)), define(leaves.slice(split))))
    }
    for (let size = 1; size <= 70; size++) {
      const leaves = Array.from({ length: size }, (_, index) => sha256(new Uint8Array([index, size])))
      const { root, proofs } = merkleTree(leaves)
      expect(toHex(root)).toBe(toHex(define(leaves)))
      proofs.forEach((proof, index) => {
        expect(toHex(rootFromProof(leaves[index]!, proof)!)).toBe(toHex(root))
        for (const wrong of [
          { ...proof, path: [...proof.path, root] },
          { ...proof, path: proof.path.slice(1) },
          { ...proof, index: size },
        ]) {
          if (size === 1 && wrong.path.length === 0 && wrong.index === 0) continue
          const led = rootFromProof(leaves[index]!, wrong)
          expect(led === null || toHex(led) !== toHex(root)).toBe(true)
        }
      })
    }
  })

  test('behavior: the sealing keys are those an independent HPKE implementation exports, both ways', async () => {
    const suite = new CipherSuite(KEM_DHKEM_X25519_HKDF_SHA256, KDF_HKDF_SHA256, AEAD_AES_256_GCM)
    const info = fromHex('0x41535931')
    const ours = await generateHpkeKeyPair()
    const theirs = await suite.DeserializePublicKey(ours.rawPublicKey)
    const sender = await suite.SetupSender(theirs, { info })
    const recipient = await setupRecipient(ours, sender.encapsulatedSecret, info)
    expect(toHex(await recipient.export('request', 32))).toBe(
      toHex(await sender.ctx.Export(new TextEncoder().encode('request'), 32)),
    )

    const pair = await suite.GenerateKeyPair(true)
    const { enc, context } = await setupSender(await suite.SerializePublicKey(pair.publicKey), info)
    const opened = await suite.SetupRecipient(pair, enc, { info })
    expect(toHex(await context.export('answer', 32))).toBe(
      toHex(await opened.Export(new TextEncoder().encode('answer'), 32)),
    )
  })

  test('refusal: a low-order point as a sealing key', async () => {
    await expect(setupSender(new Uint8Array(32), new Uint8Array(4))).rejects.toThrow()
  })
})
