import { concat, EncodingError, type Hex, toHex, utf8 } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { noCache } from './cache.ts'
import { type Cbor, type CborTag, readCbor, readCborPrefix } from './cbor.ts'
import { step } from './checks.ts'
import { assert, checkWorkload, type EvidenceContext, type Found, judge } from './judge.ts'
import { reading, require, type Verdict } from './verdict.ts'
import { type Certificate, checkIssued, checkWindow, p384Profile, parseCertificate, verifyEcdsa } from './x509.ts'

/** Holds an attestation document of the Nitro Security Module, cut into its parts (AWS Nitro Enclaves, attestation process, §2). Times in unix seconds. */
export type NitroDocument = {
  protectedHeader: Uint8Array
  payload: Uint8Array
  signature: Uint8Array
  moduleId: string
  timestamp: number
  pcrs: Map<number, Uint8Array>
  /** Leaf first, then its issuers up to the root. */
  chain: Uint8Array[]
  publicKey: Uint8Array | null
  userData: Uint8Array | null
  nonce: Uint8Array | null
}

const coseSign1Tag = 18
const es384 = -35

const isBytes = (value: Cbor | undefined): value is Uint8Array => value instanceof Uint8Array

function expectBytes(
  value: Cbor | undefined,
  field: string,
  { min = 1, max }: { min?: number; max: number },
): Uint8Array {
  if (!isBytes(value) || value.length < min || value.length > max)
    throw new EncodingError(`Document: ${field} takes ${min} to ${max} bytes.`)
  return value
}

function optionalBytes(value: Cbor | undefined, field: string, max: number): Uint8Array | null {
  return value === undefined || value === null ? null : expectBytes(value, field, { min: 0, max })
}

function expectMap(value: Cbor | undefined, field: string): Map<string | number, Cbor> {
  if (!(value instanceof Map)) throw new EncodingError(`Document: ${field} is not a map.`)
  return value
}

function readPcrs(value: Cbor | undefined): Map<number, Uint8Array> {
  const pcrs = expectMap(value, 'pcrs')
  if (pcrs.size === 0 || pcrs.size > 32) throw new EncodingError('Document: pcrs takes 1 to 32 registers.')
  return new Map(
    [...pcrs].map(([index, register]) => {
      if (typeof index !== 'number' || index < 0 || index > 31)
        throw new EncodingError('Document: a PCR is numbered 0 to 31.')
      return [index, expectBytes(register, `PCR${index}`, { min: 48, max: 48 })]
    }),
  )
}

/** Reads an attestation document strictly: COSE_Sign1 with ES384 and nothing else (RFC 9052 §4.2, RFC 9053 §2.1), every field within AWS's limits. Throws EncodingError. */
export function parseNitroDocument(bytes: Uint8Array): NitroDocument {
  let cose = readCbor(bytes)
  if (typeof cose === 'object' && cose !== null && 'tag' in cose) {
    if ((cose as CborTag).tag !== coseSign1Tag) throw new EncodingError('Document: the tag is not COSE_Sign1.')
    cose = (cose as CborTag).content
  }
  if (!Array.isArray(cose) || cose.length !== 4) throw new EncodingError('Document: COSE_Sign1 has four parts.')
  const [protectedHeader, unprotected, payload, signature] = cose
  const header = expectMap(readCbor(expectBytes(protectedHeader, 'protected header', { max: 64 })), 'protected header')
  if (header.size !== 1 || header.get(1) !== es384)
    throw new EncodingError('Document: signed with something other than ES384.')
  if (expectMap(unprotected, 'unprotected header').size > 0)
    throw new EncodingError('Document: the unprotected header is not empty.')
  const fields = expectMap(readCbor(expectBytes(payload, 'payload', { max: 32_768 })), 'payload')
  if (fields.get('digest') !== 'SHA384') throw new EncodingError('Document: the digest is not SHA384.')
  const moduleId = fields.get('module_id')
  const timestamp = fields.get('timestamp')
  if (typeof moduleId !== 'string' || moduleId === '') throw new EncodingError('Document: module_id is missing.')
  if (typeof timestamp !== 'number' || timestamp <= 0) throw new EncodingError('Document: timestamp is missing.')
  const bundle = fields.get('cabundle')
  if (!Array.isArray(bundle) || bundle.length === 0 || bundle.length > 8)
    throw new EncodingError('Document: cabundle takes 1 to 8 certificates.')
  const certificate = (value: Cbor | undefined) => expectBytes(value, 'certificate', { max: 1024 })
  return {
    protectedHeader: protectedHeader as Uint8Array,
    payload: payload as Uint8Array,
    signature: expectBytes(signature, 'signature', { min: 96, max: 96 }),
    moduleId,
    timestamp: Math.floor(timestamp / 1000),
    pcrs: readPcrs(fields.get('pcrs')),
    // AWS lists the bundle from the root down.
    chain: [certificate(fields.get('certificate')), ...bundle.map(certificate).reverse()],
    publicKey: optionalBytes(fields.get('public_key'), 'public_key', 1024),
    userData: optionalBytes(fields.get('user_data'), 'user_data', 512),
    nonce: optionalBytes(fields.get('nonce'), 'nonce', 512),
  }
}

