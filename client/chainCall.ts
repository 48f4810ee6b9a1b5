import {
  type Abi,
  type Account,
  type Address,
  BaseError,
  type ContractFunctionArgs,
  type ContractFunctionName,
  ContractFunctionRevertedError,
  erc20Abi,
  type PublicClient,
  type SimulateContractParameters,
  type WalletClient,
  type WriteContractParameters,
} from 'viem'
import type { Hex } from '../protocol/bytes.ts'

/** Holds what a call that changes the chain takes: a chain to read, and a wallet that signs. */
export type ChainAccess = { publicClient: PublicClient; wallet: WalletClient & { account: Account } }

/** Reports what a contract refuses: the name of its error, and what to do. */
export class ContractRefusedError extends Error {
  override name = 'ContractRefusedError'
  readonly reason: string
  constructor(reason: string, detail: string) {
    super(detail)
    this.reason = reason
  }
}

/** Words a contract's errors for the one who called it, by their names. */
export type RefusalWords = Record<string, (...values: readonly unknown[]) => string>

type Changing = 'nonpayable' | 'payable'

/** Names a call that changes the chain, and who makes it. */
export type ContractCall<abi extends Abi, name extends ContractFunctionName<abi, Changing>> = {
  address: Address
  abi: abi
  functionName: name
  args?: ContractFunctionArgs<abi, Changing, name>
  account: Account
}

/** Asks the contract first, so that a refusal costs no gas and has words, then sends and waits. Throws ContractRefusedError, and Error when the transaction reverts all the same. */
export async function sendCall<const abi extends Abi, name extends ContractFunctionName<abi, Changing>>(
  { publicClient, wallet }: ChainAccess,
  words: RefusalWords,
  call: ContractCall<abi, name>,
): Promise<Hex> {
  // What the parameter's type has checked, viem's own cannot see through.
  const checked = call as unknown as SimulateContractParameters & WriteContractParameters
  await publicClient.simulateContract(checked).catch((error: unknown) => {
    const reverted =
      error instanceof BaseError ? error.walk((cause) => cause instanceof ContractFunctionRevertedError) : null
    const data = reverted instanceof ContractFunctionRevertedError ? reverted.data : undefined
    const known = data && words[data.errorName]
    throw known ? new ContractRefusedError(data.errorName, known(...(data.args ?? []))) : error
  })
  const hash = await wallet.writeContract({ ...checked, chain: wallet.chain ?? null })
  const { status } = await publicClient.waitForTransactionReceipt({ hash })
  if (status !== 'success') throw new Error(`Transaction ${hash} reverted.`)
  return hash
}

/** Lets a contract take an amount of the token from the wallet, unless it may already. Throws ContractRefusedError where the wallet holds less. */
export async function allow(
  { publicClient, wallet }: ChainAccess,
  { token, spender, amount }: { token: Address; spender: Address; amount: bigint },
): Promise<void> {
  const { account } = wallet
  const contract = { address: token, abi: erc20Abi } as const
  const [held, allowance] = await Promise.all([
    publicClient.readContract({ ...contract, functionName: 'balanceOf', args: [account.address] }),
    publicClient.readContract({ ...contract, functionName: 'allowance', args: [account.address, spender] }),
  ])
  if (held < amount)
    throw new ContractRefusedError(
      'InsufficientBalance',
      `The wallet ${account.address} holds ${held} of the token, less than ${amount}. Send it some first.`,
    )
  if (allowance >= amount) return
  const call = { ...contract, functionName: 'approve', args: [spender, amount], account } as const
  await sendCall({ publicClient, wallet }, {}, call)
}
