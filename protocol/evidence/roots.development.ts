import type { Roots } from './roots.ts'

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
