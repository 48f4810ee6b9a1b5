import { EncodingError, toHex } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import { type EvidenceCache, noCache } from './cache.ts'
import type { Collateral, CollateralOf, Evidence, EvidenceOf } from './index.ts'
import { parseMembers } from './json.ts'
import { readPckExtension } from './pck.ts'
import type { Policy } from './policy.ts'
import { parseTdxQuote } from './quote.ts'
import type { AmdProduct, Roots } from './roots.ts'
import { parseSnpReport, readSnpTcb } from './snpReport.ts'
import { checkTdxCollateral } from './tdxCollateral.ts'
import { type Refusal, Refused } from './verdict.ts'
import { parseCertificate, parsePem } from './x509.ts'

/** Reports that a collateral service could not be reached or answered with something else. */
export class CollateralUnavailableError extends Error {
  override name = 'CollateralUnavailableError'
}

/** Names the platform whose collateral evidence needs; machines of one name share it. TDX machines share theirs by model and CA; every SNP chip has its own, and a new one with each firmware. Null where evidence brings its own chain. Throws EncodingError or UnsupportedQuoteError on malformed evidence. */
export function platformOf(evidence: Evidence): string | null {
  if (evidence.format === 'tdx') {
    const { fmspc, ca } = tdxPlatform(evidence.quote)
    return `tdx:${fmspc}:${ca}`
  }
  if (evidence.format === 'snp') {
    const { product, chipId, tcb } = snpChip(evidence.report)
    const key = evidence.vlek ? toHex(sha256(evidence.vlek)) : toHex(chipId)
    return `snp:${product}:${key.slice(2)}:${toHex(tcb).slice(2)}`
  }
  return null
}

function tdxPlatform(bytes: Uint8Array): { fmspc: string; ca: 'processor' | 'platform' } {
  const quote = parseTdxQuote(bytes)
  const { fmspc } = readPckExtension(parseCertificate(quote.chain[0]!))
  const ca = parseCertificate(quote.chain[1]!).commonName.includes('Processor') ? 'processor' : 'platform'
  return { fmspc, ca }
}

function snpChip(bytes: Uint8Array): { product: AmdProduct; chipId: Uint8Array; tcb: Uint8Array } {
  const { product, chipId, tcb } = parseSnpReport(bytes)
  if (!product) throw new EncodingError('An SNP report of version 2 does not name its processor; update the firmware.')
  return { product, chipId: product === 'Turin' ? chipId.subarray(0, 8) : chipId, tcb: tcb.reported }
}

/** Checks TDX collateral by itself before it is kept: under one set of roots, as of `now` (unix seconds). Gives when it was issued and runs out, or the refusal. Collateral of other formats is of one chip, and is checked with its evidence. */
export async function checkCollateral(
  collateral: CollateralOf<'tdx'>,
  context: { now: number; roots: Roots; policy: Policy; cache?: EvidenceCache },
): Promise<{ ok: true; issuedAt: number; expiresAt: number } | { ok: false; refusal: Refusal }> {
  try {
    return { ok: true, ...(await checkTdxCollateral(collateral, { ...context, cache: context.cache ?? noCache })) }
  } catch (error) {
    if (error instanceof Refused) return { ok: false, refusal: error.refusal }
    throw error
  }
}

/** Says where collateral comes from: Intel's provisioning service or a cache of its shape (PCS API v4), and AMD's key distribution service. */
export type CollateralSource = { fetch: (url: string) => Promise<Response>; intelUrl: string; amdUrl: string }

async function get(fetch: CollateralSource['fetch'], baseUrl: string, path: string): Promise<Response> {
  let response: Response
  try {
    response = await fetch(`${baseUrl.replace(/\/$/, '')}${path}`)
  } catch (cause) {
    throw new CollateralUnavailableError('The collateral service cannot be reached.', { cause })
  }
  if (!response.ok)
    throw new CollateralUnavailableError(
      `The collateral service answered ${response.status} for ${path.split('?')[0]}.`,
    )
  return response
}

/** Fetches the collateral of evidence's platform from its vendor; null for a format that brings its own. Trusts nothing it gets: verification does. Throws EncodingError or UnsupportedQuoteError on malformed evidence, CollateralUnavailableError otherwise. */
export async function fetchCollateral(evidence: Evidence, source: CollateralSource): Promise<Collateral | null> {
  if (evidence.format === 'tdx') return fetchTdxCollateral(evidence.quote, source)
  if (evidence.format === 'snp') return fetchSnpCollateral(evidence, source)
  return null
}

