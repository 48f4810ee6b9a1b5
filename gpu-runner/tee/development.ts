import { p256 } from '@noble/curves/nist.js'
import { concat, toBase64, toHex, uint, utf8 } from '../../protocol/bytes.ts'
import { bits, element, integer, name, octets, oid, sequence, time, yes } from '../../protocol/evidence/derWriter.ts'
import type { CollateralOf } from '../../protocol/evidence/index.ts'
import { sha256 } from '../../protocol/hash.ts'

/**
 * A development TEE: production-format TDX quotes, certificates, CRLs and collateral from a seed. It stands in for hardware and for Intel's
 * provisioning service, under a root of its own that verifiers refuse unless they are told to accept it on a local chain.
 */

/** Makes one thing wrong on purpose, for tests that a verifier refuses it. */
export type TeeFault =
  | 'expired_leaf'
  | 'future_leaf'
  | 'wrong_role'
  | 'leaf_as_ca'
  | 'ca_not_ca'
  | 'foreign_root'
  | 'revoked_leaf'
  | 'revoked_intermediate'
  | 'revoked_tcb_signer'
  | 'stale_crl'
  | 'foreign_crl'
  | 'empty_crl_bytes'
  | 'stale_tcb'
  | 'tcb_out_of_date'
  | 'tcb_revoked'
  | 'tcb_wrong_fmspc'
  | 'tcb_wrong_pce'
  | 'tcb_signed_by_leaf'
  | 'tcb_duplicate_key'
  | 'tcb_15_components'
  | 'tcb_17_components'
  | 'tcb_changed'
  | 'unknown_module'
  | 'qe_wrong_signer'
  | 'qe_changed'
  | 'debug'
  | 'migratable'
  | 'no_sept_ve'
  | 'service_td'
  | 'qe_unbound'
  | 'zero_signature'
  | 'key_off_curve'
  | 'trailing_bytes'
  | 'non_minimal_der'

type Key = { secret: Uint8Array; publicKey: Uint8Array }
type Issued = {
  der: Uint8Array
  tbs: Uint8Array
  signature: Uint8Array
  key: Key
  commonName: string
  serial: Uint8Array
}

const fmspc = '00a55a700000'
const pceId = '0000'
const seamSigner = '00'.repeat(48)
/** MRSIGNER of the development quoting enclave, 64 hex digits. */
const developmentQeSigner = toHex(sha256(utf8('assay development quoting enclave signer'))).slice(2)
const ecdsaSha256 = sequence(oid('1.2.840.10045.4.3.2'))
const day = 86_400

/** Holds a development TEE made from a seed. */
export type DevelopmentTee = {
  /** DER of the root certificate, for `developmentRoots`. */
  rootDer: Uint8Array
  /** DER of the CA that issues PCK certificates. */
  platformCaDer: Uint8Array
  fmspc: string
  /** Makes a quote with these 64 bytes of report data. */
  quote(reportData: Uint8Array, options?: { version?: 4 | 5 }): Uint8Array<ArrayBuffer>
  /** Makes the collateral as of now. */
  collateral(): CollateralOf<'tdx'>
}

