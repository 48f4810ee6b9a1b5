import { concat, EncodingError, equalBytes, fromHex, toHex, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { asn1, DerReader, inside, readOid, readSmall } from './der.ts'
import { parseMembers } from './json.ts'
import type { Policy } from './policy.ts'
import { parseTdxQuote, type TdReport, type TdxQuote, tdxWorkload, UnsupportedQuoteError } from './quote.ts'
import type { Roots } from './roots.ts'
import { type Claim, type Refusal, Refused, require, type TcbStatus, tcbStatuses, type Verdict } from './verdict.ts'
import {
  type Certificate,
  checkCrl,
  checkIssued,
  checkWindow,
  parseCertificate,
  parseCrl,
  parsePem,
  verifyP256,
} from './x509.ts'

/** Holds what Intel publishes about a platform: texts exactly as signed, signatures as hex r ‖ s, chains as PEM, CRLs as DER. */
export type TdxCollateral = {
  tcbInfo: string
  tcbInfoSignature: string
  tcbInfoChain: string
  qeIdentity: string
  qeIdentitySignature: string
  qeIdentityChain: string
  pckCrl: Uint8Array
  pckCrlChain: string
  rootCaCrl: Uint8Array
}

type PckTcb = { components: number[]; pceSvn: number; pceId: string; fmspc: string }

const sgxExtension = '1.2.840.113741.1.13.1'

/** Reads Intel's SGX extension of a PCK certificate (Intel SGX PCK Certificate specification, §1.3.5). Throws EncodingError. */
export function readPckExtension(certificate: Certificate): PckTcb {
  const extension = certificate.extensions.get(sgxExtension)
  if (!extension) throw new EncodingError('The PCK certificate lacks the SGX extension.')
  const components = new Array<number>(16).fill(-1)
  let pceSvn = -1
  let pceId = ''
  let fmspc = ''
  const each = (list: DerReader, visit: (oid: string, value: ReturnType<DerReader['next']>) => void) => {
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
  const outer = new DerReader(extension)
  const list = inside(outer.next(asn1.sequence))
  outer.end()
  each(list, (oid, value) => {
    if (oid === `${sgxExtension}.3`) pceId = toHex(value.content).slice(2)
    if (oid === `${sgxExtension}.4`) fmspc = toHex(value.content).slice(2)
    if (oid !== `${sgxExtension}.2`) return
    each(inside(value), (inner, svn) => {
      const index = Number(inner.slice(`${sgxExtension}.2.`.length))
      if (index >= 1 && index <= 16) components[index - 1] = readSmall(svn)
      else if (index === 17) pceSvn = readSmall(svn)
    })
  })
  if (components.includes(-1) || pceSvn < 0 || pceId.length !== 4 || fmspc.length !== 12) {
    throw new EncodingError('The SGX extension lacks a component, PCESVN, PCE id or FMSPC.')
  }
  return { components, pceSvn, pceId, fmspc }
}

type Level = {
  components?: number[]
  tdx?: number[]
  pceSvn?: number
  isvSvn?: number
  status: TcbStatus
  advisories: string[]
}

function record(value: unknown, where: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new EncodingError(`Collateral: ${where} is not an object.`)
  return value as Record<string, unknown>
}

function array(value: unknown, where: string): unknown[] {
  if (!Array.isArray(value)) throw new EncodingError(`Collateral: ${where} is not a list.`)
  return value
}

function whole(value: unknown, where: string): number {
  if (!Number.isInteger(value) || (value as number) < 0)
    throw new EncodingError(`Collateral: ${where} is not a whole number.`)
  return value as number
}

function hexField(value: unknown, size: number, where: string): Uint8Array {
  if (typeof value !== 'string') throw new EncodingError(`Collateral: ${where} is not hexadecimal.`)
  return fromHex(value, size)
}

function time(value: unknown, where: string): number {
  if (typeof value !== 'string' || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(value))
    throw new EncodingError(`Collateral: ${where} is not a time.`)
  const seconds = Date.parse(value) / 1000
  if (!Number.isFinite(seconds)) throw new EncodingError(`Collateral: ${where} is not a time.`)
  return seconds
}

function readComponents(value: unknown, where: string): number[] {
  const list = array(value, where)
  if (list.length !== 16) throw new EncodingError(`Collateral: ${where} has ${list.length} components, not 16.`)
  return list.map((entry, index) => whole(record(entry, where).svn, `${where}[${index}].svn`))
}

function readLevel(value: unknown, platform: boolean): Level {
  const level = record(value, 'TCB level')
  const tcb = record(level.tcb, 'tcb')
  const status = level.tcbStatus as TcbStatus
  if (!(tcbStatuses as readonly string[]).includes(status)) throw new EncodingError('Collateral: unknown TCB status.')
  time(level.tcbDate, 'tcbDate')
  const advisories = level.advisoryIDs === undefined ? [] : array(level.advisoryIDs, 'advisoryIDs').map(String)
  if (!platform) return { isvSvn: whole(tcb.isvsvn, 'isvsvn'), status, advisories }
  return {
    components: readComponents(tcb.sgxtcbcomponents, 'sgxtcbcomponents'),
    tdx: readComponents(tcb.tdxtcbcomponents, 'tdxtcbcomponents'),
    pceSvn: whole(tcb.pcesvn, 'pcesvn'),
    status,
    advisories,
  }
}

type Signed = { value: Record<string, unknown>; issueDate: number; nextUpdate: number; evaluation: number }

function readSigned(text: string): Signed {
  const { value } = parseMembers(text)
  return {
    value,
    issueDate: time(value.issueDate, 'issueDate'),
    nextUpdate: time(value.nextUpdate, 'nextUpdate'),
    evaluation: whole(value.tcbEvaluationDataNumber, 'tcbEvaluationDataNumber'),
  }
}

/** Turns a malformed-input exception into a refusal. */
function reading<T>(reason: Refusal['reason'], read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof EncodingError) throw new Refused(reason, error.message)
    throw error
  }
}

