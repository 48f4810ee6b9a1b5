import { type Account, type Address, encodeFunctionData, type PublicClient, type WalletClient } from 'viem'
import { escrowAbi, runnerRegistryAbi, testTokenAbi } from '../contracts/abi.ts'
import type { Hex } from '../protocol/bytes.ts'
import { allow } from './chainCall.ts'
import { sendToEscrow } from './withdraw.ts'

type Wallet = WalletClient & { account: Account }
type Deployment = { escrow: Address; token: Address }

/** Deposits tokens for the wallet's own address, approving first when the allowance does not suffice. Throws ContractRefusedError, and Error when a transaction reverts. */
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
  await allow({ publicClient, wallet }, { token: contracts.token, spender: contracts.escrow, amount })
  const call = {
    address: contracts.escrow,
    abi: escrowAbi,
    functionName: 'deposit',
    args: [account.address, amount],
    account,
  } as const
  return sendToEscrow({ publicClient, wallet }, call)
}

/** Credits the wallet's account with what was sent to its inbox in the escrow, by whomever. Gives the amount, in the token's smallest unit; 0 where nothing lies there. */
export async function depositFromInbox({
  wallet,
  publicClient,
  contracts,
}: {
  wallet: Wallet
  publicClient: PublicClient
  contracts: Deployment
}): Promise<bigint> {
  const { account } = wallet
  const escrow = { address: contracts.escrow, abi: escrowAbi } as const
  const inbox = await publicClient.readContract({ ...escrow, functionName: 'inboxOf', args: [account.address] })
  const amount = await publicClient.readContract({
    address: contracts.token,
    abi: testTokenAbi,
    functionName: 'balanceOf',
    args: [inbox],
  })
  if (amount === 0n) return 0n
  const call = { ...escrow, functionName: 'depositFromInbox', args: [account.address] } as const
  const hash = await wallet.writeContract({ ...call, account, chain: wallet.chain ?? null })
  const { status } = await publicClient.waitForTransactionReceipt({ hash })
  if (status !== 'success') throw new Error(`Transaction ${hash} reverted.`)
  return amount
}

/** Shows one address's money, in the token's smallest unit: in its wallet, in the escrow, asked back and from when, earned; and the inbox where tokens can be sent for it. */
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
  const [wallet, [deposit, requested, withdrawableAt], earnings, inbox] = await Promise.all([
    publicClient.readContract({
      address: contracts.token,
      abi: testTokenAbi,
      functionName: 'balanceOf',
      args: [address],
    }),
    publicClient.readContract({ ...escrow, functionName: 'accounts', args: [address] }),
    publicClient.readContract({ ...escrow, functionName: 'earnings', args: [address] }),
    publicClient.readContract({ ...escrow, functionName: 'inboxOf', args: [address] }),
  ])
  return {
    address,
    wallet: wallet.toString(),
    deposit: deposit.toString(),
    withdrawalRequested: requested.toString(),
    withdrawableAt: requested > 0n ? new Date(Number(withdrawableAt) * 1000).toISOString() : null,
    earnings: earnings.toString(),
    inbox,
  }
}

/** Holds what settlements have paid and nobody has divided yet, for one runner and one publisher at one royalty; `provider` is the runner's. */
export type Pot = { runner: Address; provider: Address; publisher: Address; royaltyBps: number; amount: bigint }

/** Most pots divided in one transaction: at most some 40,000 gas each, where each is the first that its payees are paid from. */
const potsAtOnce = 100

/** Finds the pots that hold something, out of the contracts' events; those of one payee, or all. */
export async function findPots({
  publicClient,
  contracts,
  payee,
}: {
  publicClient: PublicClient
  contracts: Pick<Deployment, 'escrow'>
  payee: Address | null
}): Promise<Pot[]> {
  const escrow = { address: contracts.escrow, abi: escrowAbi } as const
  const registryAddress = await publicClient.readContract({ ...escrow, functionName: 'registry' })
  const registry = { address: registryAddress, abi: runnerRegistryAbi } as const
  const settled = (args: { runner?: Address[]; publisher?: Address }) =>
    publicClient.getContractEvents({ ...escrow, eventName: 'Settled', args, fromBlock: 0n })
  const ofProvider = async (provider: Address) => {
    const event = { ...registry, eventName: 'RunnerRegistered', args: { provider }, fromBlock: 0n } as const
    const runners = (await publicClient.getContractEvents(event)).flatMap(({ args }) => args.runner ?? [])
    return runners.length > 0 ? settled({ runner: [...new Set(runners)] }) : []
  }
  const events = payee
    ? (await Promise.all([settled({ publisher: payee }), ofProvider(payee)])).flat()
    : await settled({})
  const found = new Map<string, Pick<Pot, 'runner' | 'publisher' | 'royaltyBps'>>()
  for (const { args } of events) {
    const { runner, publisher, royaltyBps } = args
    if (!runner || !publisher || royaltyBps === undefined) continue
    found.set(`${runner} ${publisher} ${royaltyBps}`, { runner, publisher, royaltyBps })
  }
  const pots = await Promise.all(
    [...found.values()].map(async (pot) => {
      const args = [pot.runner, pot.publisher, pot.royaltyBps] as const
      const id = await publicClient.readContract({ ...escrow, functionName: 'potId', args })
      const [amount, [provider]] = await Promise.all([
        publicClient.readContract({ ...escrow, functionName: 'pots', args: [id] }),
        publicClient.readContract({ ...registry, functionName: 'providerAt', args: [pot.runner, 0n] }),
      ])
      return { ...pot, provider, amount }
    }),
  )
  return pots.filter(({ amount }) => amount > 0n)
}

/** Divides what settlements have paid for the wallet's account and withdraws its earnings. Gives what was withdrawn, in the token's smallest unit; 0 where there is nothing. */
export async function collectEarnings({
  publicClient,
  wallet,
  contracts,
}: {
  publicClient: PublicClient
  wallet: Wallet
  contracts: Deployment
}): Promise<bigint> {
  const { account } = wallet
  const escrow = { address: contracts.escrow, abi: escrowAbi } as const
  const send = async (data: Hex) => {
    const hash = await wallet.sendTransaction({ account, to: contracts.escrow, data, chain: wallet.chain ?? null })
    const { status } = await publicClient.waitForTransactionReceipt({ hash })
    if (status !== 'success') throw new Error(`Transaction ${hash} reverted; try again.`)
  }
  const pots = await findPots({ publicClient, contracts, payee: account.address })
  for (let at = 0; at < pots.length; at += potsAtOnce) {
    const some = pots.slice(at, at + potsAtOnce)
    await send(encodeFunctionData({ abi: escrowAbi, functionName: 'distributeMany', args: [some] }))
  }
  const amount = await publicClient.readContract({ ...escrow, functionName: 'earnings', args: [account.address] })
  if (amount === 0n) return 0n
  await send(encodeFunctionData({ abi: escrowAbi, functionName: 'withdrawEarnings', args: [account.address] }))
  return amount
}
