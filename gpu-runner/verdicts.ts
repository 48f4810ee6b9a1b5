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

type Signed = { verdict: AttestedVerdict; digest: string; signer: Hex; signature: Hex }

/** Asks every verifier for its verdict at once, and gives the first that enough of them signed. What a verifier answers is checked here: whose key it is, and that the verdict is of this registration. Throws VerdictMissingError. */
export async function collectVerdict({
  urls,
  claim,
  nonceBlock,
  signer,
  domain,
  set,
  fetch,
}: {
  urls: readonly string[]
  claim: RegistrationClaim
  nonceBlock: bigint
  /** The runner's own address, which the verdict must name. */
  signer: Hex
  domain: { chainId: number; registry: Hex }
  set: VerifierSet
  fetch: (url: string, init: RequestInit) => Promise<Response>
}): Promise<AgreedVerdict> {
  const digest = publishedDigest(claim)
  const body = JSON.stringify({ ...registrationToJson(claim), nonceBlock: nonceBlock.toString() })
  const ask = async (url: string): Promise<Signed> => {
    const response = await fetch(`${url.replace(/\/$/, '')}/v1/verdicts`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
    const json = (await response.json().catch(() => ({}))) as Record<string, unknown>
    if (!response.ok) throw new Error(`${response.status} ${json.code ?? ''}: ${json.detail ?? 'no reason given'}`)
    const verdict = attestedVerdictFromJson(json.attested)
    if (verdict.evidenceDigest !== digest || verdict.signer !== signer || verdict.provider !== claim.provider)
      throw new Error('its verdict is of another registration')
    const signature = fromHex(String(json.signature), 65)
    const typed = attestedVerdictDigest(domain, verdict)
    const by = recoverAddress(typed, signature)
    if (!by || !(await set.isVerifier(by))) throw new Error(`it signs as ${by ?? 'nobody'}, who is not a verifier here`)
    return { verdict, digest: toHex(typed), signer: by, signature: toHex(signature) }
  }

  const answers = await Promise.allSettled(urls.map(ask))
  const alike = new Map<string, Map<Hex, Signed>>()
  for (const answer of answers) {
    if (answer.status === 'rejected') continue
    const group = alike.get(answer.value.digest) ?? new Map<Hex, Signed>()
    alike.set(answer.value.digest, group.set(answer.value.signer, answer.value))
  }
  for (const group of alike.values()) {
    if (group.size < set.threshold) continue
    const signed = [...group.values()].slice(0, set.threshold)
    return { verdict: signed[0]!.verdict, signatures: sortSignatures(signed) }
  }
  const said = answers.map((answer, index) => {
    const word = answer.status === 'fulfilled' ? 'agreed with too few others' : (answer.reason as Error).message
    return `${urls[index]}: ${word}`
  })
  throw new VerdictMissingError(
    `${set.threshold} verifiers must agree, of whom ASSAY_VERIFIERS names ${urls.length}. ${said.join('; ')}`,
  )
}
