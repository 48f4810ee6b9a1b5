import { decodeEventLog, type Hex as ViemHex } from 'viem'
import { escrowAbi, stakeAbi } from '../../contracts/abi.ts'
import type { Hex } from '../../protocol/bytes.ts'

const abis = { escrow: escrowAbi, stake: stakeAbi } as const

/** Names a contract whose events are kept. */
export type IndexedContract = keyof typeof abis

/** Holds a log as a node gives it, and whose it is. */
export type ChainLog = {
  contract: IndexedContract
  blockNumber: bigint
  blockHash: Hex
  logIndex: number
  transactionHash: Hex
  topics: readonly Hex[]
  data: Hex
}

/** Holds an event: numbers as decimal strings, addresses in lower case. */
export type ChainEvent = { contract: IndexedContract; name: string; args: Record<string, string> }

/** Reads an event from a log. Null for one its contract does not declare. */
export function readChainEvent({ contract, topics, data }: ChainLog): ChainEvent | null {
  try {
    const { eventName, args } = decodeEventLog({ abi: abis[contract], topics: topics as [ViemHex, ...ViemHex[]], data })
    const texts = Object.entries(args as Record<string, unknown>).map(([name, value]) => [
      name,
      typeof value === 'string' ? value.toLowerCase() : String(value),
    ])
    return { contract, name: eventName, args: Object.fromEntries(texts) }
  } catch {
    return null
  }
}
