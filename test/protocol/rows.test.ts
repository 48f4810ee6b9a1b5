import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { utf8 } from '../../protocol/bytes.ts'
import { sha256, sha256Rows } from '../../protocol/hash.ts'
import { merkleTree, node, rootFromProof } from '../../protocol/merkle.ts'
import {
  type Detail,
  detailDigest,
  detailDigests,
  type Receipt,
  receiptLeaf,
  receiptLeaves,
} from '../../protocol/receipt.ts'
import { hashRows } from '../../protocol/sha256Lanes.ts'
import { type Tensor, tensorCommitment, tensorCommitments } from '../../protocol/tensors.ts'

/** What is hashed as rows must be what is hashed one by one. */

const digest = (text: string) => sha256(utf8(text))
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const u128 = fc.bigInt({ min: 0n, max: 2n ** 128n - 1n })
const bytes32 = fc.uint8Array({ minLength: 32, maxLength: 32 })
const anyDetail: fc.Arbitrary<Detail> = fc.record({ input: bytes32, output: bytes32, execution: bytes32, price: u128 })
const anyReceipt: fc.Arbitrary<Receipt> = fc.record({
  channel: bytes32,
  job: u64,
  status: fc.integer({ min: 0, max: 255 }),
  cumulative: u128,
  finishedAt: u64,
  detail: bytes32,
})

/** Builds the tree as RFC 9162 §2.1.1 words it: split at the largest power of two smaller than the number of leaves. */
function rootOf(leaves: readonly Uint8Array[]): Uint8Array {
  if (leaves.length === 1) return leaves[0]!
  const half = 2 ** Math.floor(Math.log2(leaves.length - 1))
  return node(rootOf(leaves.slice(0, half)), rootOf(leaves.slice(half)))
}

describe.each([
  ['four at a time', hashRows],
  ['one by one', sha256Rows],
])('rows hashed %s', (_, rows) => {
  test('property: details and receipts have the digests they have alone', () => {
    fc.assert(
      fc.property(
        fc.array(anyDetail, { maxLength: 40 }),
        fc.array(anyReceipt, { maxLength: 40 }),
        (details, receipts) => {
          expect(detailDigests(details, rows)).toEqual(details.map(detailDigest))
          expect(receiptLeaves(receipts, rows)).toEqual(receipts.map(receiptLeaf))
        },
      ),
      { numRuns: 60 },
    )
  })

  test('property: a tree is that of the standard, and each of its proofs leads to its root', () => {
    for (let count = 1; count <= 70; count++) {
      const leaves = Array.from({ length: count }, (_, at) => digest(`leaf ${at} of ${count}`))
      const { root, proofs } = merkleTree(leaves, rows)
      expect(root).toEqual(rootOf(leaves))
      for (const [at, proof] of proofs.entries()) expect(rootFromProof(leaves[at]!, proof)).toEqual(root)
    }
  })

  test('attack: a leaf of another length or no leaf is refused', () => {
    expect(() => merkleTree([], rows)).toThrow(RangeError)
    for (const length of [0, 31, 33, 65])
      expect(() => merkleTree([digest('a'), new Uint8Array(length)], rows)).toThrow(RangeError)
  })

  const floats = (name: string, shape: number[], seed: number): Tensor => {
    const count = shape.reduce((product, each) => product * each, 1)
    return {
      name,
      datatype: 'FP32',
      shape,
      data: new Uint8Array(Float32Array.from({ length: count }, (_, at) => at * seed).buffer),
    }
  }
  const salts = (count: number) => Array.from({ length: count }, (_, at) => digest(`salt ${at}`))

  test('behavior: sets of tensors of one form have the commitments they have alone', () => {
    for (const count of [0, 1, 2, 5, 64]) {
      const sets = Array.from({ length: count }, (_, at) => [floats('y', [1, 10], at + 1), floats('a', [3], at + 2)])
      const alone = sets.map((tensors, at) => tensorCommitment(salts(count)[at]!, tensors))
      // Twice: once to meet the form, once knowing it.
      for (let round = 0; round < 2; round++) expect(tensorCommitments(salts(count), sets, rows)).toEqual(alone)
    }
  })

  test('behavior: so have sets of several forms, long ones and empty ones', () => {
    const sets = [
      [floats('y', [1, 10], 1)],
      [floats('y', [10], 1)],
      [floats('z', [1, 10], 1)],
      [floats('y', [1, 400], 1)],
      [floats('y', [0, 10], 1)],
      [],
      [floats('y', [1, 10], 2)],
    ]
    const alone = sets.map((tensors, at) => tensorCommitment(salts(7)[at]!, tensors))
    expect(tensorCommitments(salts(7), sets, rows)).toEqual(alone)
    for (const tensors of sets)
      expect(tensorCommitments(salts(2), [tensors, tensors], rows)).toEqual(
        salts(2).map((salt) => tensorCommitment(salt, tensors)),
      )
  })

  test('attack: a salt that is too short never stands on the rest of the one before', () => {
    const tensors = [floats('y', [1, 10], 1)]
    tensorCommitment(digest('before'), tensors)
    for (const length of [0, 31, 33])
      expect(() => tensorCommitments([digest('whole'), new Uint8Array(length)], [tensors, tensors], rows)).toThrow(
        expect.objectContaining({ name: 'EncodingError' }),
      )
  })
})
