import { concat, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { nitroSignedBytes } from '../../protocol/evidence/nitro.ts'
import { sha256 } from '../../protocol/hash.ts'
import { deriveBytes, type Issued, issue, p384Key, signP384 } from './developmentPki.ts'

/** Lists what a development Nitro enclave can get wrong on purpose. */
export const nitroFaults = [
  'expired_leaf',
  'future_leaf',
  'foreign_root',
  'leaf_as_ca',
  'issuer_not_ca',
  'debug',
  'old_document',
  'future_document',
  'wrong_algorithm',
  'unprotected_header',
  'zero_signature',
  'signed_by_stranger',
  'trailing_bytes',
  'duplicate_key',
  'non_minimal_cbor',
  'endless_map',
  'short_pcr',
  'pcr_out_of_range',
  'no_certificates',
] as const

/** Names what a development Nitro enclave can get wrong on purpose. */
export type NitroFault = (typeof nitroFaults)[number]

/** Holds a development Nitro enclave: its root's digest, and documents over the bytes it is given. */
export type DevelopmentNitro = { root: Hex; document(userData: Uint8Array): Promise<Uint8Array<ArrayBuffer>> }

const day = 86_400

function head(major: number, value: number): Uint8Array {
  const first = major << 5
  if (value < 24) return new Uint8Array([first | value])
  const width = value < 0x100 ? 1 : value < 0x1_0000 ? 2 : value < 0x1_0000_0000 ? 4 : 8
  const bytes = Array.from({ length: width }, (_, index) => Math.floor(value / 256 ** (width - 1 - index)) & 0xff)
  return new Uint8Array([first | (24 + Math.log2(width)), ...bytes])
}

const number = (value: number) => (value < 0 ? head(1, -1 - value) : head(0, value))
const text = (value: string) => concat(head(3, value.length), utf8(value))
const bytes = (value: Uint8Array) => concat(head(2, value.length), value)
const list = (...members: Uint8Array[]) => concat(head(4, members.length), ...members)
const map = (...members: [Uint8Array, Uint8Array][]) => concat(head(5, members.length), ...members.flat())
// As the security module writes its payloads: a map without a length, ended by a break.
const openMap = (...members: [Uint8Array, Uint8Array][]) =>
  concat(new Uint8Array([0xbf]), ...members.flat(), new Uint8Array([0xff]))

/** Makes a development Nitro enclave: documents of AWS's format with a PKI of its own from the seed (32 bytes). `now` gives unix seconds. */
export async function createDevelopmentNitro({
  seed,
  now,
  faults = [],
}: {
  seed: Uint8Array
  now: () => number
  faults?: readonly NitroFault[]
}): Promise<DevelopmentNitro> {
  const has = (fault: NitroFault) => faults.includes(fault)
  const authority = (commonName: string, label: string, issuer?: Issued, ca = true) =>
    issue({
      commonName,
      key: p384Key(seed, label),
      serial: deriveBytes(seed, `${label} serial`, 8),
      ca,
      ...(issuer ? { issuer } : {}),
    })
  const trusted = await authority('Assay Development nitro-enclaves', 'nitro root')
  const root = has('foreign_root') ? await authority('Assay Development nitro-enclaves', 'foreign nitro root') : trusted
  const region = await authority('development region', 'nitro region', root, !has('issuer_not_ca'))
  const leafKey = p384Key(seed, 'nitro leaf')
  const leaf = await issue({
    commonName: 'development enclave',
    key: leafKey,
    issuer: region,
    serial: deriveBytes(seed, 'nitro leaf serial', 8),
    ca: has('leaf_as_ca'),
    notBefore: now() + (has('future_leaf') ? day : -3_600),
    notAfter: now() + (has('expired_leaf') ? -60 : has('future_leaf') ? 2 * day : 2 * 3_600),
  })

  const payloadOf = (userData: Uint8Array) => {
    const measured = (index: number) =>
      has('debug') && index < 3
        ? new Uint8Array(48)
        : index < 5
          ? deriveBytes(seed, `pcr ${index}`, 48)
          : new Uint8Array(48)
    const pcrs = Array.from({ length: 16 }, (_, index): [Uint8Array, Uint8Array] => {
      const numbered = has('pcr_out_of_range') && index === 15 ? 32 : index
      return [number(numbered), bytes(has('short_pcr') ? measured(index).slice(0, 32) : measured(index))]
    })
    const age = has('old_document') ? 3_000 : has('future_document') ? -3_000 : 0
    const fields: [Uint8Array, Uint8Array][] = [
      [text('module_id'), text('i-development-enc0')],
      [text('digest'), text('SHA384')],
      [text('timestamp'), number((now() - age) * 1000)],
      [text('pcrs'), map(...pcrs)],
      [text('certificate'), bytes(leaf.der)],
      [text('cabundle'), has('no_certificates') ? list() : list(bytes(root.der), bytes(region.der))],
      [text('public_key'), new Uint8Array([0xf6])],
      [
        text('user_data'),
        has('non_minimal_cbor') ? concat(new Uint8Array([0x59, 0x00, userData.length]), userData) : bytes(userData),
      ],
      [text('nonce'), new Uint8Array([0xf6])],
    ]
    if (has('duplicate_key')) fields.push([text('user_data'), bytes(new Uint8Array(64))])
    const payload = openMap(...fields)
    return has('endless_map') ? payload.slice(0, -1) : payload
  }

  return {
    root: toHex(sha256(trusted.der)),
    async document(userData) {
      const protectedHeader = map([number(1), number(has('wrong_algorithm') ? -7 : -35)])
      const payload = payloadOf(userData)
      const secret = has('signed_by_stranger') ? p384Key(seed, 'stranger').secret : leafKey.secret
      const signature = has('zero_signature')
        ? new Uint8Array(96)
        : signP384(secret, nitroSignedBytes({ protectedHeader, payload }))
      const unprotected = has('unprotected_header') ? map([number(4), text('key')]) : map()
      const document = list(bytes(protectedHeader), unprotected, bytes(payload), bytes(signature))
      return has('trailing_bytes') ? concat(document, new Uint8Array(4)) : document
    },
  }
}
