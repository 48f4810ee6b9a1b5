import type { Address, PublicClient } from 'viem'
import { escrowAbi, runnerRegistryAbi, verifierSetAbi } from '../contracts/abi.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import { packClaims } from '../protocol/claims.ts'
import { asOfNextBlock } from '../protocol/nextBlock.ts'
import { walletStandsBy } from '../protocol/walletSignature.ts'
import { type Claimable, claimOf } from './claimable.ts'
import type { ChainReader } from './service.ts'
import type { VerifierSet } from './verdicts.ts'

/** Names a marketplace's contracts, and the node that is asked about them. */
export type Contracts = { client: PublicClient; chainId: number; escrow: Address; registry: Address }

/** Reads all that a runner asks its chain. */
export type ChainReads = ChainReader & {
  recentBlock(): Promise<{ number: bigint; hash: Hex }>
  /** Tells whose verdicts the registry takes. */
  verifierSet(): Promise<VerifierSet>
  /** Tells what a claim would pay now; zero when the escrow would refuse it. */
  preview(claim: Claimable): Promise<bigint>
  /** Gives what a unit of gas costs now and the middle of what it cost lately, in wei; null where the node does not tell. */
  gasPrice(): Promise<{ price: bigint; usual: bigint } | null>
}

// A preview is of what a batch would pay once it is signed.
const unsigned = new Uint8Array(65).fill(27, 64)

/** How many blocks tell what gas usually costs. */
const feeHistoryBlocks = 128

/** Makes a runner's readings of the chain. */
export function chainReads(contracts: Contracts): ChainReads {
  const { client } = contracts
  return {
    ...creditReads(contracts),
    async recentBlock() {
      // The block before the newest: a node that simulates inside the newest block cannot see that one's own hash.
      const newest = await client.getBlockNumber()
      const { number, hash } = await client.getBlock({ blockNumber: newest - 1n })
      return { number, hash }
    },
    async verifierSet() {
      const at = { address: await verifiersOf(contracts), abi: verifierSetAbi } as const
      return {
        threshold: Number(await client.readContract({ ...at, functionName: 'threshold' })),
        isVerifier: (verifier) => client.readContract({ ...at, functionName: 'isVerifier', args: [verifier] }),
      }
    },
    async preview(claim) {
      const packed = packClaims({ claims: [await claimOf(contracts, claim)], signature: unsigned })
      const address = contracts.escrow
      const call = { address, abi: escrowAbi, functionName: 'preview', args: [toHex(packed)] } as const
      const [, [amount]] = await asOfNextBlock((blockTag) => client.readContract({ ...call, blockTag }))
      return amount ?? 0n
    },
    async gasPrice() {
      try {
        const { baseFeePerGas } = await client.getFeeHistory({ blockCount: feeHistoryBlocks, rewardPercentiles: [] })
        const price = baseFeePerGas.at(-1)
        const usual = baseFeePerGas.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0))[baseFeePerGas.length >> 1]
        return price === undefined || usual === undefined ? null : { price, usual }
      } catch {
        return null
      }
    },
  }
}

/** Reads what a runner must know of a buyer before it works on credit. */
function creditReads({ client, escrow }: Contracts): ChainReader {
  const at = { address: escrow, abi: escrowAbi } as const
  return {
    async depositOf(buyer) {
      const [balance, requested] = await client.readContract({ ...at, functionName: 'accounts', args: [buyer] })
      return requested < balance ? balance - requested : 0n
    },
    settledOf: (channel) => client.readContract({ ...at, functionName: 'settled', args: [channel] }),
    mandateLeft: ({ buyer, key, model, channel, at: seconds }) =>
      client.readContract({
        ...at,
        functionName: 'mandateLeft',
        args: [buyer, key, model, channel, BigInt(seconds)],
      }),
    contractSignature: (buyer, digest, signature) => walletStandsBy(client, buyer, digest, signature),
  }
}

/** Finds whose verdicts the registry takes. */
export function verifiersOf({ client, registry }: Contracts): Promise<Address> {
  return client.readContract({ address: registry, abi: runnerRegistryAbi, functionName: 'verifiers' })
}
