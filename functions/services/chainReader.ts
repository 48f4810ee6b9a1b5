import { BlockNotFoundError, erc20Abi, type PublicClient } from 'viem'
import { escrowAbi, stakeAbi } from '../../contracts/abi.ts'
import type { Hex } from '../../protocol/bytes.ts'
import type { ChainReader } from './indexer.ts'
import type { BooksReader } from './reconcile.ts'

/** Reads blocks and the logs of the escrow, and of the stakes where there are any, through viem. */
export function chainReader(
  client: PublicClient,
  { escrow, stake }: { escrow: Hex; stake?: Hex | undefined },
): ChainReader {
  const contracts = [escrow, ...(stake ? [stake] : [])].map((address) => address.toLowerCase() as Hex)
  return {
    contracts: contracts.join(' '),
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
      const logs = await client.getLogs({ address: contracts, fromBlock: from, toBlock: to })
      return logs.map(({ address, blockNumber, blockHash, logIndex, transactionHash, topics, data }) => ({
        contract: address.toLowerCase() === contracts[0] ? ('escrow' as const) : ('stake' as const),
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

/** Reads the books of the escrow, and of the stakes where there are any, through viem, as of a block. */
export function booksReader(
  client: PublicClient,
  { escrow, token, stake }: { escrow: Hex; token: Hex; stake?: Hex | undefined },
): BooksReader {
  const at = (blockNumber: bigint) => ({ address: escrow, abi: escrowAbi, blockNumber }) as const
  const heldBy = (contract: Hex, blockNumber: bigint) =>
    client.readContract({ address: token, abi: erc20Abi, functionName: 'balanceOf', args: [contract], blockNumber })
  return {
    async deposit(buyer, block) {
      const [balance] = await client.readContract({ ...at(block), functionName: 'accounts', args: [buyer] })
      return balance
    },
    settled: (channel, block) => client.readContract({ ...at(block), functionName: 'settled', args: [channel] }),
    earnings: (payee, block) => client.readContract({ ...at(block), functionName: 'earnings', args: [payee] }),
    async pot(name, block) {
      const [runner, publisher, royaltyBps] = name.split(' ') as [Hex, Hex, string]
      const args = [runner, publisher, Number(royaltyBps)] as const
      const id = await client.readContract({ ...at(block), functionName: 'potId', args })
      return client.readContract({ ...at(block), functionName: 'pots', args: [id] })
    },
    held: (block) => heldBy(escrow, block),
    stakes: stake
      ? {
          async of(runner, blockNumber) {
            const call = { address: stake, abi: stakeAbi, functionName: 'stakes', args: [runner], blockNumber } as const
            const [amount, exiting, withdrawableAt, slashed] = await client.readContract(call)
            return { amount, exiting, withdrawableAt, slashed }
          },
          owed: (payee, blockNumber) =>
            client.readContract({ address: stake, abi: stakeAbi, functionName: 'owed', args: [payee], blockNumber }),
          held: (block) => heldBy(stake, block),
        }
      : null,
  }
}