/** Cuts a document out of the frame some guests keep it in: the COSE_Sign1 array begins with 0x84 0x44. Gives the bytes as they are where there is no frame. */
export function unframeNitroDocument(bytes: Uint8Array): Uint8Array {
  const start = bytes.findIndex((byte, index) => byte === 0x84 && bytes[index + 1] === 0x44)
  if (start < 0 || start > 16) return bytes
  try {
    return bytes.subarray(start, start + readCborPrefix(bytes.subarray(start)).length)
  } catch (error) {
    if (error instanceof EncodingError) return bytes
    throw error
  }
}

function cborBytes(bytes: Uint8Array): Uint8Array {
  const { length } = bytes
  const header = length < 24 ? [0x40 | length] : length < 256 ? [0x58, length] : [0x59, length >> 8, length & 0xff]
  return concat(new Uint8Array(header), bytes)
}

/** Writes what a COSE_Sign1 signature covers: Sig_structure without external data (RFC 9052 §4.4). */
export function nitroSignedBytes({
  protectedHeader,
  payload,
}: Pick<NitroDocument, 'protectedHeader' | 'payload'>): Uint8Array<ArrayBuffer> {
  return concat(
    new Uint8Array([0x84, 0x6a]),
    utf8('Signature1'),
    cborBytes(protectedHeader),
    new Uint8Array([0x40]),
    cborBytes(payload),
  )
}

/** Computes the digest that names an enclave's workload: PCR0 to PCR4 and PCR8, which image, kernel, application, role and signer fill. */
export function nitroWorkload({ pcrs }: Pick<NitroDocument, 'pcrs'>): Hex {
  const registers = [0, 1, 2, 3, 4, 8].map((index) => pcrs.get(index) ?? new Uint8Array(48))
  return toHex(sha256(concat(utf8('ASY1wnit'), ...registers)))
}

async function checkChain(
  { chain }: NitroDocument,
  { roots, now, cache = noCache }: EvidenceContext,
): Promise<Certificate[]> {
  const root = toHex(sha256(chain.at(-1)!))
  require(roots.aws === root, 'untrusted_root', `The chain does not end in the pinned ${roots.kind} root.`)
  const certificates = await cache.remember(`nitro ${toHex(sha256(concat(...chain.map(sha256))))}`, async () => {
    const parsed = chain.map((der) => reading('certificate_invalid', () => parseCertificate(der, p384Profile)))
    for (const [index, certificate] of parsed.entries())
      await checkIssued(certificate, parsed[index + 1] ?? certificate)
    return parsed
  })
  for (const certificate of certificates) checkWindow(certificate, now)
  const leaf = certificates[0]!
  require(!leaf.isCa && !leaf.keyCertSign, 'certificate_role', `"${leaf.commonName}" is an authority, not an enclave.`)
  return certificates
}