/** Makes a development TEE. Deterministic in the seed (32 bytes), the clock (`now`, unix seconds, at each call) and the faults. */
export function createDevelopmentTee({
  seed,
  now,
  faults = [],
  workload = 'assay-runner',
}: {
  seed: Uint8Array
  now: () => number
  faults?: readonly TeeFault[]
  workload?: string
}): DevelopmentTee {
  const has = (fault: TeeFault) => faults.includes(fault)
  const derive = (label: string) => sha256(concat(seed, utf8(label)))
  const key = (label: string): Key => {
    const secret = derive(label)
    return { secret, publicKey: p256.getPublicKey(secret, false) }
  }
  const sign = (signer: Key, message: Uint8Array) => p256.sign(message, signer.secret, { lowS: false })
  const derSignature = (raw: Uint8Array) => sequence(integer(raw.subarray(0, 32)), integer(raw.subarray(32)))
  const extension = (id: string, value: Uint8Array, critical = false) =>
    sequence(oid(id), ...(critical ? [yes()] : []), octets(value))

  const rootLabel = has('foreign_root') ? 'foreign root' : 'root'
  // Certificates do not move with the clock, so that a chain registered on chain once stays the same chain.
  const issuedAt = Math.floor(Date.UTC(2026, 0, 1) / 1000)
  const issue = (options: {
    label: string
    commonName: string
    issuer: { key: Key; commonName: string } | null
    ca: boolean
    extensions?: Uint8Array[]
    notBefore?: number
    notAfter?: number
  }): Issued => {
    const own = key(options.label)
    const issuer = options.issuer ?? { key: own, commonName: options.commonName }
    const serial = derive(`serial ${options.label}`).slice(0, 16)
    serial[0] = (serial[0]! & 0x7f) | 0x40
    const tbs = sequence(
      element(0xa0, integer(2)),
      integer(serial),
      ecdsaSha256,
      name(issuer.commonName),
      sequence(time(options.notBefore ?? issuedAt), time(options.notAfter ?? issuedAt + 20 * 365 * day)),
      name(options.commonName),
      sequence(sequence(oid('1.2.840.10045.2.1'), oid('1.2.840.10045.3.1.7')), bits(own.publicKey)),
      element(
        0xa3,
        sequence(
          extension('2.5.29.35', sequence(element(0x80, sha256(issuer.key.publicKey).subarray(0, 20)))),
          extension('2.5.29.15', options.ca ? bits(new Uint8Array([0x06]), 1) : bits(new Uint8Array([0xc0]), 6), true),
          extension('2.5.29.19', options.ca ? sequence(yes()) : sequence(), true),
          ...(options.extensions ?? []),
        ),
      ),
    )
    const signature = sign(issuer.key, tbs)
    const der = sequence(tbs, ecdsaSha256, bits(derSignature(signature)))
    return { der, tbs, signature, key: own, commonName: options.commonName, serial }
  }

  const root = issue({ label: rootLabel, commonName: 'Assay Development SGX Root CA', issuer: null, ca: true })
  const platformCa = issue({
    label: 'platform ca',
    commonName: 'Assay Development SGX PCK Platform CA',
    issuer: root,
    ca: !has('ca_not_ca'),
  })
  const svn = (index: number, value: number) => sequence(oid(`1.2.840.113741.1.13.1.2.${index}`), integer(value))
  const sgxExtension = sequence(
    sequence(oid('1.2.840.113741.1.13.1.1'), octets(derive('ppid').slice(0, 16))),
    sequence(
      oid('1.2.840.113741.1.13.1.2'),
      sequence(
        ...Array.from({ length: 16 }, (_, index) => svn(index + 1, index < 8 ? 5 : 0)),
        svn(17, 13),
        sequence(oid('1.2.840.113741.1.13.1.2.18'), octets(new Uint8Array(16).fill(5, 0, 8))),
      ),
    ),
    sequence(oid('1.2.840.113741.1.13.1.3'), octets(new Uint8Array(2))),
    sequence(oid('1.2.840.113741.1.13.1.4'), octets(new Uint8Array([0x00, 0xa5, 0x5a, 0x70, 0, 0]))),
    sequence(oid('1.2.840.113741.1.13.1.5'), element(0x0a, new Uint8Array([1]))),
  )
  const pck = issue({
    label: 'pck',
    commonName: has('wrong_role') ? 'Assay Development SGX TCB Signing' : 'Assay Development SGX PCK Certificate',
    issuer: platformCa,
    ca: has('leaf_as_ca'),
    extensions: [extension('1.2.840.113741.1.13.1', sgxExtension)],
    ...(has('expired_leaf') ? { notAfter: now() - day } : {}),
    ...(has('future_leaf') ? { notBefore: now() + day } : {}),
  })
  const tcbSigner = issue({
    label: 'tcb signing',
    commonName: 'Assay Development SGX TCB Signing',
    issuer: root,
    ca: false,
  })
  const attestation = key('attestation')
  const pem = (...certificates: Issued[]) =>
    certificates
      .map(
        ({ der }) =>
          `-----BEGIN CERTIFICATE-----\n${toBase64(der).replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`,
      )
      .join('')

  const crl = (issuer: Issued, revoked: Issued[]) => {
    const signer = has('foreign_crl') ? key('foreign crl') : issuer.key
    const thisUpdate = today() - (has('stale_crl') ? 60 * day : 0)
    const tbs = sequence(
      integer(1),
      ecdsaSha256,
      name(issuer.commonName),
      time(thisUpdate),
      time(thisUpdate + 30 * day),
      ...(revoked.length > 0
        ? [sequence(...revoked.map(({ serial }) => sequence(integer(serial), time(thisUpdate))))]
        : []),
      element(
        0xa0,
        sequence(
          extension('2.5.29.35', sequence(element(0x80, sha256(issuer.key.publicKey).subarray(0, 20)))),
          extension('2.5.29.20', integer(1)),
        ),
      ),
    )
    const whole = sequence(tbs, ecdsaSha256, bits(derSignature(sign(signer, tbs))))
    return has('empty_crl_bytes') ? new Uint8Array([0]) : whole
  }
  // Collateral is dated to the start of the hour, so that two requests a moment apart give the same bytes.
  const today = () => Math.floor(now() / 3600) * 3600
  const iso = (seconds: number) => new Date(seconds * 1000).toISOString().replace('.000Z', 'Z')
  const validity = () => {
    const issueDate = today() - (has('stale_tcb') ? 60 * day : 0)
    return { issueDate: iso(issueDate), nextUpdate: iso(issueDate + 30 * day) }
  }

  // Members stand in the vendor's order: the chain compares the text with the vendor's template.
  const tcbInfo = () => {
    const count = has('tcb_15_components') ? 15 : has('tcb_17_components') ? 17 : 16
    const components = (values: number[]) => Array.from({ length: count }, (_, index) => ({ svn: values[index] ?? 0 }))
    const level = (sgx: number, pcesvn: number, tcbStatus: string, extra = {}) => ({
      tcb: { sgxtcbcomponents: components(new Array(8).fill(sgx)), pcesvn, tdxtcbcomponents: components([5, 0, 2]) },
      tcbDate: '2026-01-01T00:00:00Z',
      tcbStatus,
      ...extra,
    })
    const newest = has('tcb_out_of_date') ? 6 : 5
    const text = JSON.stringify({
      id: 'TDX',
      version: 3,
      ...validity(),
      fmspc: has('tcb_wrong_fmspc') ? '00A55A700001' : fmspc.toUpperCase(),
      pceId: has('tcb_wrong_pce') ? '0001' : pceId,
      tcbType: 0,
      tcbEvaluationDataNumber: 18,
      tdxModule: { mrsigner: seamSigner, attributes: '00'.repeat(8), attributesMask: 'FF'.repeat(8) },
      tdxModuleIdentities: [
        {
          id: has('unknown_module') ? 'TDX_09' : 'TDX_01',
          mrsigner: seamSigner,
          attributes: '00'.repeat(8),
          attributesMask: 'FF'.repeat(8),
          tcbLevels: [{ tcb: { isvsvn: 5 }, tcbDate: '2026-01-01T00:00:00Z', tcbStatus: 'UpToDate' }],
        },
      ],
      tcbLevels: [
        level(newest, 13, has('tcb_revoked') ? 'Revoked' : 'UpToDate'),
        level(2, 5, 'OutOfDate', { tcbDate: '2025-01-01T00:00:00Z', advisoryIDs: ['ASSAY-DEV-00001'] }),
      ],
    })
    return has('tcb_duplicate_key') ? text.replace('{', '{"version":3,') : text
  }
  const qeIdentity = () =>
    JSON.stringify({
      id: 'TD_QE',
      version: 2,
      ...validity(),
      tcbEvaluationDataNumber: 18,
      miscselect: '00000000',
      miscselectMask: 'FFFFFFFF',
      attributes: `11${'00'.repeat(15)}`,
      attributesMask: 'FBFFFFFFFFFFFFFF0000000000000000',
      mrsigner: has('qe_wrong_signer') ? 'ab'.repeat(32) : developmentQeSigner,
      isvprodid: 2,
      tcbLevels: [{ tcb: { isvsvn: 4 }, tcbDate: '2026-01-01T00:00:00Z', tcbStatus: 'UpToDate' }],
    })

  const measure = (label: string) => {
    const digest = concat(derive(`measure ${workload} ${label}`), derive(`measure ${workload} ${label} more`))
    return digest.slice(0, 48)
  }

  const body = (reportData: Uint8Array, version: 4 | 5) => {
    if (reportData.length !== 64) throw new RangeError(`Report data takes 64 bytes, got ${reportData.length}.`)
    const bytes = new Uint8Array(version === 4 ? 584 : 648)
    bytes.set([5, 1, 2], 0)
    bytes.set(measure('seam'), 16)
    const attributes = new Uint8Array(8)
    attributes[3] = has('no_sept_ve') ? 0 : 0x10
    if (has('debug')) attributes[0] = 1
    if (has('migratable')) attributes[3]! |= 0x20
    bytes.set(attributes, 120)
    bytes.set([0xe7, 0x02, 0x06], 128)
    bytes.set(measure('mrtd'), 136)
    for (const register of [0, 1, 2, 3]) bytes.set(measure(`rtmr${register}`), 328 + 48 * register)
    bytes.set(reportData, 520)
    if (version === 5) {
      bytes.set([5, 1, 2], 584)
      if (has('service_td')) bytes[600] = 1
    }
    return bytes
  }

  const qeReport = (authData: Uint8Array) => {
    const report = new Uint8Array(384)
    report.fill(5, 0, 8)
    report[48] = 0x11
    report.set(derive('qe mrenclave'), 64)
    for (let i = 0; i < 32; i++) report[128 + i] = Number.parseInt(developmentQeSigner.slice(i * 2, i * 2 + 2), 16)
    report[256] = 2
    report[258] = 4
    report.set(
      has('qe_unbound') ? derive('another key') : sha256(concat(attestation.publicKey.subarray(1), authData)),
      320,
    )
    return report
  }
  const little = (value: number, width: number) => uint(value, width).reverse()

  return {
    rootDer: issue({ label: 'root', commonName: 'Assay Development SGX Root CA', issuer: null, ca: true }).der,
    platformCaDer: platformCa.der,
    fmspc,
    quote(reportData, { version = 4 } = {}) {
      const header = concat(
        little(version, 2),
        little(2, 2),
        little(0x81, 4),
        new Uint8Array(4),
        new Uint8Array([
          0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
        ]),
        new Uint8Array(20),
      )
      const report = body(reportData, version)
      const descriptor = version === 5 ? concat(little(3, 2), little(648, 4)) : new Uint8Array(0)
      const signed = concat(header, descriptor, report)
      const authData = Uint8Array.from({ length: 32 }, (_, index) => index)
      const enclave = qeReport(authData)
      const chain = utf8(pem(pck, platformCa, root))
      const certification = concat(
        enclave,
        sign(pck.key, enclave),
        little(32, 2),
        authData,
        little(5, 2),
        little(chain.length, 4),
        chain,
      )
      const publicKey = attestation.publicKey.slice(1)
      if (has('key_off_curve')) publicKey[63]! ^= 1
      const signature = has('zero_signature') ? new Uint8Array(64) : sign(attestation, signed)
      const auth = concat(signature, publicKey, little(6, 2), little(certification.length, 4), certification)
      const tail = has('trailing_bytes') ? new Uint8Array(70).fill(0xee) : new Uint8Array(0)
      return concat(signed, little(auth.length, 4), auth, tail)
    },
    collateral() {
      const info = tcbInfo()
      const identity = qeIdentity()
      const signer = has('tcb_signed_by_leaf')
        ? { certificate: pck, chain: pem(pck, platformCa, root) }
        : { certificate: tcbSigner, chain: pem(tcbSigner, root) }
      const rootCrl = crl(root, [
        ...(has('revoked_intermediate') ? [platformCa] : []),
        ...(has('revoked_tcb_signer') ? [tcbSigner] : []),
      ])
      const unsign = (text: string) => toHex(sign(signer.certificate.key, utf8(text))).slice(2)
      return {
        format: 'tdx',
        tcbInfo: has('tcb_changed') ? info.replace('UpToDate', 'upToDate') : info,
        tcbInfoSignature: unsign(info),
        tcbInfoChain: signer.chain,
        qeIdentity: has('qe_changed') ? identity.replace('"isvsvn":4', '"isvsvn":3') : identity,
        qeIdentitySignature: unsign(identity),
        qeIdentityChain: signer.chain,
        pckCrl: crl(platformCa, has('revoked_leaf') ? [pck] : []),
        pckCrlChain: pem(platformCa, root),
        rootCaCrl: has('non_minimal_der') ? lengthen(rootCrl) : rootCrl,
      }
    },
  }
}

