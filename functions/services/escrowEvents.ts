import { decodeEventLog, type Hex as ViemHex } from 'viem'
import { escrowAbi } from '../../contracts/abi.ts'
import type { Hex } from '../../protocol/bytes.ts'

/** Holds a log as a node gives it. */
export type ChainLog = {
  address: Hex
  blockNumber: bigint
  blockHash: Hex
  logIndex: number
  transactionHash: Hex
  topics: readonly Hex[]
  data: Hex
}

/** Holds an event of the escrow: numbers as decimal strings, addresses in lower case. */
export type EscrowEvent = { name: string; args: Record<string, string> }

/** Reads an escrow event from a log. Null for a log that is none of the escrow's: tokens and strangers log too. */
export function readEscrowEvent(log: ChainLog): EscrowEvent | null {
  try {
    const { eventName, args } = decodeEventLog({
      abi: escrowAbi,
      topics: log.topics as [ViemHex, ...ViemHex[]],
      data: log.data,
    })
    const texts = Object.entries(args as Record<string, unknown>).map(([name, value]) => [
      name,
      typeof value === 'string' ? value.toLowerCase() : String(value),
    ])
    return { name: eventName, args: Object.fromEntries(texts) }
  } catch {
    return null
  }
}
