import { EncodingError, toHex } from '../bytes.ts'
import { asn1, DerReader, inside, readOid, readSmall } from './der.ts'
import type { Certificate } from './x509.ts'

/** Holds what a PCK certificate says of its platform: 16 component SVNs, PCESVN, and PCE id, FMSPC and PPID in lower-case hexadecimal without a prefix. */
export type PckPlatform = { components: number[]; pceSvn: number; pceId: string; fmspc: string; ppid: string }

const sgxExtension = '1.2.840.113741.1.13.1'

function eachMember(list: DerReader, visit: (oid: string, value: ReturnType<DerReader['next']>) => void): void {
  const seen = new Set<string>()
  while (!list.done) {
    const pair = inside(list.next(asn1.sequence))
    const oid = readOid(pair.next(asn1.oid))
    if (seen.has(oid)) throw new EncodingError(`SGX extension names ${oid} twice.`)
    seen.add(oid)
    visit(oid, pair.next())
    pair.end()
  }
}

/** Reads Intel's SGX extension of a PCK certificate (Intel SGX PCK Certificate specification, §1.3.5). Throws EncodingError. */
export function readPckExtension(certificate: Certificate): PckPlatform {
  const extension = certificate.extensions.get(sgxExtension)
  if (!extension) throw new EncodingError('The PCK certificate lacks the SGX extension.')
  const components = new Array<number>(16).fill(-1)
  let pceSvn = -1
  const texts: Record<string, string> = {}
  const outer = new DerReader(extension)
  const list = inside(outer.next(asn1.sequence))
  outer.end()
  eachMember(list, (oid, value) => {
    if (oid !== `${sgxExtension}.2`) {
      texts[oid.slice(sgxExtension.length + 1)] = toHex(value.content).slice(2)
      return
    }
    eachMember(inside(value), (inner, svn) => {
      const index = Number(inner.slice(`${sgxExtension}.2.`.length))
      if (index >= 1 && index <= 16) components[index - 1] = readSmall(svn)
      else if (index === 17) pceSvn = readSmall(svn)
    })
  })
  const { '1': ppid = '', '3': pceId = '', '4': fmspc = '' } = texts
  if (
    components.includes(-1) ||
    pceSvn < 0 ||
    pceId.length !== 4 ||
    fmspc.length !== 12 ||
    (ppid !== '' && ppid.length !== 32)
  ) {
    throw new EncodingError(
      'The SGX extension lacks a component, PCESVN, PCE id or FMSPC, or its PPID is not 16 bytes.',
    )
  }
  return { components, pceSvn, pceId, fmspc, ppid }
}
