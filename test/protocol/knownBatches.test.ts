import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { createRecoverer, createRunnerSigner } from '../../gpu-runner/signer.ts'
import { batchDigest } from '../../protocol/batch.ts'
import { fromHex, type Hex, uint } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import { sha256 } from '../../protocol/hash.ts'
import { rememberBatches, type Signed } from '../../protocol/knownBatches.ts'
import { merkleTree, rootFromProof } from '../../protocol/merkle.ts'

const domain: Domain = { chainId: 31_337, escrow: `0x${'22'.repeat(20)}` }
const runner = createRunnerSigner(fromHex(developmentKey('runner'), 32))
const recover = createRecoverer()
const leafOf = (index: number) => sha256(uint(BigInt(index), 8))

/** Signs a batch of `count` leaves, numbered from `from`. */
function batchOf(count: number, { from = 0, by = runner, under = domain } = {}): Signed[] {
  const leaves = Array.from({ length: count }, (_, index) => leafOf(from + index))
  const { root, proofs } = merkleTree(leaves)
  const signature = by.sign(batchDigest(under, { root, count })) as Uint8Array
  return leaves.map((leaf, index) => ({ leaf, proof: proofs[index]!, signature }))
}

/** Says who signed by hashing the whole path and recovering the signature. */
function byHand({ leaf, proof, signature }: Signed): Hex | null | undefined {
  const root = rootFromProof(leaf, proof)
  return root ? recover(batchDigest(domain, { root, count: proof.count }), signature) : undefined
}

const flipped = (bytes: Uint8Array, at: number) => bytes.map((byte, index) => (index === at ? byte ^ 1 : byte))

/** Lists what can be wrong with a proof, each from an honest one. */
const faults: [string, (honest: Signed, other: Signed, at: number) => Signed][] = [
  ['nothing', (honest) => honest],
  ['another leaf', (honest, _, at) => ({ ...honest, leaf: flipped(honest.leaf, at) })],
  ['the leaf of another place', (honest, other) => ({ ...honest, leaf: other.leaf })],
  ['the path of another place', (honest, other) => ({ ...honest, proof: { ...honest.proof, path: other.proof.path } })],
  ['another place', (honest, other) => ({ ...honest, proof: { ...honest.proof, index: other.proof.index } })],
  ['a place past the end', (honest) => ({ ...honest, proof: { ...honest.proof, index: honest.proof.count } })],
  ['a count too high', (honest) => ({ ...honest, proof: { ...honest.proof, count: honest.proof.count + 1 } })],
  ['a count too low', (honest) => ({ ...honest, proof: { ...honest.proof, count: honest.proof.count - 1 } })],
  [
    'a changed sibling',
    (honest, _, at) => {
      const path = honest.proof.path.map((node, level) =>
        level === at % honest.proof.path.length ? flipped(node, 31) : node,
      )
      return { ...honest, proof: { ...honest.proof, path } }
    },
  ],
  ['a path cut', (honest) => ({ ...honest, proof: { ...honest.proof, path: honest.proof.path.slice(0, -1) } })],
  ['a path longer', (honest) => ({ ...honest, proof: { ...honest.proof, path: [...honest.proof.path, honest.leaf] } })],
  [
    'a sibling of another length',
    (honest) => ({ ...honest, proof: { ...honest.proof, path: honest.proof.path.map((node) => node.subarray(1)) } }),
  ],
  ['another signature', (honest, _, at) => ({ ...honest, signature: flipped(honest.signature, at) })],
]

describe('rememberBatches', () => {
  test('behavior: says of every answer what hashing its path and recovering its signature says, whatever came before', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 70 }),
        fc.array(fc.tuple(fc.nat(), fc.nat(), fc.nat(31), fc.nat(faults.length - 1)), { minLength: 1, maxLength: 40 }),
        (count, asked) => {
          const batch = batchOf(count)
          const signerOf = rememberBatches(recover)
          for (const [index, other, at, fault] of asked) {
            const signed = faults[fault]![1](batch[index % count]!, batch[other % count]!, at)
            expect(signerOf(domain, signed, runner.address)).toBe(byHand(signed))
          }
        },
      ),
      { numRuns: 150 },
    )
  })

  for (const [name, fault] of faults.slice(1))
    test(`attack: ${name}, in a batch known in whole`, () => {
      const batch = batchOf(37)
      const signerOf = rememberBatches(recover)
      for (const signed of batch) expect(signerOf(domain, signed, runner.address)).toBe(runner.address)
      for (let index = 0; index < 37; index++) {
        const signed = fault(batch[index]!, batch[(index + 5) % 37]!, index % 32)
        const said = signerOf(domain, signed, runner.address)
        expect(said).toBe(byHand(signed))
        expect(said).not.toBe(runner.address)
      }
    })

  test('behavior: of a batch one signature is recovered', () => {
    let recovered = 0
    const signerOf = rememberBatches((digest, signature) => {
      recovered++
      return recover(digest, signature)
    })
    for (const signed of batchOf(64)) expect(signerOf(domain, signed, runner.address)).toBe(runner.address)
    expect(recovered).toBe(1)
  })

  test('attack: a batch known on one chain, or as one runner’s, is not taken for another’s', () => {
    const [signed] = batchOf(3)
    const other = createRunnerSigner(fromHex(developmentKey('another runner'), 32))
    const signerOf = rememberBatches(recover)
    expect(signerOf(domain, signed!, runner.address)).toBe(runner.address)
    expect(signerOf({ ...domain, chainId: 1 }, signed!, runner.address)).not.toBe(runner.address)
    expect(signerOf({ ...domain, escrow: `0x${'23'.repeat(20)}` }, signed!, runner.address)).not.toBe(runner.address)
    expect(signerOf(domain, signed!, other.address)).toBe(runner.address)
    expect(signerOf(domain, batchOf(3, { by: other })[0]!, runner.address)).toBe(other.address)
  })

  test('behavior: keeps nothing of the message an answer came in, and no more batches than told', () => {
    const signerOf = rememberBatches(recover, 2)
    const batch = batchOf(8)
    for (const signed of batch) signerOf(domain, signed, runner.address)
    // What was remembered must not change with the bytes it was read from.
    for (const node of batch[0]!.proof.path) node.fill(0)
    expect(signerOf(domain, batchOf(8)[0]!, runner.address)).toBe(runner.address)
    for (const from of [100, 200, 300])
      for (const signed of batchOf(5, { from })) expect(signerOf(domain, signed, runner.address)).toBe(runner.address)
    expect(signerOf(domain, batchOf(8)[3]!, runner.address)).toBe(runner.address)
  })
})