/** Fetches a chip's certificates and its root's revocation list (AMD VCEK certificate and KDS interface specification, §4). */
async function fetchSnpCollateral(
  { report, vlek }: EvidenceOf<'snp'>,
  { fetch, amdUrl }: CollateralSource,
): Promise<Collateral> {
  const { product, chipId, tcb: bytes } = snpChip(report)
  const kind = vlek ? 'vlek' : 'vcek'
  const tcb = readSnpTcb(product, bytes)
  const spl = new URLSearchParams({
    ...(product === 'Turin' ? { fmcSPL: String(tcb.fmc) } : {}),
    blSPL: String(tcb.bootloader),
    teeSPL: String(tcb.tee),
    snpSPL: String(tcb.snp),
    ucodeSPL: String(tcb.microcode),
  })
  const path = `/${kind}/v1/${product}`
  const [leaf, chain, crl] = await Promise.all([
    vlek ? null : get(fetch, amdUrl, `${path}/${toHex(chipId).slice(2)}?${spl}`),
    get(fetch, amdUrl, `${path}/cert_chain`),
    get(fetch, amdUrl, `${path}/crl`),
  ])
  const bytesOf = async (response: Response) => new Uint8Array(await response.arrayBuffer())
  let issuers: Uint8Array[]
  try {
    issuers = parsePem(await chain.text())
  } catch (cause) {
    throw new CollateralUnavailableError('The collateral service sent a malformed chain.', { cause })
  }
  const [authority, root] = issuers
  if (!authority || !root || issuers.length !== 2)
    throw new CollateralUnavailableError(
      `The collateral service sent a chain of ${issuers.length} certificates, not 2.`,
    )
  return { format: 'snp', certificate: vlek ?? (await bytesOf(leaf!)), authority, root, crl: await bytesOf(crl) }
}

/** Fetches the collateral of a TDX quote's platform. Throws as `fetchCollateral` does. */
async function fetchTdxCollateral(
  quote: Uint8Array,
  { fetch, intelUrl }: Pick<CollateralSource, 'fetch' | 'intelUrl'>,
): Promise<CollateralOf<'tdx'>> {
  const { fmspc, ca } = tdxPlatform(quote)
  const chainOf = (response: Response, ...names: string[]) => {
    for (const name of names) {
      const value = response.headers.get(name)
      if (value) return decodeURIComponent(value)
    }
    throw new CollateralUnavailableError(`The collateral service left out ${names[0]}.`)
  }
  const signed = async (response: Response, member: string) => {
    try {
      const { value, raw } = parseMembers(await response.text())
      const text = raw.get(member)
      if (text === undefined || typeof value.signature !== 'string') throw new EncodingError(`no ${member}`)
      return { text, signature: value.signature }
    } catch (cause) {
      throw new CollateralUnavailableError(`The collateral service sent a malformed ${member}.`, { cause })
    }
  }

  const [tcb, qe, pckCrl, rootCrl] = await Promise.all([
    get(fetch, intelUrl, `/tdx/certification/v4/tcb?fmspc=${fmspc}`),
    get(fetch, intelUrl, '/tdx/certification/v4/qe/identity'),
    get(fetch, intelUrl, `/sgx/certification/v4/pckcrl?ca=${ca}&encoding=der`),
    get(fetch, intelUrl, '/sgx/certification/v4/rootcacrl'),
  ])
  const tcbInfo = await signed(tcb, 'tcbInfo')
  const qeIdentity = await signed(qe, 'enclaveIdentity')
  return {
    format: 'tdx',
    tcbInfo: tcbInfo.text,
    tcbInfoSignature: tcbInfo.signature,
    tcbInfoChain: chainOf(tcb, 'TCB-Info-Issuer-Chain', 'SGX-TCB-Info-Issuer-Chain'),
    qeIdentity: qeIdentity.text,
    qeIdentitySignature: qeIdentity.signature,
    qeIdentityChain: chainOf(qe, 'SGX-Enclave-Identity-Issuer-Chain'),
    pckCrl: new Uint8Array(await pckCrl.arrayBuffer()),
    pckCrlChain: chainOf(pckCrl, 'SGX-PCK-CRL-Issuer-Chain'),
    rootCaCrl: new Uint8Array(await rootCrl.arrayBuffer()),
  }
}
