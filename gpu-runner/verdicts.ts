import {
  type AttestedVerdict,
  attestedVerdictDigest,
  attestedVerdictFromJson,
  sortSignatures,
} from '../protocol/attestedVerdict.ts'
import { publishedDigest, type RegistrationClaim, registrationToJson } from '../protocol/attestRegistration.ts'
import { fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import { recoverAddress } from '../protocol/secp256k1.ts'

/** Reports that too few verifiers agree on a registration, and what each of them said. */
export class VerdictMissingError extends Error {
  override name = 'VerdictMissingError'
}

/** Says how many verifiers the registry listens to must agree, and who they are. */
export type VerifierSet = { threshold: number; isVerifier(address: Hex): Promise<boolean> }

/** Holds a verdict with as many signatures as the chain asks for, in the order it asks for them. */
export type AgreedVerdict = { verdict: AttestedVerdict; signatures: Hex[] }

/** How often verifiers that are away are asked, and how long between where they do not say, in seconds. */
const maxRounds = 5
const defaultAgainSeconds = 5
const maxAgainSeconds = 30

type Signed = { verdict: AttestedVerdict; digest: string; signer: Hex; signature: Hex }
/** What a verifier said: a verdict, or why there is none and after how many milliseconds to ask again, null for never. */
type Answer = { signed: Signed } | { why: string; againMs: number | null }

/** Asks every verifier for its verdict at once, and gives the first that enough of them signed; those that are away, or whose chain or vendor is, are waited for and asked again, for a minute or two in all. What a verifier answers is checked here: whose key it is, and that the verdict is of this registration. Throws VerdictMissingError. */
export async function collectVerdict({
  urls,
  claim,
  nonceBlock,
  signer,
  domain,
  set,
  fetch,
  sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
}: {
  urls: readonly string[]
  claim: RegistrationClaim
  nonceBlock: bigint
  /** The runner's own address, which the verdict must name. */
  signer: Hex
  domain: { chainId: number; registry: Hex }
  set: VerifierSet
  fetch: (url: string, init: RequestInit) => Promise<Response>
  /** Waits, in milliseconds. */
  sleep?: (ms: number) => Promise<unknown>
}): Promise<AgreedVerdict> {
  const digest = publishedDigest(claim)
  const body = JSON.stringify({ ...registrationToJson(claim), nonceBlock: nonceBlock.toString() })
  const post = async (url: string): Promise<Answer> => {
    const request = { method: 'POST', headers: { 'content-type': 'application/json' }, body }
    const response = await fetch(`${url.replace(/\/$/, '')}/v1/verdicts`, request).catch((error: Error) => error)
    if (response instanceof Error) return { why: `cannot be reached: ${response.message}`, againMs: againIn(null) }
    const json = (await response.json().catch(() => ({}))) as Record<string, unknown>
    if (response.status === 503)
      return { why: `503: ${json.detail ?? 'no reason given'}`, againMs: againIn(response.headers.get('retry-after')) }
    if (!response.ok) throw new Error(`${response.status} ${json.code ?? ''}: ${json.detail ?? 'no reason given'}`)
    const verdict = attestedVerdictFromJson(json.attested)
    if (verdict.evidenceDigest !== digest || verdict.signer !== signer || verdict.provider !== claim.provider)
      throw new Error('its verdict is of another registration')
    const signature = fromHex(String(json.signature), 65)
    const typed = attestedVerdictDigest(domain, verdict)
    const by = recoverAddress(typed, signature)
    if (!by || !(await set.isVerifier(by))) throw new Error(`it signs as ${by ?? 'nobody'}, who is not a verifier here`)
    return { signed: { verdict, digest: toHex(typed), signer: by, signature: toHex(signature) } }
  }
  const ask = (url: string): Promise<Answer> => post(url).catch(({ message: why }: Error) => ({ why, againMs: null }))

  const said = new Map<string, string>()
  const alike = new Map<string, Map<Hex, Signed>>()
  for (let round = 1, left = urls; ; round++) {
    const answers = await Promise.all(left.map(async (url) => ({ url, ...(await ask(url)) })))
    for (const answer of answers) {
      said.set(answer.url, 'signed' in answer ? 'agreed with too few others' : answer.why)
      if (!('signed' in answer)) continue
      const group = alike.get(answer.signed.digest) ?? new Map<Hex, Signed>()
      alike.set(answer.signed.digest, group.set(answer.signed.signer, answer.signed))
    }
    const agreed = [...alike.values()].find(({ size }) => size >= set.threshold)
    if (agreed) {
      const signed = [...agreed.values()].slice(0, set.threshold)
      return { verdict: signed[0]!.verdict, signatures: sortSignatures(signed) }
    }
    const later = answers.flatMap((answer) => ('againMs' in answer && answer.againMs !== null ? [answer] : []))
    if (later.length === 0 || round === maxRounds) break
    left = later.map(({ url }) => url)
    await sleep(Math.max(...later.map(({ againMs }) => againMs!)))
  }
  throw new VerdictMissingError(
    `${set.threshold} verifiers must agree, of whom ASSAY_VERIFIERS names ${urls.length}. ${urls.map((url) => `${url}: ${said.get(url)}`).join('; ')}`,
  )
}

/** How long a verifier that says to come back, or cannot be reached, is given, in milliseconds: as it says, within these bounds. */
function againIn(retryAfter: string | null): number {
  const seconds = retryAfter !== null && /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) : defaultAgainSeconds
  return Math.min(maxAgainSeconds, Math.max(1, seconds)) * 1_000
}
