import { concat, EncodingError, equalBytes, type Hex, toHex, uint, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { noCache } from './cache.ts'
import { step } from './checks.ts'
import { asn1, DerReader, inside, readOid } from './der.ts'
import { assert, type EvidenceContext, type Found, judge } from './judge.ts'
import { compareWithRims, type RimTable, type SignedRimTable, verifyRimTable } from './rim.ts'
import { opaqueField, opaqueText, parseSpdm, type SpdmMeasurements, vbiosVersion } from './spdm.ts'
import { type Refusal, Refused, reading, require, type Verdict } from './verdict.ts'
import {
  type Certificate,
  checkIssued,
  checkWindow,
  p384Profile,
  parseCertificate,
  parsePem,
  verifyEcdsa,
} from './x509.ts'

/** Holds one GPU's evidence, as NVIDIA's tools collect it: SPDM request ‖ response, and its certificates as PEM, leaf first. */
export type GpuEvidence = { arch: string; evidence: Uint8Array; certificates: string }

/** Says what an OCSP responder answered about a certificate. */
export type OcspStatus = 'good' | 'revoked' | 'hold' | 'unknown'

/** Holds what is known of a GPU's driver and certificates: tables of reference measurements, and OCSP answers by serial number (hexadecimal), null where nobody asked. */
export type GpuCollateral = { rims: readonly SignedRimTable[]; ocsp: Readonly<Record<string, OcspStatus>> | null }

/** Adds to the context the nonce that was asked for; null where it is not known, as with evidence kept by others. */
export type GpuContext = EvidenceContext & { nonce: Uint8Array | null }

const dice = '2.23.133.5.4.1'
const sha384Oid = '2.16.840.1.101.3.4.2.2'
const nvdec0Index = 35

function readFwid(reader: DerReader): Uint8Array {
  const fwid = inside(reader.next(asn1.sequence))
  if (readOid(fwid.next(asn1.oid)) !== sha384Oid) throw new EncodingError('The firmware identity is not SHA-384.')
  const digest = fwid.next(asn1.octetString).content
  fwid.end()
  return digest
}

/** Reads the firmware identity out of a leaf's DICE extension: Hopper's composite device id, or Blackwell's TCB info (TCG DICE attestation architecture, §6.1.1). Throws EncodingError. */
function readFirmwareIdentity(leaf: Certificate): Uint8Array {
  const composite = leaf.extensions.get(dice)
  if (composite) {
    const outer = new DerReader(composite)
    const members = inside(outer.next(asn1.sequence))
    outer.end()
    members.next(asn1.integer)
    members.next(asn1.sequence)
    return readFwid(members)
  }
  const info = leaf.extensions.get(`${dice}.1`)
  if (!info) throw new EncodingError('The leaf carries no firmware identity.')
  const members = inside(new DerReader(info).next(asn1.sequence))
  while (!members.done) {
    const member = members.next()
    if (member.tag === 0xa6) return readFwid(inside(member))
  }
  throw new EncodingError('The leaf carries no firmware identity.')
}

async function checkChain(
  { certificates }: GpuEvidence,
  { roots, now, cache = noCache }: EvidenceContext,
): Promise<Certificate[]> {
  const chain = await cache.remember(`gpu ${toHex(sha256(utf8(certificates)))}`, async () => {
    const ders = reading('certificate_invalid', () => parsePem(certificates))
    require(ders.length > 0 &&
      ders.length <= 8, 'certificate_invalid', `A chain of ${ders.length} certificates is no GPU's.`)
    const parsed = ders.map((der) => reading('certificate_invalid', () => parseCertificate(der, p384Profile)))
    for (const [index, certificate] of parsed.entries())
      await checkIssued(certificate, parsed[index + 1] ?? certificate)
    return parsed
  })
  require(toHex(sha256(chain.at(-1)!.der)) ===
    roots.nvidia, 'untrusted_root', `The chain does not end in the pinned ${roots.kind} root.`)
  for (const certificate of chain) checkWindow(certificate, now)
  const leaf = chain[0]!
  require(!leaf.isCa &&
    !leaf.keyCertSign &&
    / GSP FMC LF$/.test(
      leaf.commonName,
    ), 'certificate_role', `"${leaf.commonName}" is not the key of a GPU's firmware.`)
  return chain
}

/** Compares every certificate but the root with the OCSP answers. Gives whether all were asked about that NVIDIA can revoke: the leaf is the device's own, and falls with it. */
function checkOcsp(chain: Certificate[], collateral: GpuCollateral, { policy }: EvidenceContext): boolean {
  let all = true
  for (const [index, certificate] of chain.slice(0, -1).entries()) {
    const status = collateral.ocsp?.[certificate.serial] ?? 'unknown'
    require(status !== 'revoked', 'certificate_revoked', `"${certificate.commonName}" is revoked.`)
    require(status !== 'hold' ||
      policy.gpu.acceptHold, 'certificate_revoked', `"${certificate.commonName}" is on hold.`)
    all &&= status !== 'unknown' || index === 0
  }
  return all
}

function checkMode({ opaque }: SpdmMeasurements): string {
  require(opaque.get(opaqueField.protectedPcie)?.[0] !==
    0xaa, 'gpu_mode', 'The GPU runs in protected PCIe mode, whose switches this evidence does not cover.')
  const flag = opaque.get(opaqueField.featureFlag)
  if (!flag) return 'not told'
  const mode = ['MPT', 'SPT', 'PPCIE'][flag[0]!]
  require(mode === 'MPT' || mode === 'SPT', 'gpu_mode', `Mode ${mode ?? flag[0]} is not taken; MPT and SPT are.`)
  return mode
}

type Identity = { ueid: Hex; chip: string; driver: string; vbios: string; driverRim: string; vbiosRim: string }

/** Names what a GPU runs, and the references that describe it (NVIDIA RIM service, identifiers). */
function gpuIdentity(leaf: Certificate, { opaque }: SpdmMeasurements): Identity {
  const driver = opaqueText(opaque, opaqueField.driverVersion)
  const vbios = vbiosVersion(opaque)
  const chip = leaf.commonName.split(' ')[0]!
  const part = (field: number) => opaqueText(opaque, field).toUpperCase()
  const board = [opaqueField.project, opaqueField.projectSku, opaqueField.chipSku].map(part).join('_')
  return {
    ueid: leaf.serial,
    chip,
    driver,
    vbios,
    driverRim: chip === 'GH100' ? `NV_GPU_DRIVER_GH100_${driver}` : `NV_GPU_CC_DRIVER_${chip}_${driver}`,
    vbiosRim: `NV_GPU_VBIOS_${board}_${vbios.replaceAll('.', '')}`,
  }
}

/** Says why a table cannot be used; null where it can. */
async function refuseTable(signed: SignedRimTable, { roots, policy, now }: EvidenceContext): Promise<Refused | null> {
  const { table } = signed
  if (!(await verifyRimTable(signed, roots.rimSigners ?? [])))
    return new Refused('rim_invalid', `Table ${table.id} is signed by nobody this verifier trusts.`)
  if (!policy.gpu.acceptExpiredRim && now > table.signerNotAfter)
    return new Refused('rim_invalid', `The certificate behind table ${table.id} has expired.`)
  return null
}

/** Finds the tables for what a GPU runs, among tables for any number of versions and chips: boards of one video BIOS version have one each. None where there is none of this kind at all; throws Refused where there are and none will do. */
async function findTables(
  collateral: GpuCollateral,
  kind: RimTable['kind'],
  { chip, [kind]: version }: Identity,
  context: EvidenceContext,
): Promise<RimTable[]> {
  let why: Refused | null = null
  const found: RimTable[] = []
  for (const signed of collateral.rims.filter(({ table }) => table.kind === kind)) {
    const { table } = signed
    if (table.chip !== chip || table.version.toUpperCase() !== version.toUpperCase()) {
      why ??= new Refused(
        'rim_mismatch',
        `Table ${table.id} is for ${kind} ${table.version} of a ${table.chip}; the GPU is a ${chip} and runs ${version}.`,
      )
      continue
    }
    const refused = await refuseTable(signed, context)
    if (refused) why = refused
    else found.push(table)
  }
  if (found.length === 0 && why) throw why
  return found
}

/** Compares a GPU's measurements with one driver's and one video BIOS's references. Gives how many were compared; throws Refused. */
function compareWithPair(spdm: SpdmMeasurements, driver: RimTable, vbios: RimTable): number {
  // A video decoder that is switched off need not measure what the reference says.
  const excused = new Set(spdm.opaque.get(opaqueField.nvdec0)?.[0] === 0x55 ? [nvdec0Index] : [])
  const { compared, differing, contested } = compareWithRims(spdm.blocks, [driver, vbios], excused)
  require(contested.length === 0, 'rim_invalid', `Both tables claim measurement ${contested.join(', ')}.`)
  require(compared > 0, 'rim_invalid', 'The tables have no active measurement.')
  require(differing.length ===
    0, 'rim_mismatch', `${differing.length} of ${compared} measurements differ from NVIDIA's: ${differing.join(', ')}.`)
  return compared
}

async function checkMeasurements(
  spdm: SpdmMeasurements,
  identity: Identity,
  collateral: GpuCollateral,
  context: EvidenceContext,
): Promise<{ compared: number; until: number } | null> {
  const drivers = await findTables(collateral, 'driver', identity, context)
  const bioses = await findTables(collateral, 'vbios', identity, context)
  let why: unknown = null
  for (const driver of drivers)
    for (const vbios of bioses)
      try {
        const compared = compareWithPair(spdm, driver, vbios)
        return { compared, until: Math.min(driver.signerNotAfter, vbios.signerNotAfter) }
      } catch (error) {
        why ??= error
      }
  if (why) throw why
  return null
}

async function verify(
  given: GpuEvidence,
  collateral: GpuCollateral,
  context: GpuContext,
  found: Found,
): Promise<'unknown' | undefined> {
  const { policy, trace, nonce } = context
  const spdm = await step(
    trace,
    {
      check: 'measurements format',
      compared: 'SPDM request and response',
      with: 'SPDM 1.1, signed, all measurements',
      from: 'evidence',
    },
    (row) => {
      const read = reading('malformed_evidence', () => parseSpdm(given.evidence))
      row.compared = `${read.blocks.size} measurements`
      return read
    },
  )
  const chain = await step(
    trace,
    {
      check: 'device chain',
      compared: 'firmware key to device root',
      with: `pinned ${context.roots.kind} root, roles, validity`,
      from: 'evidence and roots',
    },
    async (row) => {
      const checked = await checkChain(given, context)
      row.compared = checked.map(({ commonName }) => commonName).join(' ← ')
      return checked
    },
  )
  const leaf = chain[0]!
  const identity = reading('malformed_evidence', () => gpuIdentity(leaf, spdm))
  const digest = toHex(
    sha256(concat(utf8('ASY1wgpu'), ...[...spdm.blocks].flatMap(([index, value]) => [uint(BigInt(index), 1), value]))),
  )
  found.measurement = {
    workload: digest,
    ueid: identity.ueid,
    driver: toHex(utf8(identity.driver)),
    vbios: toHex(utf8(identity.vbios)),
  }
  found.reportData = toHex(spdm.nonce)
  require(!policy.deniedPlatforms.includes(identity.ueid.slice(2)), 'platform_denied', 'The policy denies this GPU.')
  await step(
    trace,
    { check: 'measurements signature', compared: 'request and response', with: "the firmware's key", from: 'evidence' },
    async () =>
      require(await verifyEcdsa(
        'P-384',
        leaf.publicKey,
        spdm.signature,
        spdm.signed,
      ), 'evidence_signature', "The firmware's key did not sign these measurements."),
  )
  const firmware = await step(
    trace,
    {
      check: 'firmware identity',
      compared: 'opaque field 20',
      with: "the leaf's DICE extension",
      from: 'evidence',
    },
    () => {
      const fwid = reading('certificate_invalid', () => readFirmwareIdentity(leaf))
      const reported = spdm.opaque.get(opaqueField.fwid)
      require(reported !== undefined ||
        !policy.gpu.requireFirmwareIdentity, 'firmware_mismatch', 'The GPU does not report its firmware identity.')
      require(reported === undefined ||
        equalBytes(reported, fwid), 'firmware_mismatch', 'The GPU reports another firmware than its certificate names.')
      return reported !== undefined
    },
  )
  found.claims.push({
    claim: 'firmware_named',
    status: firmware ? 'asserted' : 'unknown',
    source: 'hardware',
    detail: firmware
      ? 'The firmware is the one the certificate names.'
      : 'The driver is too old to report the identity of its firmware.',
  })
  assert(
    found,
    'gpu_genuine',
    `"${leaf.commonName}" chains to the pinned ${context.roots.kind} root and signed its measurements.`,
    'hardware',
  )

  if (nonce) {
    await step(trace, { check: 'nonce', compared: toHex(spdm.nonce), with: toHex(nonce), from: 'challenge' }, () =>
      require(equalBytes(spdm.nonce, nonce), 'nonce_mismatch', 'The GPU answered another nonce.'),
    )
    assert(found, 'fresh', 'The GPU answered the nonce it was asked with.')
  } else {
    found.claims.push({ claim: 'fresh', status: 'unknown', source: 'verifier', detail: 'No nonce to compare with.' })
  }
  const mode = await step(
    trace,
    { check: 'mode', compared: 'feature flag', with: 'MPT or SPT', from: 'evidence' },
    (row) => {
      const read = checkMode(spdm)
      row.compared = read
      return read
    },
  )
  assert(found, 'gpu_mode', `Confidential-computing mode ${mode}.`, 'hardware')

  const asked = checkOcsp(chain, collateral, context)
  found.claims.push({
    claim: 'not_revoked',
    status: asked ? 'asserted' : 'unknown',
    source: 'verifier',
    detail: asked ? 'OCSP answers good for every certificate.' : 'OCSP was not asked about every certificate.',
  })
  trace?.({
    check: 'revocation',
    status: asked ? 'passed' : 'unknown',
    compared: `${chain.length - 1} certificates`,
    with: 'OCSP answers',
    from: 'collateral',
    ...(asked ? {} : { detail: 'No answer for every certificate.' }),
  })
  const row = {
    check: 'reference measurements',
    compared: `${identity.driverRim}, ${identity.vbiosRim}`,
    with: 'signed tables',
    from: 'collateral',
  }
  const matched = await checkMeasurements(spdm, identity, collateral, context).catch((error: unknown) => {
    trace?.({ ...row, status: 'failed', detail: (error as Error).message })
    throw error
  })
  trace?.({
    ...row,
    status: matched ? 'passed' : 'unknown',
    detail: matched ? `${matched.compared} of ${matched.compared} active measurements match.` : 'No tables for both.',
  })
  found.claims.push(
    {
      claim: 'gpu_measured',
      status: matched ? 'asserted' : 'unknown',
      source: matched ? 'hardware' : 'verifier',
      detail: matched
        ? `All ${matched.compared} active measurements equal NVIDIA's for driver ${identity.driver} and video BIOS ${identity.vbios}.`
        : `No tables were given for ${identity.driverRim} and ${identity.vbiosRim}.`,
    },
    {
      claim: 'gpu_bound',
      status: 'unknown',
      source: 'hardware',
      detail:
        'Nothing in this generation ties a GPU to the CPU beside it: the evidence could be relayed from another machine.',
    },
  )
  found.tcbStatus = matched ? 'UpToDate' : null
  found.validUntil = Math.min(...chain.map(({ notAfter }) => notAfter), matched?.until ?? Number.POSITIVE_INFINITY)
  return matched && (asked || !policy.requireRevocation) ? undefined : 'unknown'
}

/** Verifies one NVIDIA GPU's evidence (Hopper or Blackwell): a verdict, never an exception, for any bytes. Without reference tables it is `unknown`, because a genuine GPU may run anything. */
export function verifyGpu(
  evidence: GpuEvidence,
  collateral: GpuCollateral | null,
  context: GpuContext,
): Promise<Verdict> {
  return judge('gpu', 'malformed_evidence', context, collateral ?? { rims: [], ocsp: null }, (given, found) =>
    verify(evidence, given, context, found),
  )
}

const sized = (bytes: Uint8Array) => concat(uint(BigInt(bytes.length), 4), bytes)

/** Writes the evidence of a machine's GPUs in one canonical form, whose SHA-256 stands in the statement: a tag, how many, and of each its architecture, measurements and certificates, lengths in front. */
function encodeGpuEvidence(list: readonly GpuEvidence[]): Uint8Array<ArrayBuffer> {
  const each = list.flatMap(({ arch, evidence, certificates }) => [
    sized(utf8(arch)),
    sized(evidence),
    sized(utf8(certificates)),
  ])
  return concat(utf8('ASY1gpue'), uint(BigInt(list.length), 4), ...each)
}

/** Computes what a statement says of a machine's GPUs: 32 zero bytes where it has none. */
export function gpuEvidenceDigest(list: readonly GpuEvidence[]): Uint8Array {
  return list.length === 0 ? new Uint8Array(32) : sha256(encodeGpuEvidence(list))
}

/** Compares GPU evidence with the statement that names it, and refuses one GPU shown twice. Null where both hold. */
export function checkGpuLink(
  statementDigest: Uint8Array,
  list: readonly GpuEvidence[],
  verdicts: readonly Verdict[],
): Refusal | null {
  if (!equalBytes(gpuEvidenceDigest(list), statementDigest))
    return { reason: 'gpu_link', detail: 'The statement names other GPU evidence than was sent.' }
  const ueids = verdicts.map(({ measurement }) => measurement?.ueid)
  if (new Set(ueids).size !== ueids.length) return { reason: 'gpu_repeated', detail: 'One GPU is shown twice.' }
  return null
}
