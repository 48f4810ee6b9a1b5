import { createPublicClient, http } from 'viem'
import { runnerRegistryAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'
import type { VerifierChain } from './verify.ts'

/** Reads the registry and block hashes over JSON-RPC. Throws what viem throws when the node is away. */
export function connectVerifierChain(rpcUrl: string, registry: Hex): VerifierChain {
  const client = createPublicClient({ transport: http(rpcUrl, { timeout: 5_000, retryCount: 1 }), cacheTime: 0 })
  const at = { address: registry, abi: runnerRegistryAbi } as const
  return {
    async standing() {
      const [[, policyEpoch], [killedBlock]] = await Promise.all([
        client.readContract({ ...at, functionName: 'standing' }),
        client.readContract({ ...at, functionName: 'tcbRules' }),
      ])
      return { policyEpoch, killedBlock: BigInt(killedBlock) }
    },
    latestBlock: () => client.getBlockNumber(),
    async blockHash(number) {
      try {
        return (await client.getBlock({ blockNumber: number })).hash
      } catch (error) {
        if (error instanceof Error && error.name === 'BlockNotFoundError') return null
        throw error
      }
    },
  }
}