type Context = { now: number; roots: Roots; policy: Policy }
type Found = Pick<
  Verdict,
  | 'tcbStatus'
  | 'moduleStatus'
  | 'qeStatus'
  | 'advisories'
  | 'measurement'
  | 'reportData'
  | 'debug'
  | 'validUntil'
  | 'claims'
>

/** Reads a chain, checks its windows and signatures, and that it ends in the pinned root. */
async function checkChain(ders: Uint8Array[], leafName: RegExp, { now, roots }: Context): Promise<Certificate[]> {
  const certificates = reading('certificate_invalid', () => ders.map(parseCertificate))
  const root = certificates.at(-1)
  require(root !== undefined &&
    equalBytes(root.der, roots.intel), 'untrusted_root', `The chain does not end in the pinned ${roots.kind} root.`)
  for (const certificate of certificates) checkWindow(certificate, now)
  for (let i = 0; i < certificates.length; i++) await checkIssued(certificates[i]!, certificates[i + 1] ?? root)
  const leaf = certificates[0]!
  require(!leaf.isCa &&
    leafName.test(
      leaf.commonName,
    ), 'certificate_role', `"${leaf.commonName}" does not have the role ${leafName.source}.`)
  return certificates
}

async function checkSigned(
  text: string,
  signature: string,
  chain: string,
  rootCrl: ReturnType<typeof parseCrl>,
  context: Context,
): Promise<Signed & { chainExpiry: number }> {
  // The role matters: without it, a key taken out of any one machine could sign collateral for all of them.
  const pem = reading('certificate_invalid', () => parsePem(chain))
  const [signer, root] = await checkChain(pem, /SGX TCB Signing$/, context)
  require(pem.length === 2, 'certificate_invalid', 'The TCB signing chain is not leaf and root.')
  await checkCrl(rootCrl, root!, [signer!], context.now)
  const bytes = reading('malformed_collateral', () => fromHex(signature, 64))
  require(await verifyP256(
    signer!.publicKey,
    bytes,
    utf8(text),
  ), 'collateral_signature', 'The signature over the collateral text does not verify.')
  const signed = reading('malformed_collateral', () => readSigned(text))
  const { now, policy } = context
  require(now >= signed.issueDate &&
    now <=
      signed.nextUpdate, 'collateral_stale', `Collateral covers ${signed.issueDate} to ${signed.nextUpdate}, now is ${now}.`)
  require(now - signed.issueDate <=
    policy.maxCollateralAgeSeconds, 'collateral_too_old', `Collateral is ${now - signed.issueDate} s old; the policy allows ${policy.maxCollateralAgeSeconds} s.`)
  require(signed.evaluation >=
    policy.minTcbEvaluationDataNumber, 'collateral_too_old', `TCB evaluation ${signed.evaluation} is below the policy's ${policy.minTcbEvaluationDataNumber}.`)
  return { ...signed, chainExpiry: Math.min(signer!.notAfter, root!.notAfter) }
}

