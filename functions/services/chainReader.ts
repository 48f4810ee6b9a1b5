import { BlockNotFoundError, erc20Abi, type PublicClient } from 'viem'
import { escrowAbi } from '../../contracts/abi.ts'
import type { Hex } from '../../protocol/bytes.ts'
import type { ChainReader } from './indexer.ts'
import type { BooksReader } from './reconcile.ts'

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

/** Reads the escrow's books through viem, as of a block. */
export function booksReader(client: PublicClient, { escrow, token }: { escrow: Hex; token: Hex }): BooksReader {
  const at = (blockNumber: bigint) => ({ address: escrow, abi: escrowAbi, blockNumber }) as const
  return {
    async deposit(buyer, block) {
      const [balance] = await client.readContract({ ...at(block), functionName: 'accounts', args: [buyer] })
      return balance
    },
    settled: (channel, block) => client.readContract({ ...at(block), functionName: 'settled', args: [channel] }),
    earnings: (payee, block) => client.readContract({ ...at(block), functionName: 'earnings', args: [payee] }),
    async pot(name, block) {
      const [provider, publisher, royaltyBps] = name.split(' ') as [Hex, Hex, string]
      const args = [provider, publisher, Number(royaltyBps)] as const
      const id = await client.readContract({ ...at(block), functionName: 'potId', args })
      return client.readContract({ ...at(block), functionName: 'pots', args: [id] })
    },
    held: (blockNumber) =>
      client.readContract({ address: token, abi: erc20Abi, functionName: 'balanceOf', args: [escrow], blockNumber }),
  }
}
