import { fromBase64, type Hex, toHex } from '../bytes.ts'
import { sha256 } from '../hash.ts'
import type { AmdProduct, Roots } from './roots.ts'
import { amdProfile, p256Profile, parseCertificate } from './x509.ts'

/** Lists the chain ids of local chains: the only ones where a development root may stand. */
export const localChainIds: readonly number[] = [31_337, 1_337]

/** Trusts a development root, on a local chain only. Throws on any other chain id. Lives apart so that the production entry never loads it. */
export function developmentRoots({ chainId, ...roots }: { chainId: number } & Omit<Roots, 'kind'>): Roots {
  if (!localChainIds.includes(chainId)) {
    throw new Error(
      `A development root is refused on chain ${chainId}; it stands on local chains (${localChainIds.join(', ')}) only.`,
    )
  }
  return { kind: 'development', ...roots }
}

/** Reads development roots as settings carry them: certificates in base64 DER, separated by commas. AMD's kind is known by its name (`ARK-Genoa`); the other stands where Intel's does. Throws EncodingError on what is neither, and Error on a chain that is not local. */
export function readDevelopmentRoots(chainId: number, text: string): Roots {
  let intel = new Uint8Array()
  const amd: Partial<Record<AmdProduct, Hex>> = {}
  for (const der of text.split(',').map(fromBase64)) {
    const product = productOf(der)
    if (product) amd[product] = toHex(sha256(der))
    else {
      parseCertificate(der, p256Profile)
      intel = der
    }
  }
  return developmentRoots({ chainId, intel, amd })
}

function productOf(der: Uint8Array): AmdProduct | null {
  try {
    const [, product] = /^ARK-(Milan|Genoa|Turin)$/.exec(parseCertificate(der, amdProfile).commonName) ?? []
    return (product ?? null) as AmdProduct | null
  } catch {
    return null
  }
}