const atLeast = (have: ArrayLike<number>, need: readonly number[], from: number) =>
  need.every((svn, index) => index < from || have[index]! >= svn)

function platformLevel(levels: Level[], pck: PckTcb, teeTcbSvn: Uint8Array): Level | undefined {
  // Byte 1 is the module's major version; from 1.5 on, indexes 0 and 1 are judged by the module identity instead (QVL 4.1.2.5.2).
  const from = teeTcbSvn[1]! > 0 ? 2 : 0
  return levels.find(
    (level) =>
      atLeast(pck.components, level.components!, 0) &&
      pck.pceSvn >= level.pceSvn! &&
      atLeast(teeTcbSvn, level.tdx!, from),
  )
}

function masked(actual: Uint8Array, expected: Uint8Array, mask: Uint8Array): boolean {
  return actual.every((byte, index) => (byte & mask[index]!) === (expected[index]! & mask[index]!))
}

function checkModule(tcbInfo: Record<string, unknown>, body: TdReport, teeTcbSvn: Uint8Array): Level | null {
  const major = teeTcbSvn[1]!
  let identity = record(tcbInfo.tdxModule, 'tdxModule')
  let levels: Level[] | null = null
  if (major > 0) {
    const id = `TDX_${major.toString(16).padStart(2, '0').toUpperCase()}`
    const found = array(tcbInfo.tdxModuleIdentities, 'tdxModuleIdentities')
      .map((entry) => record(entry, 'module identity'))
      .find((entry) => entry.id === id)
    require(found !== undefined, 'module_mismatch', `The TCB info knows no module ${id}.`)
    identity = found
    levels = array(found.tcbLevels, 'module tcbLevels').map((level) => readLevel(level, false))
  }
  require(equalBytes(
    body.mrSignerSeam,
    hexField(identity.mrsigner, 48, 'module mrsigner'),
  ), 'module_mismatch', "MRSIGNERSEAM is not the module identity's signer.")
  const attributes = hexField(identity.attributes, 8, 'module attributes')
  require(masked(body.seamAttributes, attributes, hexField(identity.attributesMask, 8, 'module attributesMask')) &&
    body.seamAttributes.every(
      (byte) => byte === 0,
    ), 'module_mismatch', "SEAMATTRIBUTES are not the module identity's, or not zero.")
  if (!levels) return null
  const level = levels.find((candidate) => teeTcbSvn[0]! >= candidate.isvSvn!)
  require(level !== undefined, 'tcb_status', 'No level of the module identity matches the module.')
  return level
}

