import { EncodingError, equalBytes, type Hex, toHex } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { noCache } from './cache.ts'
import { step } from './checks.ts'
import { asn1, DerReader, readSmall } from './der.ts'
import { assert, checkWorkload, type EvidenceContext, type Found, judge } from './judge.ts'
import type { Policy } from './policy.ts'
import type { AmdProduct } from './roots.ts'
import { parseSnpReport, readSnpTcb, type SnpReport, type SnpTcb, snpWorkload } from './snpReport.ts'
import { reading, require, type Verdict } from './verdict.ts'
import {
  amdProfile,
  type Certificate,
  checkCrlSignature,
  checkCrlStatus,
  checkIssued,
  checkWindow,
  parseCertificate,
  parseCrl,
  verifyEcdsa,
} from './x509.ts'

/** Holds what AMD publishes about a chip, as DER: the certificate of its key (VCEK, or VLEK where a cloud loaded one), the authority that issued it (ASK or ASVK), the root key (ARK), and the root's revocation list. */
export type SnpCollateral = {
  certificate: Uint8Array
  authority: Uint8Array
  root: Uint8Array
  crl: Uint8Array | null
}

const amd = '1.3.6.1.4.1.3704.1'

type Chip = { product: AmdProduct; tcb: SnpTcb; hwid: Uint8Array | null; kind: 'VCEK' | 'VLEK' }

function whole(certificate: Certificate, oid: string): number {
  const extension = certificate.extensions.get(oid)
  if (!extension) throw new EncodingError(`The certificate lacks extension ${oid}.`)
  const reader = new DerReader(extension)
  const value = readSmall(reader.next(asn1.integer))
  reader.end()
  return value
}

/** Reads AMD's extensions of a chip key's certificate (AMD VCEK certificate and KDS interface specification, §3.1). Throws EncodingError. */
function readChip(certificate: Certificate): Chip {
  const kind = certificate.commonName === 'SEV-VCEK' ? 'VCEK' : certificate.commonName === 'SEV-VLEK' ? 'VLEK' : null
  if (!kind) throw new EncodingError(`"${certificate.commonName}" is not the certificate of a chip's key.`)
  const name = certificate.extensions.get(`${amd}.2`)
  if (!name) throw new EncodingError('The certificate lacks its product name.')
  const reader = new DerReader(name)
  // Product names carry a stepping ("Milan-B0") in VCEKs and none in VLEKs.
  const text = new TextDecoder().decode(reader.next(0x16).content).split('-')[0]
  reader.end()
  if (text !== 'Milan' && text !== 'Genoa' && text !== 'Turin')
    throw new EncodingError(`Product "${text}" is not known.`)
  const hwid = certificate.extensions.get(`${amd}.4`)
  if (kind === 'VCEK' && hwid?.length !== (text === 'Turin' ? 8 : 64))
    throw new EncodingError("The certificate lacks the chip's identity.")
  return {
    kind,
    product: text,
    hwid: kind === 'VCEK' ? hwid! : null,
    tcb: {
      fmc: text === 'Turin' ? whole(certificate, `${amd}.3.9`) : 0,
      bootloader: whole(certificate, `${amd}.3.1`),
      tee: whole(certificate, `${amd}.3.2`),
      snp: whole(certificate, `${amd}.3.3`),
      microcode: whole(certificate, `${amd}.3.8`),
    },
  }
}

type Chain = { leaf: Certificate; authority: Certificate; root: Certificate; chip: Chip }

async function checkChain(collateral: SnpCollateral, context: EvidenceContext): Promise<Chain> {
  const { roots, now } = context
  const parse = (der: Uint8Array) => reading('certificate_invalid', () => parseCertificate(der, amdProfile))
  const leaf = parse(collateral.certificate)
  const chip = reading('certificate_invalid', () => readChip(leaf))
  const pinned = roots.amd?.[chip.product]
  const digest = toHex(sha256(collateral.root))
  require(pinned ===
    digest, 'untrusted_root', `The chain does not end in the pinned ${roots.kind} root of ${chip.product}.`)
  const { authority, root } = await (context.cache ?? noCache).remember(
    `snp issuers ${digest} ${toHex(sha256(collateral.authority))}`,
    async () => {
      const issuers = { authority: parse(collateral.authority), root: parse(collateral.root) }
      await checkIssued(issuers.root, issuers.root)
      await checkIssued(issuers.authority, issuers.root)
      return issuers
    },
  )
  for (const certificate of [leaf, authority, root]) checkWindow(certificate, now)
  await checkIssued(leaf, authority)
  require(!leaf.isCa &&
    leaf.keyType === 'P-384', 'certificate_role', `"${leaf.commonName}" is an authority, not a chip.`)
  const role = chip.kind === 'VLEK' ? /^SEV-VLEK-/ : /^SEV-(?!VLEK)/
  require(role.test(
    authority.commonName,
  ), 'certificate_role', `"${authority.commonName}" does not issue ${chip.kind} certificates.`)
  return { leaf, authority, root, chip }
}

