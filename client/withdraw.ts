import type { Address, ContractFunctionName } from 'viem'
import { escrowAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'
import { type ChainAccess, type ContractCall, type RefusalWords, sendCall } from './chainCall.ts'

/** Holds what a call to the escrow takes. */
export type EscrowAccess = ChainAccess & { contracts: { escrow: Address } }

const words: RefusalWords = {
  NothingDeposited: () => 'A deposit is above zero.',
  AmountTooLarge: () => 'A deposit is at most 2^120 − 1 units.',
  DepositsArePaused: () => 'Deposits are paused. What is deposited can be spent and withdrawn all the same.',
  NothingToWithdraw: () => 'That is nothing, or more than the deposit. `assay balance` shows it.',
  NotRequested: () => 'Nothing was asked back. Ask first: `assay withdraw <amount>`.',
  TooEarly: (at) => `It can be withdrawn from ${new Date(Number(at) * 1000).toISOString()}.`,
  BadMandate: () =>
    'A mandate takes a key that is not your own, bounds above zero and an end to come; only one that stands can be revoked.',
}

/** Calls the escrow, which is asked first. Throws ContractRefusedError. */
export const sendToEscrow = <name extends ContractFunctionName<typeof escrowAbi, 'nonpayable'>>(
  access: ChainAccess,
  call: ContractCall<typeof escrowAbi, name>,
): Promise<Hex> => sendCall(access, words, call)

/** Names the escrow and who calls it. */
export const escrowOf = ({ wallet, contracts }: EscrowAccess) =>
  ({ address: contracts.escrow, abi: escrowAbi, account: wallet.account }) as const

/** Asks a part of the wallet's deposit back, in the token's smallest unit; it can be withdrawn after the escrow's delay, and replaces what was asked before. Gives from when. Throws ContractRefusedError when the deposit is less. */
export async function requestWithdrawal(access: EscrowAccess, amount: bigint): Promise<{ withdrawableAt: Date }> {
  const call = { ...escrowOf(access), functionName: 'requestWithdrawal', args: [amount] } as const
  await sendToEscrow(access, call)
  const { withdrawableAt } = await accountOf(access)
  return { withdrawableAt }
}

/** Takes out what was asked back, as far as settlements have left it. Gives how much. Throws ContractRefusedError when it is too early, or nothing was asked. */
export async function withdrawDeposit(access: EscrowAccess): Promise<bigint> {
  const { balance, requested } = await accountOf(access)
  const call = { ...escrowOf(access), functionName: 'withdraw' } as const
  await sendToEscrow(access, call)
  return requested < balance ? requested : balance
}

async function accountOf({ publicClient, wallet, contracts }: EscrowAccess) {
  const [balance, requested, withdrawableAt] = await publicClient.readContract({
    address: contracts.escrow,
    abi: escrowAbi,
    functionName: 'accounts',
    args: [wallet.account.address],
  })
  return { balance, requested, withdrawableAt: new Date(Number(withdrawableAt) * 1000) }
}