function qeLevel(identity: Record<string, unknown>, report: Uint8Array): Level {
  const view = new DataView(report.buffer, report.byteOffset, report.byteLength)
  const little = (text: unknown, where: string) => new DataView(hexField(text, 4, where).slice().buffer).getUint32(0)
  require(identity.id === 'TD_QE' &&
    whole(identity.version, 'version') >= 2, 'qe_identity_mismatch', 'The identity is not TD_QE version 2.')
  const mask = little(identity.miscselectMask, 'miscselectMask')
  require((view.getUint32(16, true) & mask) ===
    (little(identity.miscselect, 'miscselect') & mask), 'qe_identity_mismatch', 'MISCSELECT differs.')
  require(masked(
    report.subarray(48, 64),
    hexField(identity.attributes, 16, 'attributes'),
    hexField(identity.attributesMask, 16, 'attributesMask'),
  ), 'qe_identity_mismatch', 'ATTRIBUTES differ.')
  require(equalBytes(
    report.subarray(128, 160),
    hexField(identity.mrsigner, 32, 'mrsigner'),
  ), 'qe_identity_mismatch', 'MRSIGNER differs.')
  require(view.getUint16(256, true) ===
    whole(identity.isvprodid, 'isvprodid'), 'qe_identity_mismatch', 'ISVPRODID differs.')
  const svn = view.getUint16(258, true)
  const level = array(identity.tcbLevels, 'QE tcbLevels')
    .map((entry) => readLevel(entry, false))
    .find((candidate) => svn >= candidate.isvSvn!)
  require(level !== undefined, 'tcb_status', `No level of the quoting enclave's identity matches ISVSVN ${svn}.`)
  return level
}

/** Lowers a platform's status by its module's or quoting enclave's (QVL convergence): revoked wins, out of date spreads. */
export function convergeStatus(platform: TcbStatus, other: TcbStatus): TcbStatus {
  if (platform === 'Revoked' || other === 'Revoked') return 'Revoked'
  if (platform === 'NotSupported' || other === 'NotSupported') return 'NotSupported'
  if (other !== 'OutOfDate') return platform
  if (platform === 'UpToDate' || platform === 'SWHardeningNeeded') return 'OutOfDate'
  if (platform === 'ConfigurationNeeded' || platform === 'ConfigurationAndSWHardeningNeeded')
    return 'OutOfDateConfigurationNeeded'
  return platform
}

async function checkSignatures(quote: TdxQuote, pck: Certificate): Promise<void> {
  require(await verifyP256(
    pck.publicKey,
    quote.qeReportSignature,
    quote.qeReport,
  ), 'qe_report_signature', "The PCK key did not sign the quoting enclave's report.")
  const bound = concat(sha256(concat(quote.attestationKey, quote.qeAuthData)), new Uint8Array(32))
  require(equalBytes(
    quote.qeReport.subarray(320, 384),
    bound,
  ), 'qe_report_binding', 'The quoting enclave vouches for another attestation key.')
  require(await verifyP256(
    concat(new Uint8Array([4]), quote.attestationKey),
    quote.signature,
    quote.signed,
  ), 'quote_signature', 'The attestation key did not sign this quote.')
}

function checkAttributes(body: TdReport): void {
  const attributes = body.tdAttributes
  require((attributes[0]! & 0x01) === 0, 'debug', 'The trust domain is in debug mode: its memory can be read.')
  require((attributes[3]! & 0x10) !== 0, 'attributes', 'SEPT_VE_DISABLE is not set.')
  // Bits 28 (SEPT_VE_DISABLE) and 27 (LASS) may be set; every other one loosens isolation or has no meaning yet. Bit 29 is MIGRATABLE.
  const allowed = [0, 0, 0, 0x18, 0, 0, 0, 0]
  require(attributes.every(
    (byte, index) => (byte & ~allowed[index]!) === 0,
  ), 'attributes', `TD attributes ${toHex(attributes)} set a bit the policy does not allow.`)
  require(body.mrServiceTd === null ||
    body.mrServiceTd.every(
      (byte) => byte === 0,
    ), 'attributes', 'A service TD is bound to this one and could move its state.')
}