/** Checks AMD's revocation list where there is one. Gives when it runs out; null where it was not given and the policy does without. */
async function checkRevocation(collateral: SnpCollateral, { authority, root }: Chain, context: EvidenceContext) {
  if (!collateral.crl) {
    require(!context.policy
      .requireRevocation, 'crl_invalid', 'No revocation list was given, and the policy requires one.')
    return null
  }
  const { crl: der } = collateral
  const crl = reading('crl_invalid', () => parseCrl(der, amdProfile))
  await checkCrlSignature(crl, root)
  checkCrlStatus(crl, root, [authority], context.now)
  return crl.nextUpdate
}

const zero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0)

function checkChip(report: SnpReport, chip: Chip): void {
  const { product, hwid, kind, tcb } = chip
  require(report.product === null ||
    report.product ===
      product, 'platform_mismatch', `The report is of a ${report.product}, the certificate of a ${product}.`)
  const signingKey = (report.flags >> 2) & 7
  require(signingKey === (kind === 'VLEK' ? 1 : 0), 'platform_mismatch', `The report is not signed by a ${kind}.`)
  const reported = readSnpTcb(product, report.tcb.reported)
  const same = (Object.keys(tcb) as (keyof SnpTcb)[]).every((part) => tcb[part] === reported[part])
  require(same, 'platform_mismatch', `The certificate is for TCB ${tcbText(tcb)}, the report says ${tcbText(reported)}.`)
  if (!hwid) return
  const masked = (report.flags & 2) !== 0
  require(!masked &&
    equalBytes(report.chipId.subarray(0, hwid.length), hwid) &&
    zero(
      report.chipId.subarray(hwid.length),
    ), 'platform_mismatch', 'The certificate is for another chip than the report.')
}

const tcbText = ({ fmc, bootloader, tee, snp, microcode }: SnpTcb) =>
  `${fmc ? `fmc ${fmc} ` : ''}bootloader ${bootloader} tee ${tee} snp ${snp} microcode ${microcode}`

function checkGuest(report: SnpReport, policy: Policy): void {
  const bit = (value: bigint, index: number) => ((value >> BigInt(index)) & 1n) === 1n
  require(!bit(report.policy, 19), 'debug', 'The guest may be debugged: its memory can be read.')
  require(bit(report.policy, 17) &&
    report.policy >> 26n === 0n, 'attributes', 'Reserved bits of the guest policy are wrong.')
  require(!bit(report.policy, 18), 'attributes', 'The guest may be migrated by an agent that could read its state.')
  require(report.vmpl <=
    policy.snp
      .maxVmpl, 'attributes', `The report was asked for at VMPL ${report.vmpl}; the policy allows ${policy.snp.maxVmpl}.`)
  // Firmware before report version 3 does not tell; what is not told is judged by the minimum TCB.
  require(!policy.snp.requireAliasCheck ||
    bit(
      report.platformInfo,
      5,
    ), 'attributes', 'The platform has not checked its memory for aliases (ALIAS_CHECK_COMPLETE).')
}

function checkTcb(report: SnpReport, { product }: Chip, { snp }: Policy): string {
  require(!snp.refusedProducts.includes(
    product,
  ), 'platform_denied', `The policy refuses ${product}: its root seed can be extracted by software, and any report forged.`)
  require(snp.provisionalFirmware ||
    equalBytes(
      report.tcb.current,
      report.tcb.committed,
    ), 'tcb_status', 'The firmware is provisional: it could be rolled back after the report.')
  const minimum = snp.minimumTcb[product]
  for (const when of ['reported', 'current', 'launch'] as const) {
    const tcb = readSnpTcb(product, report.tcb[when])
    const low = (Object.keys(minimum) as (keyof SnpTcb)[]).filter((part) => tcb[part] < minimum[part]!)
    require(low.length ===
      0, 'tcb_status', `The ${when} TCB (${tcbText(tcb)}) is below the minimum for ${product} in ${low.join(', ')}.`)
  }
  return `TCB ${tcbText(readSnpTcb(product, report.tcb.reported))} reaches the policy's minimum for ${product}.`
}

function measure(report: SnpReport) {
  return {
    workload: snpWorkload(report),
    measurement: toHex(report.measurement),
    hostdata: toHex(report.hostData),
    idkeydigest: toHex(report.idKeyDigest),
    authorkeydigest: toHex(report.authorKeyDigest),
    policy: `0x${report.policy.toString(16).padStart(16, '0')}` as Hex,
    chipid: toHex(report.chipId),
  }
}

