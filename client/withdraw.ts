import {
  type Account,
  type Address,
  BaseError,
  ContractFunctionRevertedError,
  type PublicClient,
  type WalletClient,
} from 'viem'
import { escrowAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'

/** Holds what a call to the escrow takes: a chain to read, a wallet that signs, and where the escrow is. */
export type EscrowAccess = {
  publicClient: PublicClient
  wallet: WalletClient & { account: Account }
  contracts: { escrow: Address }
}

/** Reports what the escrow refuses: the name of its error, and what to do. */
export class EscrowRefusedError extends Error {
  override name = 'EscrowRefusedError'
  readonly reason: string
  constructor(reason: string, detail: string) {
    super(detail)
    this.reason = reason
  }
}

const words: Record<string, (...values: readonly unknown[]) => string> = {
  NothingToWithdraw: () => 'That is nothing, or more than the deposit. `assay balance` shows it.',
  NotRequested: () => 'Nothing was asked back. Ask first: `assay withdraw <amount>`.',
  TooEarly: (at) => `It can be withdrawn from ${new Date(Number(at) * 1000).toISOString()}.`,
  BadMandate: () =>
    'A mandate takes a key that is not your own, bounds above zero and an end to come; only one that stands can be revoked.',
}

/** Asks the escrow first, so that a refusal costs no gas and has words, then sends and waits. Throws EscrowRefusedError. */
export async function sendToEscrow(
  { publicClient }: Pick<EscrowAccess, 'publicClient'>,
  simulate: () => Promise<unknown>,
  write: () => Promise<Hex>,
): Promise<Hex> {
  await simulate().catch((error: unknown) => {
    const reverted =
      error instanceof BaseError ? error.walk((cause) => cause instanceof ContractFunctionRevertedError) : null
    const data = reverted instanceof ContractFunctionRevertedError ? reverted.data : undefined
    const known = data && words[data.errorName]
    throw known ? new EscrowRefusedError(data.errorName, known(...(data.args ?? []))) : error
  })
  const hash = await write()
  const { status } = await publicClient.waitForTransactionReceipt({ hash })
  if (status !== 'success') throw new Error(`Transaction ${hash} reverted.`)
  return hash
}

/** Names the escrow and who calls it. */
export const escrowOf = ({ wallet, contracts }: EscrowAccess) =>
  ({ address: contracts.escrow, abi: escrowAbi, account: wallet.account }) as const

/** Asks a part of the wallet's deposit back, in the token's smallest unit; it can be withdrawn after the escrow's delay, and replaces what was asked before. Gives from when. Throws EscrowRefusedError when the deposit is less. */
export async function requestWithdrawal(access: EscrowAccess, amount: bigint): Promise<{ withdrawableAt: Date }> {
  const { publicClient, wallet } = access
  const call = { ...escrowOf(access), functionName: 'requestWithdrawal', args: [amount] } as const
  await sendToEscrow(
    access,
    () => publicClient.simulateContract(call),
    () => wallet.writeContract({ ...call, chain: wallet.chain ?? null }),
  )
  const { withdrawableAt } = await accountOf(access)
  return { withdrawableAt }
}

/** Takes out what was asked back, as far as settlements have left it. Gives how much. Throws EscrowRefusedError when it is too early, or nothing was asked. */
export async function withdrawDeposit(access: EscrowAccess): Promise<bigint> {
  const { publicClient, wallet } = access
  const { balance, requested } = await accountOf(access)
  const call = { ...escrowOf(access), functionName: 'withdraw' } as const
  await sendToEscrow(
    access,
    () => publicClient.simulateContract(call),
    () => wallet.writeContract({ ...call, chain: wallet.chain ?? null }),
  )
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