/** Runs Intel's whole algorithm (DCAP quote verification library, appraisal included) over a quote; throws Refused at the first check that fails. `found` is filled in as facts become known. */
async function verify(
  quoteBytes: Uint8Array,
  collateral: TdxCollateral,
  context: Context,
  found: Found,
): Promise<void> {
  const { now, policy } = context
  const assert = (claim: string, detail: string, source: Claim['source'] = 'verifier') =>
    found.claims.push({ claim, status: 'asserted', source, detail })

  let quote: TdxQuote
  try {
    quote = parseTdxQuote(quoteBytes)
  } catch (error) {
    if (error instanceof UnsupportedQuoteError) throw new Refused('unsupported_quote', error.message)
    if (error instanceof EncodingError) throw new Refused('malformed_quote', error.message)
    throw error
  }
  const { body } = quote
  found.reportData = toHex(body.reportData)
  found.debug = (body.tdAttributes[0]! & 0x01) !== 0
  found.measurement = {
    workload: tdxWorkload(body),
    mrtd: toHex(body.mrTd),
    rtmr0: toHex(body.rtmr[0]),
    rtmr1: toHex(body.rtmr[1]),
    rtmr2: toHex(body.rtmr[2]),
    rtmr3: toHex(body.rtmr[3]),
    mrconfigid: toHex(body.mrConfigId),
    xfam: toHex(body.xfam),
    tdattributes: toHex(body.tdAttributes),
  }

  const [pck, intermediate, root] = (await checkChain(quote.chain, /SGX PCK Certificate$/, context)) as [
    Certificate,
    Certificate,
    Certificate,
  ]
  require(/SGX PCK (Platform|Processor) CA$/.test(
    intermediate.commonName,
  ), 'certificate_role', `"${intermediate.commonName}" is not a PCK CA.`)
  require(/SGX Root CA$/.test(root.commonName), 'certificate_role', `"${root.commonName}" is not the root.`)
  const rootCrl = reading('crl_invalid', () => parseCrl(collateral.rootCaCrl))
  const pckCrl = reading('crl_invalid', () => parseCrl(collateral.pckCrl))
  await checkCrl(rootCrl, root, [intermediate], now)
  await checkCrl(pckCrl, intermediate, [pck], now)
  assert(
    'platform_genuine',
    `"${pck.commonName}" chains to the pinned ${context.roots.kind} root; neither it nor its issuer is revoked.`,
    'hardware',
  )

  const tcb = await checkSigned(
    collateral.tcbInfo,
    collateral.tcbInfoSignature,
    collateral.tcbInfoChain,
    rootCrl,
    context,
  )
  const qe = await checkSigned(
    collateral.qeIdentity,
    collateral.qeIdentitySignature,
    collateral.qeIdentityChain,
    rootCrl,
    context,
  )
  found.validUntil = Math.min(
    ...[pck, intermediate, root].map((certificate) => certificate.notAfter),
    rootCrl.nextUpdate,
    pckCrl.nextUpdate,
    tcb.nextUpdate,
    tcb.issueDate + policy.maxCollateralAgeSeconds,
    tcb.chainExpiry,
    qe.nextUpdate,
    qe.issueDate + policy.maxCollateralAgeSeconds,
    qe.chainExpiry,
  )

  const pckTcb = reading('certificate_invalid', () => readPckExtension(pck))
  require(!policy.deniedFmspcs.includes(pckTcb.fmspc), 'platform_denied', `The policy denies platform ${pckTcb.fmspc}.`)
  await checkSignatures(quote, pck)
  assert('quote_signed', 'PCK key → quoting enclave → attestation key → quote: each signature verifies.', 'hardware')

  reading('malformed_collateral', () => {
    const info = tcb.value
    require(info.id === 'TDX' &&
      whole(info.version, 'version') >= 3, 'collateral_mismatch', 'The TCB info is not TDX version 3.')
    require(String(info.fmspc).toLowerCase() ===
      pckTcb.fmspc, 'collateral_mismatch', `TCB info is for ${info.fmspc}, the platform is ${pckTcb.fmspc}.`)
    require(String(info.pceId).toLowerCase() ===
      pckTcb.pceId, 'collateral_mismatch', `TCB info is for PCE ${info.pceId}, the platform has ${pckTcb.pceId}.`)
    const levels = array(info.tcbLevels, 'tcbLevels').map((level) => readLevel(level, true))

    const quoting = qeLevel(qe.value, quote.qeReport)
    found.qeStatus = quoting.status
    const module = checkModule(info, body, body.teeTcbSvn)
    found.moduleStatus = module?.status ?? null
    const launch = platformLevel(levels, pckTcb, body.teeTcbSvn)
    let status: TcbStatus = launch?.status ?? 'NotSupported'
    const matched = [launch, module, quoting]
    if (body.teeTcbSvn2) {
      // A 1.5 body also reports the TCB as it is now; the worse of launch and now counts.
      const current = platformLevel(levels, pckTcb, body.teeTcbSvn2)
      const currentModule = checkModule(info, body, body.teeTcbSvn2)
      matched.push(current, currentModule)
      const now = convergeStatus(current?.status ?? 'NotSupported', currentModule?.status ?? 'UpToDate')
      status = tcbRank(now) > tcbRank(status) ? now : status
    }
    status = convergeStatus(convergeStatus(status, module?.status ?? 'UpToDate'), quoting.status)
    found.tcbStatus = status
    found.advisories = [...new Set(matched.flatMap((level) => level?.advisories ?? []))]
  })
  checkAttributes(body)
  assert('isolated', 'Not in debug mode, SEPT_VE_DISABLE set, no service TD.', 'hardware')
  require(policy.tcbStatuses.includes(
    found.tcbStatus!,
  ), 'tcb_status', `TCB status ${found.tcbStatus} is not among ${policy.tcbStatuses.join(', ')}.`)
  assert('tcb_current', `Platform ${found.tcbStatus}, evaluation ${tcb.evaluation}.`)
  if (policy.workloads === 'any') {
    found.claims.push({
      claim: 'workload_allowed',
      status: 'unknown',
      source: 'verifier',
      detail: 'The policy lists no workloads; compare the measurement yourself.',
    })
  } else {
    const { workload } = found.measurement
    require(policy.workloads.includes(
      workload,
    ), 'measurement_not_allowed', `Workload ${workload} is not on the policy's list.`)
    assert('workload_allowed', `Workload ${workload} is on the policy's list.`)
  }
}

