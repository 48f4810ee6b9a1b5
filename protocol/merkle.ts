import { digestsApart, type HashRows, sha256, sha256Rows } from './hash.ts'

/** Proves that a leaf is the `index`-th of `count` under a root; `path` runs from the leaf's sibling up. */
export type MerkleProof = { index: number; count: number; path: Uint8Array[] }

/** Stands before the bytes of a node's children, and is followed by both. */
const nodeDomain = 0x01
const nodeLength = 65
/** Holds a node's bytes while they are hashed: there are as many nodes as receipts. */
const scratch = new Uint8Array(nodeLength)
scratch[0] = nodeDomain

/** Hashes two nodes to the one above them (RFC 9162 §2.1.1). Throws RangeError unless each has 32 bytes. */
export function node(left: Uint8Array, right: Uint8Array): Uint8Array {
  if (left.length !== 32 || right.length !== 32) throw new RangeError('A node has two children of 32 bytes.')
  scratch.set(left, 1)
  scratch.set(right, 33)
  return sha256(scratch)
}

/** Builds RFC 9162's tree over leaf hashes, level by level; an unpaired last node moves up unchanged, which is the same tree as splitting at the largest power of two. */
function levels(leaves: readonly Uint8Array[], hashRows: HashRows): Uint8Array[][] {
  if (leaves.length === 0) throw new RangeError('A batch has at least one leaf.')
  if (leaves.some(({ length }) => length !== 32)) throw new RangeError('A leaf has 32 bytes.')
  const all = [leaves.slice()]
  for (let level = all[0]!; level.length > 1; level = all.at(-1)!) {
    const pairs = level.length >> 1
    const rows = new Uint8Array(pairs * nodeLength)
    for (let pair = 0; pair < pairs; pair++) {
      rows[pair * nodeLength] = nodeDomain
      rows.set(level[2 * pair]!, pair * nodeLength + 1)
      rows.set(level[2 * pair + 1]!, pair * nodeLength + 33)
    }
    const above: Uint8Array[] = digestsApart(hashRows(rows, nodeLength))
    if (level.length % 2 === 1) above.push(level.at(-1)!)
    all.push(above)
  }
  return all
}

/** Computes the root of leaf hashes (RFC 9162 §2.1.1). Throws RangeError when there are none, or one has not 32 bytes. */
export function merkleRoot(leaves: readonly Uint8Array[]): Uint8Array {
  return levels(leaves, sha256Rows).at(-1)![0]!
}

/** Builds the root and one inclusion proof per leaf (RFC 9162 §2.1.3.1), each level's nodes as rows. Throws RangeError as `merkleRoot` does. */
export function merkleTree(
  leaves: readonly Uint8Array[],
  hashRows: HashRows = sha256Rows,
): { root: Uint8Array; proofs: MerkleProof[] } {
  const all = levels(leaves, hashRows)
  const below = all.slice(0, -1)
  const proofs = leaves.map((_, index) => {
    const path: Uint8Array[] = []
    let position = index
    for (const level of below) {
      const sibling = level[position ^ 1]
      if (sibling) path.push(sibling)
      position >>= 1
    }
    return { index, count: leaves.length, path }
  })
  return { root: all.at(-1)![0]!, proofs }
}

/** Computes the root a proof leads to, or null when the proof has the wrong length for its index and count (RFC 9162 §2.1.3.2). */
export function rootFromProof(leaf: Uint8Array, { index, count, path }: MerkleProof): Uint8Array | null {
  if (!Number.isInteger(index) || !Number.isInteger(count) || index < 0 || index >= count) return null
  let position = index
  let last = count - 1
  let hash = leaf
  for (const sibling of path) {
    if (last === 0 || sibling.length !== 32) return null
    if (position % 2 === 1 || position === last) {
      hash = node(sibling, hash)
      while (position % 2 === 0 && position !== 0) {
        position = Math.floor(position / 2)
        last = Math.floor(last / 2)
      }
    } else {
      hash = node(hash, sibling)
    }
    position = Math.floor(position / 2)
    last = Math.floor(last / 2)
  }
  return last === 0 ? hash : null
}
