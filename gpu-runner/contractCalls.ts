import { type Abi, type Account, type Address, decodeErrorResult, type PublicClient } from 'viem'
import type { Hex } from '../protocol/bytes.ts'
import { asOfNextBlock } from '../protocol/nextBlock.ts'
import { TransactionReplacedError, TransactionRevertedError, type TransactionSender } from './transactions.ts'

/** Sends a call to a contract and waits until it is mined. Throws what TransactionSender throws; the contract's own name for it where the call would revert. */
export type SendCall = (to: Address, abi: Abi, data: Hex) => Promise<{ hash: Hex; gasUsed: bigint }>

/** How often a call is sent anew when another transaction of the key took its nonce. */
const maxReplacements = 3

/** Makes a way to send calls, each with a fifth more gas than estimated: a clock that ticks between estimate and block can take a dearer branch, and the exact estimate would then run out. */
export function callSender({
  client,
  account,
  sender,
}: {
  client: PublicClient
  account: Account
  sender: TransactionSender
}): SendCall {
  return (to, abi, data) =>
    sender.send({
      to,
      data,
      estimate: async () => {
        try {
          const gas = await asOfNextBlock((blockTag) => client.estimateGas({ account, to, data, blockTag }))
          return (gas * 12n) / 10n
        } catch (error) {
          throw new TransactionRevertedError(revertReason(abi, error), { cause: error })
        }
      },
    })
}

/** Sends what is the same whoever else sends: a registration whose nonce was taken is simply sent with the next. */
export function sendAnyway(send: SendCall): SendCall {
  return async (...call) => {
    for (let left = maxReplacements; ; left--) {
      try {
        return await send(...call)
      } catch (error) {
        if (!(error instanceof TransactionReplacedError) || left === 0) throw error
      }
    }
  }
}

/** Finds the contract's own name for why a call would revert. */
function revertReason(abi: Abi, error: unknown): string {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const { data } = cause as { data?: unknown }
    if (typeof data !== 'string' || !data.startsWith('0x') || data.length < 10) continue
    try {
      return `The contract refuses the call: ${decodeErrorResult({ abi, data: data as Hex }).errorName}.`
    } catch {
      return `The contract refuses the call: ${data.slice(0, 10)}.`
    }
  }
  return error instanceof Error ? (error.message.split('\n')[0] ?? 'The call failed.') : 'The call failed.'
}