/** Writes an element's length in one byte more than it needs, which BER allows and DER does not. */
function lengthen(der: Uint8Array): Uint8Array {
  return concat(new Uint8Array([der[0]!, 0x83, 0x00]), der.subarray(2))
}

/** Serves a development TEE's collateral in the shape of Intel's provisioning service; there is nothing to sign here, so nothing to steal. */
export function developmentPccs(tee: DevelopmentTee): (request: Request) => Response {
  return (request) => {
    const url = new URL(request.url)
    const collateral = tee.collateral()
    const signed = (member: string, text: string, signature: string, chainHeader: string, chain: string) =>
      new Response(`{"${member}":${text},"signature":"${signature}"}`, {
        headers: { 'content-type': 'application/json', [chainHeader]: encodeURIComponent(chain) },
      })
    switch (url.pathname) {
      case '/tdx/certification/v4/tcb':
        if (url.searchParams.get('fmspc')?.toLowerCase() !== tee.fmspc)
          return new Response('unknown fmspc', { status: 404 })
        return signed(
          'tcbInfo',
          collateral.tcbInfo,
          collateral.tcbInfoSignature,
          'TCB-Info-Issuer-Chain',
          collateral.tcbInfoChain,
        )
      case '/tdx/certification/v4/qe/identity':
        return signed(
          'enclaveIdentity',
          collateral.qeIdentity,
          collateral.qeIdentitySignature,
          'SGX-Enclave-Identity-Issuer-Chain',
          collateral.qeIdentityChain,
        )
      case '/sgx/certification/v4/pckcrl':
        return new Response(collateral.pckCrl as Uint8Array<ArrayBuffer>, {
          headers: { 'SGX-PCK-CRL-Issuer-Chain': encodeURIComponent(collateral.pckCrlChain) },
        })
      case '/sgx/certification/v4/rootcacrl':
        return new Response(collateral.rootCaCrl as Uint8Array<ArrayBuffer>)
      default:
        return new Response('not found', { status: 404 })
    }
  }
}
