import { concat, toHex } from '../../protocol/bytes.ts'
import { element, integer } from '../../protocol/evidence/derWriter.ts'
import type { CollateralOf, Roots } from '../../protocol/evidence/index.ts'
import type { AmdProduct } from '../../protocol/evidence/roots.ts'
import { sha256 } from '../../protocol/hash.ts'
import { deriveBytes, extension, issue, issueCrl, p384Key, pem, rsaKey, signP384 } from './developmentPki.ts'

/** Lists what a development SNP machine can get wrong on purpose. */
export const snpFaults = [
  'expired_leaf',
  'future_leaf',
  'wrong_role',
  'leaf_as_ca',
  'authority_not_ca',
  'foreign_root',
  'revoked_authority',
  'stale_crl',
  'foreign_crl',
  'missing_crl',
  'non_minimal_der',
  'debug',
  'migratable',
  'reserved_policy',
  'high_vmpl',
  'no_alias_check',
  'tcb_too_low',
  'provisional',
  'tcb_mismatch',
  'other_chip',
  'other_product',
  'wrong_key_kind',
  'zero_signature',
  'huge_signature',
  'signed_by_stranger',
  'trailing_bytes',
  'reserved_bytes',
  'old_version',
] as const

/** Names what a development SNP machine can get wrong on purpose. */
export type SnpFault = (typeof snpFaults)[number]

/** Holds a development SNP machine. */
export type DevelopmentSnp = {
  roots: NonNullable<Roots['amd']>
  report(reportData: Uint8Array): Uint8Array<ArrayBuffer>
  collateral(): Promise<CollateralOf<'snp'>>
}

const amd = '1.3.6.1.4.1.3704.1'
const day = 86_400
const cpuid: Record<AmdProduct, [number, number, number]> = {
  Milan: [0x19, 0x01, 1],
  Genoa: [0x19, 0x11, 1],
  Turin: [0x1a, 0x02, 1],
}

