import { concat, EncodingError, equalBytes, fromHex, toHex, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import type { EvidenceCache } from './cache.ts'
import { parseMembers } from './json.ts'
import type { Policy } from './policy.ts'
import type { Roots } from './roots.ts'
import { Refused, reading, require, type TcbStatus, tcbStatuses } from './verdict.ts'
import {
  type Certificate,
  type Crl,
  checkCrlSignature,
  checkCrlStatus,
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

/** Holds one TCB level: SVNs of 16 SGX and 16 TDX components and the PCE for a platform, one ISVSVN for a module or an enclave; dates in unix seconds. */
export type Level = {
  components?: number[]
  tdx?: number[]
  pceSvn?: number
  isvSvn?: number
  status: TcbStatus
  date: number
  advisories: string[]
}

/** Holds a TDX module's identity: an entry of `tdxModuleIdentities`, or `tdxModule` (without levels). */
export type ModuleIdentity = {
  id: string
  mrSigner: Uint8Array
  attributes: Uint8Array
  mask: Uint8Array
  levels: Level[] | null
}

type Document = { issueDate: number; nextUpdate: number; evaluation: number; signer: Certificate }

/** Holds TCB info whose signature and shape were checked, but not its dates. */
export type TcbInfo = Document & {
  fmspc: string
  pceId: string
  levels: Level[]
  module: ModuleIdentity
  modules: ModuleIdentity[]
}

/** Holds a quoting enclave identity whose signature and shape were checked, but not its dates. */
export type QeIdentity = Document & {
  miscSelect: number
  miscSelectMask: number
  attributes: Uint8Array
  attributesMask: Uint8Array
  mrSigner: Uint8Array
  isvProdId: number
  levels: Level[]
}

type Outcome<T> = { value: T } | { refused: Refused }

/** Holds collateral after every check that does not depend on the time or the quote; each part is a value or the refusal it earned. */
export type VettedTdxCollateral = {
  rootCrl: Outcome<Crl>
  pckCrl: Outcome<Crl>
  tcbInfo: Outcome<TcbInfo>
  qeIdentity: Outcome<QeIdentity>
}

/** Gives a vetted part, or throws the refusal it earned. */
export function unwrap<T>(outcome: Outcome<T>): T {
  if ('refused' in outcome) throw outcome.refused
  return outcome.value
}

async function outcomeOf<T>(make: () => T | Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await make() }
  } catch (error) {
    if (error instanceof Refused) return { refused: error }
    throw error
  }
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

function number32(value: unknown, where: string): number {
  return new DataView(hexField(value, 4, where).slice().buffer).getUint32(0)
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
  const date = time(level.tcbDate, 'tcbDate')
  const advisories = level.advisoryIDs === undefined ? [] : array(level.advisoryIDs, 'advisoryIDs').map(String)
  if (!platform) return { isvSvn: whole(tcb.isvsvn, 'isvsvn'), status, date, advisories }
  return {
    components: readComponents(tcb.sgxtcbcomponents, 'sgxtcbcomponents'),
    tdx: readComponents(tcb.tdxtcbcomponents, 'tdxtcbcomponents'),
    pceSvn: whole(tcb.pcesvn, 'pcesvn'),
    status,
    date,
    advisories,
  }
}

function readModule(value: unknown, withLevels: boolean): ModuleIdentity {
  const module = record(value, 'TDX module')
  return {
    id: withLevels ? String(module.id) : '',
    mrSigner: hexField(module.mrsigner, 48, 'module mrsigner'),
    attributes: hexField(module.attributes, 8, 'module attributes'),
    mask: hexField(module.attributesMask, 8, 'module attributesMask'),
    levels: withLevels ? array(module.tcbLevels, 'module tcbLevels').map((level) => readLevel(level, false)) : null,
  }
}

function readDates(value: Record<string, unknown>): Omit<Document, 'signer'> {
  return {
    issueDate: time(value.issueDate, 'issueDate'),
    nextUpdate: time(value.nextUpdate, 'nextUpdate'),
    evaluation: whole(value.tcbEvaluationDataNumber, 'tcbEvaluationDataNumber'),
  }
}

function readTcbInfo(value: Record<string, unknown>, signer: Certificate): TcbInfo {
  require(value.id === 'TDX' &&
    whole(value.version, 'version') >= 3, 'collateral_mismatch', 'The TCB info is not TDX version 3.')
  return {
    ...readDates(value),
    signer,
    fmspc: String(value.fmspc).toLowerCase(),
    pceId: String(value.pceId).toLowerCase(),
    levels: array(value.tcbLevels, 'tcbLevels').map((level) => readLevel(level, true)),
    module: readModule(value.tdxModule, false),
    modules:
      value.tdxModuleIdentities === undefined
        ? []
        : array(value.tdxModuleIdentities, 'tdxModuleIdentities').map((entry) => readModule(entry, true)),
  }
}

function readQeIdentity(value: Record<string, unknown>, signer: Certificate): QeIdentity {
  require(value.id === 'TD_QE' &&
    whole(value.version, 'version') >= 2, 'qe_identity_mismatch', 'The identity is not TD_QE version 2.')
  return {
    ...readDates(value),
    signer,
    miscSelect: number32(value.miscselect, 'miscselect'),
    miscSelectMask: number32(value.miscselectMask, 'miscselectMask'),
    attributes: hexField(value.attributes, 16, 'attributes'),
    attributesMask: hexField(value.attributesMask, 16, 'attributesMask'),
    mrSigner: hexField(value.mrsigner, 32, 'mrsigner'),
    isvProdId: whole(value.isvprodid, 'isvprodid'),
    levels: array(value.tcbLevels, 'QE tcbLevels').map((entry) => readLevel(entry, false)),
  }
}

/** Checks who signed a text and that the signature covers it, over its exact bytes. */
async function checkSignedText(
  text: string,
  signature: string,
  chain: string,
  root: Certificate,
): Promise<Certificate> {
  const pem = reading('certificate_invalid', () => parsePem(chain))
  require(pem.length > 0, 'certificate_invalid', 'The TCB signing chain is empty.')
  const signer = reading('certificate_invalid', () => parseCertificate(pem[0]!))
  // The role matters: without it, a key taken out of any one machine could sign collateral for all of them.
  require(!signer.isCa &&
    /SGX TCB Signing$/.test(
      signer.commonName,
    ), 'certificate_role', `"${signer.commonName}" does not have the role SGX TCB Signing.`)
  require(pem.length === 2, 'certificate_invalid', 'The TCB signing chain is not leaf and root.')
  require(equalBytes(pem[1]!, root.der), 'untrusted_root', 'The TCB signing chain does not end in the pinned root.')
  await checkIssued(signer, root)
  const bytes = reading('malformed_collateral', () => fromHex(signature, 64))
  require(await verifyP256(
    signer.publicKey,
    bytes,
    utf8(text),
  ), 'collateral_signature', 'The signature over the collateral text does not verify.')
  return signer
}

async function vet(collateral: TdxCollateral, root: Certificate): Promise<VettedTdxCollateral> {
  const [rootCrl, pckCrl, tcbInfo, qeIdentity] = await Promise.all([
    outcomeOf(async () => {
      const crl = reading('crl_invalid', () => parseCrl(collateral.rootCaCrl))
      await checkCrlSignature(crl, root)
      return crl
    }),
    // The PCK CA signs this list, and the quote brings the CA, so its signature is checked with the quote.
    outcomeOf(() => reading('crl_invalid', () => parseCrl(collateral.pckCrl))),
    outcomeOf(async () => {
      const { tcbInfo: text, tcbInfoSignature, tcbInfoChain } = collateral
      const signer = await checkSignedText(text, tcbInfoSignature, tcbInfoChain, root)
      return reading('malformed_collateral', () => readTcbInfo(parseMembers(text).value, signer))
    }),
    outcomeOf(async () => {
      const { qeIdentity: text, qeIdentitySignature, qeIdentityChain } = collateral
      const signer = await checkSignedText(text, qeIdentitySignature, qeIdentityChain, root)
      return reading('malformed_collateral', () => readQeIdentity(parseMembers(text).value, signer))
    }),
  ])
  return { rootCrl, pckCrl, tcbInfo, qeIdentity }
}

/** Computes the digest that names one set of collateral. */
function tdxCollateralDigest(collateral: TdxCollateral): string {
  const { tcbInfo, tcbInfoSignature, tcbInfoChain, qeIdentity, qeIdentitySignature, qeIdentityChain } = collateral
  const texts = utf8(
    [tcbInfo, tcbInfoSignature, tcbInfoChain, qeIdentity, qeIdentitySignature, qeIdentityChain].join('\0'),
  )
  return toHex(sha256(concat(sha256(texts), sha256(collateral.pckCrl), sha256(collateral.rootCaCrl))))
}

/** Checks everything about collateral that depends neither on the time nor on a quote: chains to the pinned root, roles, signatures over exact bytes, shapes. Remembered by digest. */
export function vetTdxCollateral(
  collateral: TdxCollateral,
  { roots, cache }: { roots: Roots; cache: EvidenceCache },
): Promise<VettedTdxCollateral> {
  return cache.remember(`tdx collateral ${toHex(sha256(roots.intel))} ${tdxCollateralDigest(collateral)}`, async () =>
    vet(
      collateral,
      reading('untrusted_root', () => parseCertificate(roots.intel)),
    ),
  )
}

/** Checks a signed text's dates against the clock and the policy. Refuses otherwise. */
export function checkDates({ issueDate, nextUpdate, evaluation }: Document, now: number, policy: Policy): void {
  require(now >= issueDate &&
    now <= nextUpdate, 'collateral_stale', `Collateral covers ${issueDate} to ${nextUpdate}, now is ${now}.`)
  require(now - issueDate <=
    policy.maxCollateralAgeSeconds, 'collateral_too_old', `Collateral is ${now - issueDate} s old; the policy allows ${policy.maxCollateralAgeSeconds} s.`)
  require(evaluation >=
    policy.minTcbEvaluationDataNumber, 'collateral_too_old', `TCB evaluation ${evaluation} is below the policy's ${policy.minTcbEvaluationDataNumber}.`)
}

/** Checks collateral by itself, before any quote: chains, signatures, revocation, dates and policy, the PCK CRL under the chain it came with. Gives when it runs out (unix seconds); throws Refused. */
export async function checkTdxCollateral(
  collateral: TdxCollateral,
  { now, roots, policy, cache }: { now: number; roots: Roots; policy: Policy; cache: EvidenceCache },
): Promise<{ issuedAt: number; expiresAt: number }> {
  const root = reading('untrusted_root', () => parseCertificate(roots.intel))
  const vetted = await vetTdxCollateral(collateral, { roots, cache })
  const rootCrl = unwrap(vetted.rootCrl)
  const pckCrl = unwrap(vetted.pckCrl)
  const documents = [unwrap(vetted.tcbInfo), unwrap(vetted.qeIdentity)]
  const [authorityDer, rootDer] = reading('certificate_invalid', () => parsePem(collateral.pckCrlChain))
  require(authorityDer !== undefined &&
    rootDer !== undefined &&
    equalBytes(rootDer, root.der), 'untrusted_root', "The PCK CRL's chain does not end in the pinned root.")
  const authority = reading('certificate_invalid', () => parseCertificate(authorityDer))
  await checkIssued(authority, root)
  await checkCrlSignature(pckCrl, authority)
  for (const certificate of [root, authority, ...documents.map(({ signer }) => signer)]) checkWindow(certificate, now)
  checkCrlStatus(rootCrl, root, [authority, ...documents.map(({ signer }) => signer)], now)
  checkCrlStatus(pckCrl, authority, [], now)
  for (const document of documents) checkDates(document, now, policy)
  return {
    issuedAt: Math.min(...documents.map(({ issueDate }) => issueDate)),
    expiresAt: Math.min(
      rootCrl.nextUpdate,
      pckCrl.nextUpdate,
      ...documents.flatMap(({ nextUpdate, issueDate, signer }) => [
        nextUpdate,
        issueDate + policy.maxCollateralAgeSeconds,
        signer.notAfter,
      ]),
      authority.notAfter,
    ),
  }
}
