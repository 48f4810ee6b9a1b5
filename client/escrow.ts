import type { Account, Address, PublicClient, WalletClient } from 'viem'
import { escrowAbi, testTokenAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'

type Wallet = WalletClient & { account: Account }
type Deployment = { escrow: Address; token: Address }

/** Deposits tokens for the wallet's own address, approving first when the allowance does not suffice. Throws when a transaction reverts. */
export async function depositTokens({
  wallet,
  publicClient,
  contracts,
  amount,
}: {
  wallet: Wallet
  publicClient: PublicClient
  contracts: Deployment
  amount: bigint
}): Promise<Hex> {
  const { account } = wallet
  const common = { account, chain: wallet.chain ?? null } as const
  const token = { address: contracts.token, abi: testTokenAbi } as const
  const send = async (hash: Hex) => {
    const { status } = await publicClient.waitForTransactionReceipt({ hash })
    if (status !== 'success') throw new Error(`Transaction ${hash} reverted.`)
    return hash
  }
  const allowance = await publicClient.readContract({
    ...token,
    functionName: 'allowance',
    args: [account.address, contracts.escrow],
  })
  if (allowance < amount)
    await send(
      await wallet.writeContract({ ...common, ...token, functionName: 'approve', args: [contracts.escrow, amount] }),
    )
  return send(
    await wallet.writeContract({
      ...common,
      address: contracts.escrow,
      abi: escrowAbi,
      functionName: 'deposit',
      args: [account.address, amount],
    }),
  )
}

/** Shows one address's money, in the token's smallest unit: in its wallet, in the escrow, asked back and from when, and earned. */
export async function readBalance({
  publicClient,
  contracts,
  address,
}: {
  publicClient: PublicClient
  contracts: Deployment
  address: Address
}) {
  const escrow = { address: contracts.escrow, abi: escrowAbi } as const
  const [wallet, [deposit, requested, withdrawableAt], earnings] = await Promise.all([
    publicClient.readContract({
      address: contracts.token,
      abi: testTokenAbi,
      functionName: 'balanceOf',
      args: [address],
    }),
    publicClient.readContract({ ...escrow, functionName: 'accounts', args: [address] }),
    publicClient.readContract({ ...escrow, functionName: 'earnings', args: [address] }),
  ])
  return {
    address,
    wallet: wallet.toString(),
    deposit: deposit.toString(),
    withdrawalRequested: requested.toString(),
    withdrawableAt: requested > 0n ? new Date(Number(withdrawableAt) * 1000).toISOString() : null,
    earnings: earnings.toString(),
  }
}