/** Makes a development SNP machine: reports of AMD's format, version 3 and later, with a PKI of its own from the seed (32 bytes). `kind` chooses whether the chip's own key signs (VCEK) or one a cloud loaded (VLEK); `now` gives unix seconds. */
export async function createDevelopmentSnp({
  seed,
  now,
  product = 'Genoa',
  kind = 'VCEK',
  version = 5,
  faults = [],
}: {
  seed: Uint8Array
  now: () => number
  product?: AmdProduct
  kind?: 'VCEK' | 'VLEK'
  version?: 3 | 4 | 5
  faults?: readonly SnpFault[]
}): Promise<DevelopmentSnp> {
  const has = (fault: SnpFault) => faults.includes(fault)
  const turin = product === 'Turin'
  const root = await issue({
    commonName: `ARK-${product}`,
    key: await rsaKey(seed, has('foreign_root') ? 'foreign ark' : 'ark'),
    serial: 1,
    ca: true,
  })
  const authority = await issue({
    commonName: kind === 'VLEK' ? `SEV-VLEK-${product}` : `SEV-${product}`,
    key: await rsaKey(seed, 'ask'),
    issuer: root,
    serial: 2,
    ca: !has('authority_not_ca'),
  })
  const chipKey = p384Key(seed, 'chip')
  const chipId = concat(deriveBytes(seed, 'chip id', turin ? 8 : 64), new Uint8Array(turin ? 56 : 0))
  const low = has('tcb_too_low')
  // In the order of the eight bytes of a TCB version, which Turin changed.
  const tcb = turin ? [1, 1, 1, 4, 0, 0, 0, 80] : [10, 0, 0, 0, 0, 0, low ? 7 : 27, 84]
  if (turin && low) tcb[3] = 0
  const [bootloader, tee, snp] = turin ? [tcb[1]!, tcb[2]!, tcb[3]!] : [tcb[0]!, tcb[1]!, tcb[6]!]
  const whole = (id: string, value: number) => extension(`${amd}.${id}`, integer(value))
  const named = has('other_product') ? (product === 'Genoa' ? 'Milan' : 'Genoa') : product
  const leaf = await issue({
    commonName: has('wrong_role') ? 'SEV-OTHER' : `SEV-${kind}`,
    key: chipKey,
    issuer: authority,
    serial: 0,
    ca: has('leaf_as_ca'),
    ...(has('expired_leaf') ? { notAfter: now() - day } : {}),
    ...(has('future_leaf') ? { notBefore: now() + day } : {}),
    extensions: [
      whole('1', 0),
      extension(`${amd}.2`, element(0x16, new TextEncoder().encode(kind === 'VLEK' ? named : `${named}-B0`))),
      whole('3.1', bootloader),
      whole('3.2', tee),
      whole('3.3', has('tcb_mismatch') ? snp + 1 : snp),
      whole('3.8', tcb[7]!),
      ...(turin ? [whole('3.9', tcb[0]!)] : []),
      ...(kind === 'VLEK'
        ? [extension(`${amd}.5`, element(0x16, new TextEncoder().encode('cloud.example')))]
        : [
            extension(
              `${amd}.4`,
              has('other_chip') ? deriveBytes(seed, 'other chip', turin ? 8 : 64) : chipId.slice(0, turin ? 8 : 64),
            ),
          ]),
    ],
  })

  return {
    roots: {
      [product]: toHex(
        sha256(
          (has('foreign_root')
            ? await issue({ commonName: root.commonName, key: await rsaKey(seed, 'ark'), serial: 1, ca: true })
            : root
          ).der,
        ),
      ),
    },

    report(reportData) {
      const report = new Uint8Array(1_184)
      const view = new DataView(report.buffer)
      view.setUint32(0, has('old_version') ? 1 : version, true)
      let policy = 0x30000n
      if (has('debug')) policy |= 1n << 19n
      if (has('migratable')) policy |= 1n << 18n
      if (has('reserved_policy')) policy |= 1n << 40n
      view.setBigUint64(8, policy, true)
      view.setUint32(0x30, has('high_vmpl') ? 2 : 0, true)
      view.setUint32(0x34, 1, true)
      for (const at of [0x38, 0x180, 0x1e0, 0x1f0]) report.set(tcb, at)
      if (has('provisional')) report[0x38 + 7]!++
      view.setBigUint64(0x40, has('no_alias_check') ? 0x05n : 0x25n, true)
      const keyKind = (kind === 'VLEK') === has('wrong_key_kind') ? 0 : 1
      view.setUint32(0x48, keyKind << 2, true)
      report.set(reportData, 0x50)
      report.set(deriveBytes(seed, 'measurement', 48), 0x90)
      report.set(cpuid[product], 0x188)
      if (kind === 'VCEK') report.set(chipId, 0x1a0)
      if (has('reserved_bytes')) report[0x290] = 1
      const secret = has('signed_by_stranger') ? p384Key(seed, 'stranger').secret : chipKey.secret
      const signature = has('zero_signature') ? new Uint8Array(96) : signP384(secret, report.slice(0, 0x2a0))
      report.set(signature.slice(0, 48).reverse(), 0x2a0)
      report.set(signature.slice(48).reverse(), 0x2a0 + 72)
      if (has('huge_signature')) report[0x2a0 + 60] = 1
      return has('trailing_bytes') ? concat(report, new Uint8Array(16)) : report
    },

    async collateral() {
      const stranger = has('foreign_crl')
        ? await issue({ commonName: root.commonName, key: await rsaKey(seed, 'foreign ark'), serial: 1, ca: true })
        : root
      const start = now() - (has('stale_crl') ? 60 : 1) * day
      const crl = await issueCrl({
        issuer: stranger,
        thisUpdate: start,
        nextUpdate: start + 30 * day,
        revoked: has('revoked_authority') ? [2] : [],
      })
      // A length in two bytes where one would do: another reading of the same list.
      if (has('non_minimal_der')) crl.set([0x83, 0x00], 1)
      return {
        format: 'snp',
        certificate: leaf.der,
        authority: authority.der,
        root: root.der,
        crl: has('missing_crl') ? null : crl,
      }
    },
  }
}

/** Serves a development machine's certificates and revocation list in the shape of AMD's key distribution service; there is nothing to sign here, so nothing to steal. */
export function developmentKds(snp: DevelopmentSnp): (request: Request) => Promise<Response> {
  return async (request) => {
    const [, kind, version, , last] = new URL(request.url).pathname.split('/')
    if ((kind !== 'vcek' && kind !== 'vlek') || version !== 'v1') return new Response('not found', { status: 404 })
    const { certificate, authority, root, crl } = await snp.collateral()
    if (last === 'cert_chain') return new Response(pem(authority, root))
    if (last === 'crl') return crl ? new Response(crl as Uint8Array<ArrayBuffer>) : new Response('', { status: 404 })
    return new Response(certificate as Uint8Array<ArrayBuffer>)
  }
}
