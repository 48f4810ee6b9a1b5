import { concat, utf8 } from '../../protocol/bytes.ts'
import { asn1, DerReader, inside } from '../../protocol/evidence/der.ts'
import { bits, element, octets, oid, sequence } from '../../protocol/evidence/derWriter.ts'
import type { OcspStatus } from '../../protocol/evidence/gpu.ts'
import { deriveBytes, extension, type Issued, issue, p384Key } from './developmentPki.ts'

/** Lists what a development responder can get wrong on purpose. */
export const ocspFaults = [
  'try_later',
  'stale',
  'future',
  'other_nonce',
  'no_nonce',
  'other_certificate',
  'no_end',
  'signed_by_stranger',
  'stranger_responder',
  'not_delegated',
  'responder_is_ca',
  'expired_responder',
  'changed',
  'trailing_bytes',
] as const

/** Names what a development responder can get wrong on purpose. */
export type OcspFault = (typeof ocspFaults)[number]

const day = 86_400
const generalized = (seconds: number) =>
  element(0x18, utf8(`${new Date(seconds * 1000).toISOString().replace(/[-:T]/g, '').slice(0, 14)}Z`))

function statusElement(status: OcspStatus, at: number): Uint8Array {
  if (status === 'good') return element(0x80)
  if (status === 'unknown') return element(0x82)
  const reason = element(0xa0, element(0x0a, new Uint8Array([status === 'hold' ? 6 : 1])))
  return element(0xa1, generalized(at), reason)
}

/** Reads the two things a responder needs of a request: which certificate, and the nonce. */
function readRequest(der: Uint8Array) {
  const request = inside(inside(new DerReader(der).next(asn1.sequence)).next(asn1.sequence))
  const id = inside(inside(request.next(asn1.sequence)).next(asn1.sequence)).next(asn1.sequence).whole
  const extensions = inside(request.next(0xa2)).next(asn1.sequence).whole
  return { id, extensions }
}

/** Makes a responder for the certificates one authority issues (RFC 6960), with a certificate for answering from that authority. */
export async function createDevelopmentResponder({
  seed,
  issuer,
  now,
  status,
  faults = [],
}: {
  seed: Uint8Array
  issuer: Issued
  now: () => number
  status: OcspStatus
  faults?: readonly OcspFault[]
}): Promise<(request: Uint8Array) => Promise<Uint8Array>> {
  const has = (fault: OcspFault) => faults.includes(fault)
  const stranger = await issue({ commonName: issuer.commonName, key: p384Key(seed, 'stranger'), serial: 9, ca: true })
  const responder = await issue({
    commonName: 'Assay Development OCSP responder',
    key: p384Key(seed, 'ocsp responder'),
    issuer: has('stranger_responder') ? stranger : issuer,
    serial: deriveBytes(seed, 'ocsp serial', 9),
    ca: has('responder_is_ca'),
    ...(has('expired_responder') ? { notAfter: now() - day } : {}),
    extensions: has('not_delegated') ? [] : [extension('2.5.29.37', sequence(oid('1.3.6.1.5.5.7.3.9')), true)],
  })
  return async (request) => {
    if (has('try_later')) return sequence(element(0x0a, new Uint8Array([3])))
    const { id, extensions } = readRequest(request)
    const from = now() + (has('stale') ? -3 * day : has('future') ? day : -60)
    const asked = has('other_certificate') ? concat(id.slice(0, -1), new Uint8Array([id.at(-1)! ^ 1])) : id
    const nonces = has('other_nonce')
      ? concat(extensions.slice(0, -1), new Uint8Array([extensions.at(-1)! ^ 1]))
      : extensions
    const single = sequence(
      asked,
      statusElement(status, from),
      generalized(from),
      ...(has('no_end') ? [] : [element(0xa0, generalized(from + 2 * day))]),
    )
    const data = sequence(
      element(0xa2, octets(deriveBytes(seed, 'ocsp key hash', 20))),
      generalized(from),
      sequence(single),
      ...(has('no_nonce') ? [] : [element(0xa1, nonces)]),
    )
    const key = has('signed_by_stranger') ? stranger.key : responder.key
    const signature = await key.sign(data)
    const signed = has('changed') ? data.map((byte, index) => (index === data.length - 40 ? byte ^ 1 : byte)) : data
    const basic = sequence(signed, key.algorithm, bits(signature), element(0xa0, sequence(responder.der)))
    const answer = sequence(
      element(0x0a, new Uint8Array([0])),
      element(0xa0, sequence(oid('1.3.6.1.5.5.7.48.1.1'), octets(basic))),
    )
    return has('trailing_bytes') ? concat(answer, new Uint8Array(1)) : answer
  }
}
