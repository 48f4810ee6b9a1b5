import { batchDigest } from './batch.ts'
import { equalBytes, type Hex, toHex } from './bytes.ts'
import type { Domain } from './eip712.ts'
import { type Recover, rememberKeys } from './knownKeys.ts'
import { type MerkleProof, node as parent, rootFromProof } from './merkle.ts'
import { RenewedMap } from './renewedMap.ts'

/** Holds a leaf, its place in a batch, and the batch's signature. */
export type Signed = { leaf: Uint8Array; proof: MerkleProof; signature: Uint8Array }

/** Tells who signed the batch a leaf is of; null where nobody did, undefined where the proof does not fit. `likely` names who probably did, and changes nothing but the time it takes. */
export type BatchSigner = (domain: Domain, signed: Signed, likely: Hex) => Hex | null | undefined

/** Nodes that stand under a signed root, by level and place. */
type Batch = { root: Uint8Array; nodes: Map<number, Uint8Array> }

/** Most nodes kept of one batch: a tree of 2,048 leaves. */
const maxNodes = 4_096
const levelStep = 2 ** 32

/** Makes what tells signers and remembers batches: of many answers under one signature each node of the tree is hashed once, and the signature looked at once. What it says is what hashing every path and recovering every signature would say. Keeps the newest `capacity` batches. */
export function rememberBatches(recover: Recover = rememberKeys(), capacity = 64): BatchSigner {
  const known = new RenewedMap<string, Batch>()
  return (domain, signed, likely) => {
    const { leaf, proof, signature } = signed
    const key = `${domain.chainId} ${domain.escrow} ${likely} ${proof.count} ${toHex(signature)}`
    const before = known.get(key)
    if (before && stands(before, leaf, proof)) return likely
    const root = rootFromProof(leaf, proof)
    if (!root) return undefined
    const signer = recover(batchDigest(domain, { root, count: proof.count }), signature, likely)
    if (signer !== likely || before) return signer
    const batch: Batch = { root, nodes: new Map() }
    stands(batch, leaf, proof)
    known.set(key, batch)
    known.trim(capacity)
    return signer
  }
}

/** Tells whether a proof leads to a batch's root (RFC 9162 §2.1.3.2), from the first node on that is known without hashing; every sibling is compared all the same, since who checks a proof may keep it. Remembers the nodes of one that does. */
function stands({ root, nodes }: Batch, leaf: Uint8Array, { index, count, path }: MerkleProof): boolean {
  if (!Number.isInteger(index) || !Number.isInteger(count) || index < 0 || index >= count || count > levelStep)
    return false
  const met: [number, Uint8Array][] = []
  let node = leaf
  let isKnown = false
  let used = 0
  let position = index
  for (let level = 0, last = count - 1; ; level++, position = Math.floor(position / 2), last = Math.floor(last / 2)) {
    const own = last === 0 ? root : isKnown ? undefined : nodes.get(level * levelStep + position)
    if (own && !isKnown) {
      if (!equalBytes(own, node)) return false
      isKnown = true
    }
    if (last === 0) break
    if (!isKnown) met.push([level * levelStep + position, node])
    // An unpaired last node moves up unchanged.
    if (position === last && position % 2 === 0) continue
    const sibling = path[used++]
    if (sibling?.length !== 32) return false
    const place = level * levelStep + (position % 2 === 0 ? position + 1 : position - 1)
    const expected = nodes.get(place)
    if (isKnown) {
      if (!expected || !equalBytes(expected, sibling)) return false
      continue
    }
    met.push([place, sibling])
    node = position % 2 === 0 ? parent(node, sibling) : parent(sibling, node)
  }
  if (used !== path.length) return false
  // Copies: a view would keep the message it came in.
  if (nodes.size < maxNodes) for (const [place, bytes] of met) nodes.set(place, bytes.slice())
  return true
}
