import { BlockNotFoundError, type PublicClient } from 'viem'
import type { Hex } from '../../protocol/bytes.ts'
import type { ChainReader } from './indexer.ts'

/** Reads blocks and one contract's logs through viem. */
export function chainReader(client: PublicClient, address: Hex): ChainReader {
  return {
    async block(number) {
      try {
        const block = await (number === 'latest' ? client.getBlock() : client.getBlock({ blockNumber: number }))
        return block.number === null || block.hash === null ? null : { number: block.number, hash: block.hash }
      } catch (error) {
        if (error instanceof BlockNotFoundError) return null
        throw error
      }
    },
    async logs({ from, to }) {
      const logs = await client.getLogs({ address, fromBlock: from, toBlock: to })
      return logs.map(({ address, blockNumber, blockHash, logIndex, transactionHash, topics, data }) => ({
        address: address.toLowerCase() as Hex,
        blockNumber,
        blockHash,
        logIndex,
        transactionHash,
        topics,
        data,
      }))
    },
  }
}
