import { EncodingError } from '../bytes.ts'
import { type EvidenceCache, noCache } from './cache.ts'
import type { Collateral, Evidence } from './index.ts'
import { parseMembers } from './json.ts'
import { readPckExtension } from './pck.ts'
import type { Policy } from './policy.ts'
import { parseTdxQuote } from './quote.ts'
import type { Roots } from './roots.ts'
import { checkTdxCollateral } from './tdxCollateral.ts'
import { type Refusal, Refused } from './verdict.ts'
import { parseCertificate } from './x509.ts'

/** Reports that a collateral service could not be reached or answered with something else. */
export class CollateralUnavailableError extends Error {
  override name = 'CollateralUnavailableError'
}

/** Names the platform whose collateral a quote needs, as `tdx:fmspc:ca`: machines of one name share it. Throws EncodingError or UnsupportedQuoteError on a malformed quote. */
export function platformOf(evidence: Evidence): string {
  const { fmspc, ca } = platformParts(evidence)
  return `tdx:${fmspc}:${ca}`
}

function platformParts(evidence: Evidence): { fmspc: string; ca: 'processor' | 'platform' } {
  const quote = parseTdxQuote(evidence.quote)
  const { fmspc } = readPckExtension(parseCertificate(quote.chain[0]!))
  const ca = parseCertificate(quote.chain[1]!).commonName.includes('Processor') ? 'processor' : 'platform'
  return { fmspc, ca }
}

/** Checks collateral by itself before it is kept: under one set of roots, as of `now` (unix seconds). Gives when it was issued and runs out, or the refusal. */
export async function checkCollateral(
  collateral: Collateral,
  context: { now: number; roots: Roots; policy: Policy; cache?: EvidenceCache },
): Promise<{ ok: true; issuedAt: number; expiresAt: number } | { ok: false; refusal: Refusal }> {
  try {
    return { ok: true, ...(await checkTdxCollateral(collateral, { ...context, cache: context.cache ?? noCache })) }
  } catch (error) {
    if (error instanceof Refused) return { ok: false, refusal: error.refusal }
    throw error
  }
}

/** Fetches the collateral of a quote's platform from Intel's provisioning service or a cache of the same shape (PCS API v4). Trusts nothing it gets: verification does. Throws EncodingError on a malformed quote, CollateralUnavailableError otherwise. */
export async function fetchCollateral(
  evidence: Evidence,
  { fetch, baseUrl }: { fetch: (url: string) => Promise<Response>; baseUrl: string },
): Promise<Collateral> {
  const { fmspc, ca } = platformParts(evidence)

  const get = async (path: string): Promise<Response> => {
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
    get(`/tdx/certification/v4/tcb?fmspc=${fmspc}`),
    get('/tdx/certification/v4/qe/identity'),
    get(`/sgx/certification/v4/pckcrl?ca=${ca}&encoding=der`),
    get('/sgx/certification/v4/rootcacrl'),
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
