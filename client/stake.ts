import { type Address, decodeEventLog, type PublicClient } from 'viem'
import { runnerRegistryAbi, stakeAbi } from '../contracts/abi.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import type { Equivocation, SignedReceipt } from '../protocol/equivocation.ts'
import { coverUntil } from '../protocol/stake.ts'
import { channelSeconds } from './assay.ts'
import { allow, type ChainAccess, type RefusalWords, sendCall } from './chainCall.ts'
import type { Edge } from './edge.ts'

/** Holds what a call to the stakes takes. */
export type StakeAccess = ChainAccess & { contracts: { stake: Address; token: Address } }

const isoTime = (seconds: unknown) => new Date(Number(seconds) * 1000).toISOString()

const words: RefusalWords = {
  NothingStaked: () => 'That is nothing, or more than is staked. `assay stake show <runner>` shows it.',
  RunnerUnknown: (runner) => `The registry knows no runner ${runner}. Start it once, so that it registers; then stake.`,
  RunnerWasSlashed: (runner) => `The key ${runner} was slashed: it takes no stake and cannot be slashed again.`,
  NotTheProvider: (provider) => `The stake belongs to ${provider}, which registered this runner: use its key.`,
  NotRequested: () => 'Nothing was asked back. Ask first: `assay stake request <runner> <amount>`.',
  TooEarly: (at) => `It can be withdrawn from ${isoTime(at)}. Until then it can still be slashed.`,
  NothingToPay: () => 'No slash owes this address anything.',
  DifferentJobs: (first, second) => `The receipts are for two jobs, ${first} and ${second}.`,
  NothingDiffers: () => 'The receipts say the same, but perhaps for the time.',
  NotInBatch: () => 'A receipt is not in the batch its proof names.',
  WrongSigner: (signer) => `A batch is signed by ${signer}, not by the runner.`,
  AmountTooLarge: () => 'A stake is at most 2^96 − 1 units.',
}

const stakeOf = ({ wallet, contracts }: StakeAccess) =>
  ({ address: contracts.stake, abi: stakeAbi, account: wallet.account }) as const

/** Adds to a runner's stake, in the token's smallest unit, approving first where needed; it belongs to the runner's provider. Throws ContractRefusedError. */
export async function addStake(access: StakeAccess, runner: Address, amount: bigint): Promise<Hex> {
  const { publicClient, contracts } = access
  // A runner nobody registered is refused before anything is approved for it.
  const known = await providerOf(publicClient, contracts.stake, runner)
  if (known) await allow(access, { token: contracts.token, spender: contracts.stake, amount })
  const call = { ...stakeOf(access), functionName: 'stake', args: [runner, amount] } as const
  return sendCall(access, words, call)
}

/** Asks a part of a runner's stake back, in place of what was asked before; nothing takes the request back. Gives from when it can be withdrawn. Throws ContractRefusedError. */
export async function requestStake(
  access: StakeAccess,
  runner: Address,
  amount: bigint,
): Promise<{ withdrawableAt: Date | null }> {
  const { publicClient, contracts } = access
  const call = { ...stakeOf(access), functionName: 'requestExit', args: [runner, amount] } as const
  await sendCall(access, words, call)
  const { exiting, withdrawableAt } = await positionOf(publicClient, contracts.stake, runner)
  return { withdrawableAt: exiting > 0n ? new Date(Number(withdrawableAt) * 1000) : null }
}

/** Takes out what was asked back of a runner's stake. Gives how much. Throws ContractRefusedError when it is too early, or nothing was asked. */
export async function withdrawStake(access: StakeAccess, runner: Address): Promise<bigint> {
  const { publicClient, wallet, contracts } = access
  const { exiting } = await positionOf(publicClient, contracts.stake, runner)
  const call = { ...stakeOf(access), functionName: 'exit', args: [runner, wallet.account.address] } as const
  await sendCall(access, words, call)
  return exiting
}

/** Withdraws what slashes owe the wallet: as the harmed buyer, or as who reported. Gives how much; 0 where there is nothing. */
export async function collectSlashes(access: StakeAccess): Promise<bigint> {
  const { publicClient, wallet, contracts } = access
  const { address } = wallet.account
  const amount = await publicClient.readContract({
    address: contracts.stake,
    abi: stakeAbi,
    functionName: 'owed',
    args: [address],
  })
  if (amount === 0n) return 0n
  const call = { ...stakeOf(access), functionName: 'withdraw', args: [address] } as const
  await sendCall(access, words, call)
  return amount
}

