import { concat, fromHex, type Hex, toHex, uint, utf8 } from './bytes.ts'
import { keccak256 } from './hash.ts'

/** Names the chain and the contract that signatures are good for (EIP-712 domain; name "Assay", version "1"). */
export type Domain = { chainId: number | bigint; escrow: Hex }

const domainType = keccak256(utf8('EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)'))
const nameHash = keccak256(utf8('Assay'))
const versionHash = keccak256(utf8('1'))

const separators = new Map<string, Uint8Array>()

/** Computes the EIP-712 domain separator; remembered, because a process speaks to one or two domains. */
export function domainSeparator({ chainId, escrow }: Domain): Uint8Array {
  const key = `${chainId}:${escrow.toLowerCase()}`
  const known = separators.get(key)
  if (known) return known
  const separator = keccak256(concat(domainType, nameHash, versionHash, uint(chainId, 32), word(fromHex(escrow, 20))))
  separators.set(key, separator)
  return separator
}

/** Left-pads bytes to one 32-byte ABI word. */
export function word(bytes: Uint8Array): Uint8Array {
  const padded = new Uint8Array(32)
  padded.set(bytes, 32 - bytes.length)
  return padded
}

type FieldType = 'address' | 'bytes32' | 'string' | `uint${number}`

/** Describes one EIP-712 struct: its name and its fields in order. */
export type StructType = { name: string; fields: readonly (readonly [name: string, type: FieldType])[] }

const typeHashes = new WeakMap<StructType, Uint8Array>()

function typeHash(type: StructType): Uint8Array {
  let hash = typeHashes.get(type)
  if (!hash) {
    hash = keccak256(utf8(`${type.name}(${type.fields.map(([name, kind]) => `${kind} ${name}`).join(',')})`))
    typeHashes.set(type, hash)
  }
  return hash
}

function encodeField(type: FieldType, value: unknown): Uint8Array {
  if (type === 'address') return word(fromHex(value as Hex, 20))
  if (type === 'bytes32') return fromHex(value as Hex, 32)
  if (type === 'string') return keccak256(utf8(value as string))
  const width = Number(type.slice(4)) / 8
  return word(uint(value as bigint | number, width))
}

/** Computes the EIP-712 digest `keccak256(0x1901 ‖ domain ‖ hashStruct(value))`. Throws EncodingError when a field does not fit its type. */
export function typedDataDigest(domain: Domain, type: StructType, value: Record<string, unknown>): Uint8Array {
  const struct = keccak256(concat(typeHash(type), ...type.fields.map(([name, kind]) => encodeField(kind, value[name]))))
  return keccak256(concat(new Uint8Array([0x19, 0x01]), domainSeparator(domain), struct))
}

/** Gives the digest as hexadecimal. */
export function typedDataDigestHex(domain: Domain, type: StructType, value: Record<string, unknown>): Hex {
  return toHex(typedDataDigest(domain, type, value))
}
