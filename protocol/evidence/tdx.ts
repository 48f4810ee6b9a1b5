import { concat, EncodingError, equalBytes, type Hex, toHex } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { type EvidenceCache, noCache } from './cache.ts'
import { step } from './checks.ts'
import { assert, checkWorkload, type EvidenceContext, type Found, judge } from './judge.ts'
import { type PckPlatform, readPckExtension } from './pck.ts'
import type { Policy, TdxMeasurements } from './policy.ts'
import { parseTdxQuote, type TdReport, type TdxQuote, tdxWorkload, UnsupportedQuoteError } from './quote.ts'
import {
  checkDates,
  type Level,
  type QeIdentity,
  type TcbInfo,
  type TdxCollateral,
  unwrap,
  type VettedTdxCollateral,
  vetTdxCollateral,
} from './tdxCollateral.ts'
import { Refused, reading, require, type TcbStatus, tcbRank, type Verdict } from './verdict.ts'
import {
  type Certificate,
  type Crl,
  checkCrlSignature,
  checkCrlStatus,
  checkIssued,
  checkWindow,
  parseCertificate,
  verifyP256,
} from './x509.ts'

export type { TdxCollateral } from './tdxCollateral.ts'

type Chain = { pck: Certificate; intermediate: Certificate; root: Certificate }

/** Reads and checks the PCK chain: pinned root, names, roles, signatures. The two issuers are the same for every machine, so they are remembered. */
async function checkPckChain(
  quote: TdxQuote,
  context: Required<Pick<EvidenceContext, 'cache'>> & EvidenceContext,
): Promise<Chain> {
  const { roots, cache, now } = context
  const [leafDer, intermediateDer, rootDer] = quote.chain as [Uint8Array, Uint8Array, Uint8Array]
  require(equalBytes(
    rootDer,
    roots.intel,
  ), 'untrusted_root', `The chain does not end in the pinned ${roots.kind} root.`)
  const issuers = await cache.remember(
    `tdx issuers ${toHex(sha256(concat(sha256(rootDer), sha256(intermediateDer))))}`,
    async () => {
      const [intermediate, root] = reading('certificate_invalid', () => [
        parseCertificate(intermediateDer),
        parseCertificate(rootDer),
      ]) as [Certificate, Certificate]
      await checkIssued(root, root)
      await checkIssued(intermediate, root)
      return { intermediate, root }
    },
  )
  const { intermediate, root } = issuers
  const pck = reading('certificate_invalid', () => parseCertificate(leafDer))
  for (const certificate of [pck, intermediate, root]) checkWindow(certificate, now)
  await checkIssued(pck, intermediate)
  const role = (certificate: Certificate, name: RegExp) =>
    require(name.test(
      certificate.commonName,
    ), 'certificate_role', `"${certificate.commonName}" does not have the role ${name.source}.`)
  require(!pck.isCa, 'certificate_role', `"${pck.commonName}" is a certificate authority, not a platform.`)
  role(pck, /SGX PCK Certificate$/)
  role(intermediate, /SGX PCK (Platform|Processor) CA$/)
  role(root, /SGX Root CA$/)
  return { pck, intermediate, root }
}

const atLeast = (have: ArrayLike<number>, need: readonly number[], from: number) =>
  need.every((svn, index) => index < from || have[index]! >= svn)

