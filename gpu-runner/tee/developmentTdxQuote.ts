import { concat, uint, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'
import { type P256Key, pemChain, signP256, type TdxCertificates } from './developmentTdxCertificates.ts'
import { derive, developmentQeSigner, type TdxMachine } from './developmentTdxMachine.ts'

const little = (value: number, width: number) => uint(value, width).reverse()

/** Writes a quote over 64 bytes of report data. `attestation` is the key that the quoting enclave vouches for. */
export function writeTdxQuote(
  { machine, certificates, attestation }: { machine: TdxMachine; certificates: TdxCertificates; attestation: P256Key },
  reportData: Uint8Array,
  version: 4 | 5,
): Uint8Array<ArrayBuffer> {
  const { has } = machine
  const report = tdReport(machine, reportData, version)
  const descriptor = version === 5 ? concat(little(3, 2), little(648, 4)) : new Uint8Array(0)
  const signed = concat(quoteHeader(version), descriptor, report)
  const certification = certify(machine, certificates, attestation)
  const publicKey = attestation.publicKey.slice(1)
  if (has('key_off_curve')) publicKey[63]! ^= 1
  const signature = has('zero_signature') ? new Uint8Array(64) : signP256(attestation, signed)
  const auth = concat(signature, publicKey, little(6, 2), little(certification.length, 4), certification)
  const tail = has('trailing_bytes') ? new Uint8Array(70).fill(0xee) : new Uint8Array(0)
  return concat(signed, little(auth.length, 4), auth, tail)
}

function quoteHeader(version: 4 | 5): Uint8Array {
  return concat(
    little(version, 2),
    little(2, 2),
    little(0x81, 4),
    new Uint8Array(4),
    new Uint8Array([0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07]),
    new Uint8Array(20),
  )
}

function measure(machine: TdxMachine, label: string): Uint8Array {
  const measured = `measure ${machine.workload} ${label}`
  return concat(derive(machine, measured), derive(machine, `${measured} more`)).slice(0, 48)
}

/** Writes what the TDX module reports of the guest. Throws RangeError unless the report data has 64 bytes. */
function tdReport(machine: TdxMachine, reportData: Uint8Array, version: 4 | 5): Uint8Array {
  if (reportData.length !== 64) throw new RangeError(`Report data takes 64 bytes, got ${reportData.length}.`)
  const { has } = machine
  const bytes = new Uint8Array(version === 4 ? 584 : 648)
  bytes.set([5, 1, 2], 0)
  bytes.set(measure(machine, 'seam'), 16)
  const attributes = new Uint8Array(8)
  attributes[3] = has('no_sept_ve') ? 0 : 0x10
  if (has('debug')) attributes[0] = 1
  if (has('migratable')) attributes[3]! |= 0x20
  bytes.set(attributes, 120)
  bytes.set([0xe7, 0x02, 0x06], 128)
  bytes.set(measure(machine, 'mrtd'), 136)
  for (const register of [0, 1, 2, 3]) bytes.set(measure(machine, `rtmr${register}`), 328 + 48 * register)
  bytes.set(reportData, 520)
  if (version === 5) {
    bytes.set([5, 1, 2], 584)
    if (has('service_td')) bytes[600] = 1
  }
  return bytes
}

/** Writes the quoting enclave's report on the attestation key, signed by the platform, and the platform's certificates. */
function certify(machine: TdxMachine, { pck, platformCa, root }: TdxCertificates, attestation: P256Key): Uint8Array {
  const authData = Uint8Array.from({ length: 32 }, (_, index) => index)
  const report = qeReport(
    machine,
    machine.has('qe_unbound')
      ? derive(machine, 'another key')
      : sha256(concat(attestation.publicKey.subarray(1), authData)),
  )
  const chain = utf8(pemChain(pck, platformCa, root))
  return concat(
    report,
    signP256(pck.key, report),
    little(32, 2),
    authData,
    little(5, 2),
    little(chain.length, 4),
    chain,
  )
}

function qeReport(machine: TdxMachine, reportData: Uint8Array): Uint8Array {
  const report = new Uint8Array(384)
  report.fill(5, 0, 8)
  report[48] = 0x11
  report.set(derive(machine, 'qe mrenclave'), 64)
  for (let i = 0; i < 32; i++) report[128 + i] = Number.parseInt(developmentQeSigner.slice(i * 2, i * 2 + 2), 16)
  report[256] = 2
  report[258] = 4
  report.set(reportData, 320)
  return report
}