async function positionOf(publicClient: PublicClient, stake: Address, runner: Address) {
  const [amount, exiting, withdrawableAt, slashed] = await publicClient.readContract({
    address: stake,
    abi: stakeAbi,
    functionName: 'stakes',
    args: [runner],
  })
  return { amount, exiting, withdrawableAt, slashed }
}

/** Gives whom the registry names as a runner's provider, for ever; null for a key nobody registered. */
async function providerOf(publicClient: PublicClient, stake: Address, runner: Address): Promise<Address | null> {
  const registry = await publicClient.readContract({ address: stake, abi: stakeAbi, functionName: 'registry' })
  const [provider] = await publicClient.readContract({
    address: registry,
    abi: runnerRegistryAbi,
    functionName: 'providerAt',
    args: [runner, 0n],
  })
  return /^0x0{40}$/.test(provider) ? null : provider
}

/** Reads from the chain what of a runner's stake nobody can withdraw before a time, in unix seconds: what the SDK asks before it relies on a stake. */
export const coverReader =
  (publicClient: PublicClient, stake: Address) =>
  (runner: Hex, until: bigint): Promise<bigint> =>
    publicClient.readContract({ address: stake, abi: stakeAbi, functionName: 'cover', args: [runner, until] })

/** Shows a runner's stake: whose it is, what was asked back and from when, what of it vouches for a channel opened now. Amounts in the token's smallest unit. */
export async function readStake(
  { publicClient, contracts: { stake } }: Pick<StakeAccess, 'publicClient' | 'contracts'>,
  runner: Address,
) {
  const { timestamp } = await publicClient.getBlock()
  const [provider, { amount, exiting, withdrawableAt, slashed }, cover] = await Promise.all([
    providerOf(publicClient, stake, runner),
    positionOf(publicClient, stake, runner),
    coverReader(publicClient, stake)(runner, coverUntil(timestamp + channelSeconds)),
  ])
  return {
    runner,
    provider,
    amount: amount.toString(),
    requested: exiting.toString(),
    withdrawableAt: exiting > 0n ? isoTime(withdrawableAt) : null,
    cover: cover.toString(),
    slashed,
  }
}

/** Names a key of a provider on which something is still staked; amounts in the token's smallest unit. */
export type StakedKey = { runner: Hex; online: boolean; amount: string; requested: string }

/** Lists the keys of a provider on which something is still staked, as the edge's index has it: a process that starts again has a new key, and what it staked stands on the old one. */
export async function stakedKeys(edge: Edge, provider: Address): Promise<StakedKey[]> {
  type Listed = { signer: Hex; online: boolean; stake: { amount: string; exiting: string } | null }
  const keys: StakedKey[] = []
  let cursor = ''
  do {
    const path = `/v1/runners?provider=${provider.toLowerCase()}&limit=100${cursor && `&cursor=${cursor}`}`
    const page = await edge.json<{ runners: Listed[]; nextCursor: string | null }>(path)
    for (const { signer, online, stake } of page.runners)
      if (stake && stake.amount !== '0')
        keys.push({ runner: signer, online, amount: stake.amount, requested: stake.exiting })
    cursor = page.nextCursor ?? ''
  } while (cursor)
  return keys
}

const shownReceipt = ({ receipt, proof, signature }: SignedReceipt) => ({
  receipt: { ...receipt, detail: toHex(receipt.detail) },
  proof: { index: proof.index, count: proof.count, path: proof.path.map(toHex) },
  batchSignature: toHex(signature),
})

/** Reports a key that signed two answers to one job: its whole stake is taken, half of it burned, four tenths for the buyer, one tenth for the wallet. Anyone may. Gives the shares, in the token's smallest unit. Throws ContractRefusedError. */
export async function slashRunner(
  access: StakeAccess,
  { terms, first, second }: Equivocation,
): Promise<{ transaction: Hex; toBuyer: bigint; toReporter: bigint; burned: bigint }> {
  const args = [terms, shownReceipt(first), shownReceipt(second)] as const
  const call = { ...stakeOf(access), functionName: 'slash', args } as const
  const transaction = await sendCall(access, words, call)
  const { logs } = await access.publicClient.getTransactionReceipt({ hash: transaction })
  for (const { address, topics, data } of logs) {
    if (address.toLowerCase() !== access.contracts.stake.toLowerCase()) continue
    const event = decodeEventLog({ abi: stakeAbi, topics, data })
    if (event.eventName !== 'Slashed') continue
    const { toBuyer, toReporter, burned } = event.args
    return { transaction, toBuyer, toReporter, burned }
  }
  throw new Error(`Transaction ${transaction} left no word of a slash.`)
}