function tcbRank(status: TcbStatus): number {
  return status === 'NotSupported' ? tcbStatuses.length : tcbStatuses.indexOf(status)
}

/** Verifies a TDX quote against collateral: a verdict, never an exception, for any bytes. Pure in its arguments; `now` in unix seconds. */
export async function verifyTdx(
  quote: Uint8Array,
  collateral: TdxCollateral | null,
  context: Context,
): Promise<Verdict> {
  const found: Found = {
    tcbStatus: null,
    moduleStatus: null,
    qeStatus: null,
    advisories: [],
    measurement: null,
    reportData: null,
    debug: null,
    validUntil: 0,
    claims: [
      {
        claim: 'physically_untampered',
        status: 'unknown',
        source: 'operator',
        detail: 'No quote can show that nobody has tapped the memory bus.',
      },
    ],
  }
  const base = { tee: 'tdx', root: context.roots.kind } as const
  if (!collateral) {
    found.claims.push({
      claim: 'collateral',
      status: 'unknown',
      source: 'verifier',
      detail: 'No collateral: nothing was checked.',
    })
    return { ...base, ...found, verdict: 'unknown', refusals: [] }
  }
  try {
    await verify(quote, collateral, context, found)
    return { ...base, ...found, verdict: 'verified', refusals: [] }
  } catch (error) {
    // Anything but a refusal is a defect of the verifier, and a defect must never verify.
    const refusal: Refusal =
      error instanceof Refused
        ? error.refusal
        : { reason: 'malformed_quote', detail: 'The evidence could not be read.' }
    found.claims.push({ claim: refusal.reason, status: 'refuted', source: 'verifier', detail: refusal.detail })
    return { ...base, ...found, verdict: 'refuted', validUntil: 0, refusals: [refusal] }
  }
}