function platformLevel(levels: Level[], pck: PckPlatform, teeTcbSvn: Uint8Array): Level | undefined {
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

function checkModule(tcbInfo: TcbInfo, body: TdReport, teeTcbSvn: Uint8Array): Level | null {
  const major = teeTcbSvn[1]!
  let identity = tcbInfo.module
  if (major > 0) {
    const id = `TDX_${major.toString(16).padStart(2, '0').toUpperCase()}`
    const found = tcbInfo.modules.find((entry) => entry.id === id)
    require(found !== undefined, 'module_mismatch', `The TCB info knows no module ${id}.`)
    identity = found
  }
  require(equalBytes(
    body.mrSignerSeam,
    identity.mrSigner,
  ), 'module_mismatch', "MRSIGNERSEAM is not the module identity's signer.")
  require(masked(body.seamAttributes, identity.attributes, identity.mask) &&
    body.seamAttributes.every(
      (byte) => byte === 0,
    ), 'module_mismatch', "SEAMATTRIBUTES are not the module identity's, or not zero.")
  if (!identity.levels) return null
  const level = identity.levels.find((candidate) => teeTcbSvn[0]! >= candidate.isvSvn!)
  require(level !== undefined, 'tcb_status', 'No level of the module identity matches the module.')
  return level
}

function checkQe(identity: QeIdentity, report: Uint8Array): Level {
  const view = new DataView(report.buffer, report.byteOffset, report.byteLength)
  const same = (holds: boolean, field: string) => require(holds, 'qe_identity_mismatch', `${field} differs.`)
  const mask = identity.miscSelectMask
  same((view.getUint32(16, true) & mask) === (identity.miscSelect & mask), 'MISCSELECT')
  same(masked(report.subarray(48, 64), identity.attributes, identity.attributesMask), 'ATTRIBUTES')
  same(equalBytes(report.subarray(128, 160), identity.mrSigner), 'MRSIGNER')
  same(view.getUint16(256, true) === identity.isvProdId, 'ISVPRODID')
  const svn = view.getUint16(258, true)
  const level = identity.levels.find((candidate) => svn >= candidate.isvSvn!)
  require(level !== undefined, 'tcb_status', `No level of the quoting enclave's identity matches ISVSVN ${svn}.`)
  return level
}

/** Lowers a platform's status by its module's or quoting enclave's (QVL convergence): revoked wins, out of date spreads. */
function convergeStatus(platform: TcbStatus, other: TcbStatus): TcbStatus {
  if (platform === 'Revoked' || other === 'Revoked') return 'Revoked'
  if (platform === 'NotSupported' || other === 'NotSupported') return 'NotSupported'
  if (other !== 'OutOfDate') return platform
  if (platform === 'UpToDate' || platform === 'SWHardeningNeeded') return 'OutOfDate'
  if (platform === 'ConfigurationNeeded' || platform === 'ConfigurationAndSWHardeningNeeded')
    return 'OutOfDateConfigurationNeeded'
  return platform
}

async function checkSignatures(quote: TdxQuote, pck: Certificate): Promise<void> {
  const [qeSigned, quoteSigned] = await Promise.all([
    verifyP256(pck.publicKey, quote.qeReportSignature, quote.qeReport),
    verifyP256(concat(new Uint8Array([4]), quote.attestationKey), quote.signature, quote.signed),
  ])
  require(qeSigned, 'qe_report_signature', "The PCK key did not sign the quoting enclave's report.")
  const bound = concat(sha256(concat(quote.attestationKey, quote.qeAuthData)), new Uint8Array(32))
  require(equalBytes(
    quote.qeReport.subarray(320, 384),
    bound,
  ), 'qe_report_binding', 'The quoting enclave vouches for another attestation key.')
  require(quoteSigned, 'quote_signature', 'The attestation key did not sign this quote.')
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

function measure(body: TdReport) {
  return {
    workload: tdxWorkload(body),
    mrseam: toHex(body.mrSeam),
    mrtd: toHex(body.mrTd),
    rtmr0: toHex(body.rtmr[0]),
    rtmr1: toHex(body.rtmr[1]),
    rtmr2: toHex(body.rtmr[2]),
    rtmr3: toHex(body.rtmr[3]),
    mrconfigid: toHex(body.mrConfigId),
    xfam: toHex(body.xfam),
    tdattributes: toHex(body.tdAttributes),
  }
}

function readQuote(bytes: Uint8Array): TdxQuote {
  try {
    return parseTdxQuote(bytes)
  } catch (error) {
    if (error instanceof UnsupportedQuoteError) throw new Refused('unsupported_quote', error.message)
    if (error instanceof EncodingError) throw new Refused('malformed_quote', error.message)
    throw error
  }
}

/** Judges a platform's TCB by Intel's tables (QVL 4.1.2.5.2): platform, module and quoting enclave, at launch and, for 1.5 bodies, now. */
function judgeTcb(quote: TdxQuote, platform: PckPlatform, tcbInfo: TcbInfo, qe: QeIdentity) {
  const { body } = quote
  const quoting = checkQe(qe, quote.qeReport)
  const module = checkModule(tcbInfo, body, body.teeTcbSvn)
  const launch = platformLevel(tcbInfo.levels, platform, body.teeTcbSvn)
  let status: TcbStatus = launch?.status ?? 'NotSupported'
  const matched = [launch, module, quoting]
  if (body.teeTcbSvn2) {
    // A 1.5 body also reports the TCB as it is now; the worse of launch and now counts.
    const current = platformLevel(tcbInfo.levels, platform, body.teeTcbSvn2)
    const currentModule = checkModule(tcbInfo, body, body.teeTcbSvn2)
    matched.push(current, currentModule)
    const now = convergeStatus(current?.status ?? 'NotSupported', currentModule?.status ?? 'UpToDate')
    status = tcbRank(now) > tcbRank(status) ? now : status
  }
  status = convergeStatus(convergeStatus(status, module?.status ?? 'UpToDate'), quoting.status)
  return { status, module, quoting, matched: matched.filter((level) => level != null) }
}

/** Tells when a platform fell behind: the earliest date of a level better than the one it matches. Null where it matches the newest. */
function behindSince(matched: Level[], tcbInfo: TcbInfo, qe: QeIdentity): number | null {
  const tables = [tcbInfo.levels, qe.levels, ...tcbInfo.modules.map((module) => module.levels!)]
  const dates = matched.flatMap((level) => {
    const table = tables.find((candidate) => candidate.includes(level))
    const better = (table ?? []).slice(0, table?.indexOf(level)).filter((candidate) => candidate.date > level.date)
    return better.length > 0 ? [Math.min(...better.map((candidate) => candidate.date))] : []
  })
  return dates.length > 0 ? Math.min(...dates) : null
}

function checkStatus(
  status: TcbStatus,
  behind: number | null,
  { now, policy }: Pick<EvidenceContext, 'now' | 'policy'>,
): { detail: string; until: number } {
  if (policy.tcbStatuses.includes(status)) return { detail: `Platform ${status}`, until: Number.POSITIVE_INFINITY }
  const lacking = `TCB status ${status} is not among ${policy.tcbStatuses.join(', ')}`
  const graced = (status === 'OutOfDate' || status === 'OutOfDateConfigurationNeeded') && policy.graceSeconds > 0
  require(graced && behind !== null, 'tcb_status', `${lacking}.`)
  const until = behind + policy.graceSeconds
  require(now <= until, 'tcb_status', `${lacking}, and its grace ended at ${until}.`)
  return { detail: `Platform ${status}, within its grace until ${until}`, until }
}

function checkMeasurements(measurement: Record<string, Hex>, { tdxMeasurements }: Policy): void {
  const equal = (wanted: TdxMeasurements) =>
    Object.entries(wanted).every(([field, value]) => measurement[field] === value)
  require(tdxMeasurements === 'any' ||
    tdxMeasurements.some(equal), 'measurement_not_allowed', "The TD's measurements equal no set on the policy's list.")
}

async function checkRevocation(chain: Chain, vetted: VettedTdxCollateral, now: number): Promise<[Crl, Crl]> {
  const rootCrl = unwrap(vetted.rootCrl)
  checkCrlStatus(rootCrl, chain.root, [chain.intermediate], now)
  const pckCrl = unwrap(vetted.pckCrl)
  await checkCrlSignature(pckCrl, chain.intermediate)
  checkCrlStatus(pckCrl, chain.intermediate, [chain.pck], now)
  return [rootCrl, pckCrl]
}

/** Runs Intel's whole algorithm (DCAP quote verification library, appraisal included) over a quote; throws Refused at the first check that fails. `found` is filled in as facts become known. */
async function verify(
  quoteBytes: Uint8Array,
  collateral: TdxCollateral,
  context: EvidenceContext & { cache: EvidenceCache },
  found: Found,
): Promise<undefined> {
  const { now, policy, roots, cache, trace } = context
  const quote = await step(
    trace,
    {
      check: 'quote format',
      compared: 'header, body, signature data',
      with: 'quote version 4 or 5, TDX 1.0 or 1.5',
      from: 'evidence',
    },
    (row) => {
      const read = readQuote(quoteBytes)
      row.compared = `version ${read.version}, body of TDX ${read.body.teeTcbSvn2 ? '1.5' : '1.0'}`
      return read
    },
  )
  const { body } = quote
  found.reportData = toHex(body.reportData)
  found.debug = (body.tdAttributes[0]! & 0x01) !== 0
  const measurement = measure(body)
  found.measurement = measurement

  const chain = await step(
    trace,
    {
      check: 'PCK chain',
      compared: 'leaf, intermediate, root',
      with: `pinned ${roots.kind} root, roles, validity`,
      from: 'evidence and roots',
    },
    async (row) => {
      const checked = await checkPckChain(quote, context)
      row.compared = [checked.pck, checked.intermediate, checked.root].map(({ commonName }) => commonName).join(' ← ')
      return checked
    },
  )
  const { pck, intermediate, root } = chain
  const vetted = await vetTdxCollateral(collateral, { roots, cache })
  const [rootCrl, pckCrl] = await step(
    trace,
    {
      check: 'revocation',
      compared: 'serials of intermediate and leaf',
      with: 'root and PCK CRL, signed and in their window',
      from: 'collateral',
    },
    (row) => {
      row.compared = `serials ${intermediate.serial} and ${pck.serial}`
      return checkRevocation(chain, vetted, now)
    },
  )
  assert(
    found,
    'platform_genuine',
    `"${pck.commonName}" chains to the pinned ${roots.kind} root; neither it nor its issuer is revoked.`,
    'hardware',
  )

  const signed = async <T extends TcbInfo | QeIdentity>(name: string, part: () => T): Promise<T> =>
    step(
      trace,
      {
        check: name,
        compared: 'signature over its exact text, dates, evaluation number',
        with: `TCB signing certificate, clock, policy ${policy.version}`,
        from: 'collateral',
      },
      (row) => {
        const document = part()
        row.compared = `signature over its exact text, issued ${new Date(document.issueDate * 1000).toISOString()}, evaluation ${document.evaluation}`
        checkWindow(document.signer, now)
        checkCrlStatus(rootCrl, root, [document.signer], now)
        checkDates(document, now, policy)
        return document
      },
    )
  const tcbInfo = await signed('TCB info', () => unwrap(vetted.tcbInfo))
  const qe = await signed('QE identity', () => unwrap(vetted.qeIdentity))
  found.validUntil = Math.min(
    ...[pck, intermediate, root, tcbInfo.signer, qe.signer].map((certificate) => certificate.notAfter),
    rootCrl.nextUpdate,
    pckCrl.nextUpdate,
    ...[tcbInfo, qe].flatMap(({ nextUpdate, issueDate }) => [nextUpdate, issueDate + policy.maxCollateralAgeSeconds]),
  )

  const platform = await step(
    trace,
    {
      check: 'platform',
      compared: 'FMSPC, PCE id, PPID',
      with: `TCB info, deny lists of policy ${policy.version}`,
      from: 'PCK certificate',
    },
    (row) => {
      const read = reading('certificate_invalid', () => readPckExtension(pck))
      row.compared = `FMSPC ${read.fmspc}, PCE id ${read.pceId}, PPID ${read.ppid || 'absent'}`
      require(!policy.deniedFmspcs.includes(read.fmspc), 'platform_denied', `The policy denies platform ${read.fmspc}.`)
      require(!policy.deniedPlatforms.includes(read.ppid), 'platform_denied', 'The policy denies this machine (PPID).')
      require(tcbInfo.fmspc ===
        read.fmspc, 'collateral_mismatch', `TCB info is for ${tcbInfo.fmspc}, the platform is ${read.fmspc}.`)
      require(tcbInfo.pceId ===
        read.pceId, 'collateral_mismatch', `TCB info is for PCE ${tcbInfo.pceId}, the platform has ${read.pceId}.`)
      return read
    },
  )
  await step(
    trace,
    {
      check: 'quote signature',
      compared: 'QE report, its binding, header and body',
      with: 'PCK key and attestation key',
      from: 'evidence',
    },
    () => checkSignatures(quote, pck),
  )
  assert(
    found,
    'quote_signed',
    'PCK key → quoting enclave → attestation key → quote: each signature verifies.',
    'hardware',
  )

  const tcb = await step(
    trace,
    {
      check: 'TCB levels',
      compared: 'component SVNs, PCESVN, module and QE versions',
      with: 'levels of TCB info and QE identity',
      from: 'PCK certificate, quote, collateral',
    },
    (row) => {
      row.compared = `components ${platform.components.join(' ')}, PCESVN ${platform.pceSvn}, TEE_TCB_SVN ${[...body.teeTcbSvn].join(' ')}`
      return judgeTcb(quote, platform, tcbInfo, qe)
    },
  )
  found.qeStatus = tcb.quoting.status
  found.moduleStatus = tcb.module?.status ?? null
  found.tcbStatus = tcb.status
  found.advisories = [...new Set(tcb.matched.flatMap((level) => level.advisories))]
  await step(
    trace,
    {
      check: 'TD attributes',
      compared: `${measurement.tdattributes}, MRSERVICETD`,
      with: 'no debug, no migration, SEPT_VE_DISABLE',
      from: 'quote',
    },
    () => checkAttributes(body),
  )
  assert(found, 'isolated', 'Not in debug mode, SEPT_VE_DISABLE set, no service TD.', 'hardware')
  const { detail, until } = await step(
    trace,
    {
      check: 'TCB status',
      compared: tcb.status,
      with: policy.tcbStatuses.join(', '),
      from: `policy ${policy.version}`,
    },
    () => checkStatus(tcb.status, behindSince(tcb.matched, tcbInfo, qe), context),
  )
  found.validUntil = Math.min(found.validUntil, until)
  assert(found, 'tcb_current', `${detail}, evaluation ${tcbInfo.evaluation}.`)

  checkMeasurements(measurement, policy)
  checkWorkload(found, measurement.workload, context, policy.tdxMeasurements !== 'any')
}

/** Verifies a TDX quote against collateral: a verdict, never an exception, for any bytes. Pure in its arguments; a cache changes its speed only. */
export function verifyTdx(
  quote: Uint8Array,
  collateral: TdxCollateral | null,
  context: EvidenceContext,
): Promise<Verdict> {
  return judge('tdx', 'malformed_quote', context, collateral, (given, found) =>
    verify(quote, given, { ...context, cache: context.cache ?? noCache }, found),
  )
}