async function verify(
  bytes: Uint8Array,
  collateral: SnpCollateral,
  context: EvidenceContext,
  found: Found,
): Promise<'unknown' | undefined> {
  const { policy, trace } = context
  const report = await step(
    trace,
    {
      check: 'report format',
      compared: 'length, version, reserved bytes',
      with: 'SNP report version 2 to 5',
      from: 'evidence',
    },
    (row) => {
      const read = reading('malformed_evidence', () => parseSnpReport(bytes))
      row.compared = `version ${read.version}, VMPL ${read.vmpl}`
      return read
    },
  )
  found.reportData = toHex(report.reportData)
  found.debug = ((report.policy >> 19n) & 1n) === 1n
  const measurement = measure(report)
  found.measurement = measurement

  const chain = await step(
    trace,
    {
      check: 'chip certificate chain',
      compared: 'chip key, authority, root key',
      with: `pinned ${context.roots.kind} root, roles, validity`,
      from: 'collateral and roots',
    },
    async (row) => {
      const checked = await checkChain(collateral, context)
      row.compared = [checked.leaf, checked.authority, checked.root].map(({ commonName }) => commonName).join(' ← ')
      return checked
    },
  )
  const { leaf, authority, root, chip } = chain
  const crlUntil = await checkRevocation(collateral, chain, context)
  trace?.({
    check: 'revocation',
    status: crlUntil === null ? 'unknown' : 'passed',
    compared: `serial ${authority.serial}`,
    with: "the root's revocation list, signed and in its window",
    from: 'collateral',
    ...(crlUntil === null ? { detail: 'No list was given.' } : {}),
  })
  found.validUntil = Math.min(leaf.notAfter, authority.notAfter, root.notAfter, crlUntil ?? Number.POSITIVE_INFINITY)
  assert(
    found,
    'platform_genuine',
    `${chip.kind} of a ${chip.product} chains to the pinned ${context.roots.kind} root.`,
    'hardware',
  )
  found.claims.push({
    claim: 'not_revoked',
    status: crlUntil === null ? 'unknown' : 'asserted',
    source: 'verifier',
    detail: crlUntil === null ? 'No revocation list was given.' : 'The authority is not on the revocation list.',
  })

  await step(
    trace,
    { check: 'report signature', compared: 'the report', with: "the chip's key", from: 'evidence' },
    async () =>
      require(await verifyEcdsa(
        'P-384',
        leaf.publicKey,
        report.signature,
        report.signed,
      ), 'evidence_signature', "The chip's key did not sign this report."),
  )
  await step(
    trace,
    {
      check: 'chip identity',
      compared: 'product, chip id, reported TCB',
      with: 'extensions of its certificate',
      from: 'report and collateral',
    },
    () => checkChip(report, chip),
  )
  assert(found, 'report_signed', `Signed by the chip's ${chip.kind}, which names its id and TCB.`, 'hardware')
  const machine = measurement.chipid.slice(2)
  require(!policy.deniedPlatforms.includes(machine), 'platform_denied', 'The policy denies this chip.')
  await step(
    trace,
    {
      check: 'guest policy',
      compared: `${measurement.policy}, VMPL ${report.vmpl}`,
      with: 'no debug, no migration agent, alias check',
      from: 'report',
    },
    () => checkGuest(report, policy),
  )
  assert(found, 'isolated', 'Not in debug mode, no migration agent.', 'hardware')
  const minimum = Object.keys(policy.snp.minimumTcb[chip.product]).length > 0
  found.tcbStatus = minimum ? 'OutOfDate' : null
  const current = await step(
    trace,
    {
      check: 'TCB',
      compared: tcbText(readSnpTcb(chip.product, report.tcb.reported)),
      with: minimum ? `minimum for ${chip.product}` : 'committed firmware; no minimum is set',
      from: `policy ${policy.version}`,
    },
    () => checkTcb(report, chip, policy),
  )
  found.tcbStatus = minimum ? 'UpToDate' : null
  found.claims.push({
    claim: 'tcb_current',
    status: minimum ? 'asserted' : 'unknown',
    source: 'verifier',
    detail: minimum
      ? `${current} AMD publishes no signed table, so the minimum is the policy's own.`
      : `The policy sets no minimum TCB for ${chip.product}.`,
  })
  checkWorkload(found, measurement.workload, context)
  return minimum || !policy.snp.requireMinimumTcb ? undefined : 'unknown'
}

/** Verifies an SNP report against AMD's certificates: a verdict, never an exception, for any bytes. Pure in its arguments; a cache changes its speed only. */
export function verifySnp(
  report: Uint8Array,
  collateral: SnpCollateral | null,
  context: EvidenceContext,
): Promise<Verdict> {
  return judge('snp', 'malformed_evidence', context, collateral, (given, found) =>
    verify(report, given, context, found),
  )
}