function checkPcrs({ pcrs }: NitroDocument, { policy }: EvidenceContext): void {
  const zero = (index: number) => pcrs.get(index)?.every((byte) => byte === 0) ?? true
  require(!zero(0) && !zero(1) && !zero(2), 'debug', 'PCR0, PCR1 or PCR2 is zero: the enclave runs in debug mode.')
  const { pcrs: allowed } = policy.nitro
  if (allowed === 'any') return
  const equal = (wanted: Readonly<Record<string, Hex>>) =>
    Object.entries(wanted).every(([index, value]) => {
      const register = pcrs.get(Number(index))
      return register !== undefined && toHex(register) === value
    })
  require(allowed.some(equal), 'measurement_not_allowed', "The enclave's PCRs equal no set on the policy's list.")
}

async function verify(bytes: Uint8Array, context: EvidenceContext, found: Found): Promise<undefined> {
  const { now, policy, trace } = context
  const document = await step(
    trace,
    { check: 'document format', compared: 'COSE_Sign1', with: 'ES384, fields within their limits', from: 'evidence' },
    (row) => {
      const read = reading('malformed_evidence', () => parseNitroDocument(bytes))
      row.compared = `module ${read.moduleId}, ${read.pcrs.size} PCRs`
      return read
    },
  )
  found.reportData = document.userData ? toHex(document.userData) : null
  found.debug = [0, 1, 2].some((index) => document.pcrs.get(index)?.every((byte) => byte === 0) ?? true)
  const registers = [...document.pcrs].filter(([, value]) => value.some((byte) => byte !== 0))
  const workload = nitroWorkload(document)
  found.measurement = {
    workload,
    ...Object.fromEntries(registers.map(([index, value]) => [`pcr${index}`, toHex(value)])),
  }

  const certificates = await step(
    trace,
    {
      check: 'certificate chain',
      compared: 'enclave, zone, region, root',
      with: `pinned ${context.roots.kind} root, roles, validity`,
      from: 'evidence and roots',
    },
    (row) => {
      row.compared = `${document.chain.length} certificates`
      return checkChain(document, context)
    },
  )
  await step(
    trace,
    { check: 'document signature', compared: 'protected header and payload', with: "the leaf's key", from: 'evidence' },
    async () =>
      require(await verifyEcdsa(
        'P-384',
        certificates[0]!.publicKey,
        document.signature,
        nitroSignedBytes(document),
      ), 'evidence_signature', 'The security module did not sign this document.'),
  )
  assert(found, 'platform_genuine', `The document's key chains to the pinned ${context.roots.kind} root.`, 'hardware')
  found.claims.push({
    claim: 'not_revoked',
    status: 'unknown',
    source: 'verifier',
    detail: 'AWS serves no revocation list that others may rely on; leaf certificates live three hours instead.',
  })
  await step(
    trace,
    {
      check: 'age',
      compared: new Date(document.timestamp * 1000).toISOString(),
      with: `at most ${policy.nitro.maxAgeSeconds} s old`,
      from: `policy ${policy.version}`,
    },
    () =>
      require(document.timestamp <= now + 300 &&
        now - document.timestamp <=
          policy.nitro.maxAgeSeconds, 'evidence_too_old', `The document is of ${document.timestamp}, now is ${now}.`),
  )
  await step(
    trace,
    {
      check: 'PCRs',
      compared: registers.map(([index]) => `PCR${index}`).join(', ') || 'none set',
      with: 'not zero; the allowed sets',
      from: `policy ${policy.version}`,
    },
    () => checkPcrs(document, context),
  )
  assert(found, 'isolated', 'Not in debug mode: PCR0 to PCR2 are measured.', 'hardware')
  found.claims.push({
    claim: 'tcb_current',
    status: 'unknown',
    source: 'operator',
    detail: 'AWS keeps the platform current and publishes no levels to compare with.',
  })
  found.validUntil = Math.min(
    ...certificates.map(({ notAfter }) => notAfter),
    document.timestamp + policy.nitro.maxAgeSeconds,
  )
  checkWorkload(found, workload, context, policy.nitro.pcrs !== 'any')
}

/** Verifies a Nitro attestation document, which brings its own chain: a verdict, never an exception, for any bytes. Pure in its arguments. */
export function verifyNitro(document: Uint8Array, context: EvidenceContext): Promise<Verdict> {
  return judge('nitro', 'malformed_evidence', context, true, (_, found) => verify(document, context, found))
}
