import { concat, toHex, utf8 } from '../../protocol/bytes.ts'
import type { CollateralOf } from '../../protocol/evidence/index.ts'
import {
  issueTdxCrl,
  p256Key,
  pemChain,
  signP256,
  type TdxCertificate,
  type TdxCertificates,
} from './developmentTdxCertificates.ts'
import { developmentFmspc, developmentQeSigner, type TdxMachine } from './developmentTdxMachine.ts'

const day = 86_400
const pceId = '0000'
const seamSigner = '00'.repeat(48)

/** Writes a machine's collateral as of now. */
export function writeTdxCollateral(machine: TdxMachine, certificates: TdxCertificates): CollateralOf<'tdx'> {
  const { has } = machine
  const { root, platformCa, pck, tcbSigner } = certificates
  const info = tcbInfo(machine)
  const identity = qeIdentity(machine)
  const signer = has('tcb_signed_by_leaf')
    ? { certificate: pck, chain: pemChain(pck, platformCa, root) }
    : { certificate: tcbSigner, chain: pemChain(tcbSigner, root) }
  const rootCrl = crl(machine, root, [
    ...(has('revoked_intermediate') ? [platformCa] : []),
    ...(has('revoked_tcb_signer') ? [tcbSigner] : []),
  ])
  const signatureOf = (text: string) => toHex(signP256(signer.certificate.key, utf8(text))).slice(2)
  return {
    format: 'tdx',
    tcbInfo: has('tcb_changed') ? info.replace('UpToDate', 'upToDate') : info,
    tcbInfoSignature: signatureOf(info),
    tcbInfoChain: signer.chain,
    qeIdentity: has('qe_changed') ? identity.replace('"isvsvn":4', '"isvsvn":3') : identity,
    qeIdentitySignature: signatureOf(identity),
    qeIdentityChain: signer.chain,
    pckCrl: crl(machine, platformCa, has('revoked_leaf') ? [pck] : []),
    pckCrlChain: pemChain(platformCa, root),
    rootCaCrl: has('non_minimal_der') ? lengthen(rootCrl) : rootCrl,
  }
}

/** Collateral is dated to the start of the hour, so that two requests a moment apart give the same bytes. */
const startOfHour = ({ now }: TdxMachine) => Math.floor(now() / 3600) * 3600

function validity(machine: TdxMachine) {
  const iso = (seconds: number) => new Date(seconds * 1000).toISOString().replace('.000Z', 'Z')
  const issueDate = startOfHour(machine) - (machine.has('stale_tcb') ? 60 * day : 0)
  return { issueDate: iso(issueDate), nextUpdate: iso(issueDate + 30 * day) }
}

// Members stand in the vendor's order: the chain compares the text with the vendor's template.
function tcbInfo(machine: TdxMachine): string {
  const { has } = machine
  const text = JSON.stringify({
    id: 'TDX',
    version: 3,
    ...validity(machine),
    fmspc: has('tcb_wrong_fmspc') ? '00A55A700001' : developmentFmspc.toUpperCase(),
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
    tcbLevels: tcbLevels(machine),
  })
  return has('tcb_duplicate_key') ? text.replace('{', '{"version":3,') : text
}

function tcbLevels({ has }: TdxMachine) {
  const count = has('tcb_15_components') ? 15 : has('tcb_17_components') ? 17 : 16
  const components = (values: number[]) => Array.from({ length: count }, (_, index) => ({ svn: values[index] ?? 0 }))
  const level = (sgx: number, pcesvn: number, tcbStatus: string, extra = {}) => ({
    tcb: { sgxtcbcomponents: components(new Array(8).fill(sgx)), pcesvn, tdxtcbcomponents: components([5, 0, 2]) },
    tcbDate: '2026-01-01T00:00:00Z',
    tcbStatus,
    ...extra,
  })
  const newest = has('tcb_out_of_date') ? 6 : 5
  return [
    level(newest, 13, has('tcb_revoked') ? 'Revoked' : 'UpToDate'),
    level(2, 5, 'OutOfDate', { tcbDate: '2025-01-01T00:00:00Z', advisoryIDs: ['ASSAY-DEV-00001'] }),
  ]
}

function qeIdentity(machine: TdxMachine): string {
  return JSON.stringify({
    id: 'TD_QE',
    version: 2,
    ...validity(machine),
    tcbEvaluationDataNumber: 18,
    miscselect: '00000000',
    miscselectMask: 'FFFFFFFF',
    attributes: `11${'00'.repeat(15)}`,
    attributesMask: 'FBFFFFFFFFFFFFFF0000000000000000',
    mrsigner: machine.has('qe_wrong_signer') ? 'ab'.repeat(32) : developmentQeSigner,
    isvprodid: 2,
    tcbLevels: [{ tcb: { isvsvn: 4 }, tcbDate: '2026-01-01T00:00:00Z', tcbStatus: 'UpToDate' }],
  })
}

function crl(machine: TdxMachine, issuer: TdxCertificate, revoked: readonly TdxCertificate[]): Uint8Array {
  const { has } = machine
  if (has('empty_crl_bytes')) return new Uint8Array([0])
  return issueTdxCrl({
    issuer,
    ...(has('foreign_crl') ? { signer: p256Key(machine, 'foreign crl') } : {}),
    revoked,
    thisUpdate: startOfHour(machine) - (has('stale_crl') ? 60 * day : 0),
  })
}

/** Writes an element's length in one byte more than it needs, which BER allows and DER does not. */
function lengthen(der: Uint8Array): Uint8Array {
  return concat(new Uint8Array([der[0]!, 0x83, 0x00]), der.subarray(2))
}
