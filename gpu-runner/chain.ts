import {
  type Abi,
  type Address,
  createPublicClient,
  decodeErrorResult,
  defineChain,
  encodeFunctionData,
  http,
  type PublicClient,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { escrowAbi, runnerRegistryAbi, verifierSetAbi } from '../contracts/abi.ts'
import { concat, type Hex, toHex } from '../protocol/bytes.ts'
import { packClaims, type SettlementClaim } from '../protocol/claims.ts'
import type { CollateralOf } from '../protocol/evidence/index.ts'
import { asOfNextBlock } from '../protocol/nextBlock.ts'
import { recoverAddress } from '../protocol/secp256k1.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import type { JournalChannel, JournalEntry } from './journal.ts'
import { claimForChain, postWhatIsMissing, quoteForChain } from './registrar.ts'
import type { ChainReader } from './service.ts'
import {
  memoryOutbox,
  type Outbox,
  type Patience,
  TransactionReplacedError,
  TransactionRevertedError,
  TransactionSender,
} from './transactions.ts'
import type { AgreedVerdict, VerifierSet } from './verdicts.ts'

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

/** Holds what settling needs of one channel. */
export type Claimable = { channel: JournalChannel; entry: JournalEntry }

/** Speaks to the chain for a runner: reads balances, registers, settles. */
export type RunnerChain = ChainReader & {
  provider: Address
  recentBlock(): Promise<{ number: bigint; hash: Hex }>
  /** Posts what the registry lacks, then registers; `now` in unix seconds. */
  register(registration: {
    quote: Uint8Array
    collateral: CollateralOf<'tdx'>
    statement: Uint8Array
    nonceBlock: bigint
    signerKey: Uint8Array
    signature: Uint8Array
    now: number
  }): Promise<Hex>
  /** Tells whose verdicts the registry takes. */
  verifierSet(): Promise<VerifierSet>
  /** Registers on a verdict that enough verifiers signed. */
  registerVerdict(agreed: AgreedVerdict): Promise<Hex>
  /** Claims many channels with one signature over a batch of their latest receipts, in the order given. */
  settle(claims: Claimable[], signature: Uint8Array): Promise<{ hash: Hex; gasUsed: bigint }>
  /** Claims one channel with the proof its receipt already has, as anyone may. */
  settleOne(claim: Claimable): Promise<{ hash: Hex; gasUsed: bigint }>
  /** Tells what a claim would pay now; zero when the escrow would refuse it. */
  preview(claim: Claimable): Promise<bigint>
  /** Gives what a unit of gas costs now and the middle of what it cost lately, in wei; null where the node does not tell. */
  gasPrice(): Promise<{ price: bigint; usual: bigint } | null>
  /** Finds out what became of a transaction an earlier process left; null where there is none. Throws TransactionPendingError while nobody knows. */
  resolvePending(): Promise<{ hash: Hex; gasUsed: bigint } | null>
  signTypedSuccession(digest: Uint8Array): Promise<Uint8Array>
}

// A preview is of what a batch would pay once it is signed.
const unsigned = new Uint8Array(65).fill(27, 64)

/** How many blocks tell what gas usually costs. */
const feeHistoryBlocks = 128

/** How often a registration is sent anew when another transaction of the key took its nonce. */
const maxReplacements = 3

/** Connects a runner to its chain with the provider's key, which pays gas and is paid. What it sends is kept in `outbox` until its outcome is known. */
export function connectChain({
  rpcUrl,
  chainId,
  escrow,
  registry,
  providerKey,
  outbox = memoryOutbox(),
  patience,
  now = Date.now,
  sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
}: {
  rpcUrl: string
  chainId: number
  escrow: Address
  registry: Address
  providerKey: Hex
  outbox?: Outbox
  patience?: Patience
  now?: () => number
  sleep?: (ms: number) => Promise<void>
}): RunnerChain {
  const chain = defineChain({
    id: chainId,
    name: 'chain',
    nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpcUrl] } },
  })
  const transport = http(rpcUrl)
  const publicClient = createPublicClient({ chain, transport, pollingInterval: 100 }) as PublicClient
  const account = privateKeyToAccount(providerKey)
  const sender = new TransactionSender({
    client: publicClient,
    account,
    chainId,
    outbox,
    ...(patience ? { patience } : {}),
    now,
    sleep,
  })

  /** Sends with a fifth more gas than estimated: a clock that ticks between estimate and block can take a dearer branch, and the exact estimate would then run out. */
  const send = (to: Address, abi: Abi, data: Hex) =>
    sender.send({
      to,
      data,
      estimate: async () => {
        try {
          const gas = await asOfNextBlock((blockTag) => publicClient.estimateGas({ account, to, data, blockTag }))
          return (gas * 12n) / 10n
        } catch (error) {
          throw new TransactionRevertedError(revertReason(abi, error), { cause: error })
        }
      },
    })
  /** Sends what is the same whoever else sends: a registration whose nonce was taken is simply sent with the next. */
  const sendAnyway = async (to: Address, abi: Abi, data: Hex) => {
    for (let left = maxReplacements; ; left--) {
      try {
        return await send(to, abi, data)
      } catch (error) {
        if (!(error instanceof TransactionReplacedError) || left === 0) throw error
      }
    }
  }
  const domain = { chainId, escrow: escrow.toLowerCase() as Hex }
  const hasMandate = async (buyer: Hex, key: Hex) => {
    const [cap] = await publicClient.readContract({
      address: escrow,
      abi: escrowAbi,
      functionName: 'mandates',
      args: [buyer, key],
    })
    return cap > 0n
  }
  const claimOf = async ({ channel: { terms, voucher }, entry }: Claimable): Promise<SettlementClaim> => {
    const { cumulative, signature } = voucher ?? { cumulative: 0n, signature: new Uint8Array() }
    const digest = voucherDigest(domain, { channel: toHex(entry.channel), cumulative })
    const key = signature.length === 65 ? recoverAddress(digest, signature) : null
    const kind = key === terms.buyer ? 'key' : key && (await hasMandate(terms.buyer, key)) ? 'mandate' : 'wallet'
    return { terms, receipt: entry.receipt, voucher: { cumulative, signature, kind } }
  }

  /** Finds whose verdicts the registry takes. */
  const verifiersOf = () =>
    publicClient.readContract({ address: registry, abi: runnerRegistryAbi, functionName: 'verifiers' })

  const settlePacked = (packed: Uint8Array) =>
    send(
      escrow,
      escrowAbi,
      encodeFunctionData({ abi: escrowAbi, functionName: 'settleChannels', args: [toHex(packed)] }),
    )

  return {
    provider: account.address.toLowerCase() as Address,
    async depositOf(buyer) {
      const [balance, requested] = await publicClient.readContract({
        address: escrow,
        abi: escrowAbi,
        functionName: 'accounts',
        args: [buyer],
      })
      return requested < balance ? balance - requested : 0n
    },
    settledOf: (channel) =>
      publicClient.readContract({ address: escrow, abi: escrowAbi, functionName: 'settled', args: [channel] }),
    mandateLeft: ({ buyer, key, model, channel, at }) =>
      publicClient.readContract({
        address: escrow,
        abi: escrowAbi,
        functionName: 'mandateLeft',
        args: [buyer, key, model, channel, BigInt(at)],
      }),
    async contractSignature(buyer, digest, signature) {
      const code = await publicClient.getCode({ address: buyer })
      if (!code) return null
      return publicClient
        .readContract({
          address: buyer,
          abi: [
            {
              type: 'function',
              name: 'isValidSignature',
              stateMutability: 'view',
              inputs: [{ type: 'bytes32' }, { type: 'bytes' }],
              outputs: [{ type: 'bytes4' }],
            },
          ] as const,
          functionName: 'isValidSignature',
          args: [toHex(digest), toHex(signature)],
        })
        .then((answer) => answer === '0x1626ba7e')
        .catch(() => false)
    },
    async recentBlock() {
      // The block before the newest: a node that simulates inside the newest block cannot see that one's own hash.
      const newest = await publicClient.getBlockNumber()
      const { number, hash } = await publicClient.getBlock({ blockNumber: newest - 1n })
      return { number, hash }
    },
    async register({ quote, collateral, statement, nonceBlock, signerKey, signature, now }) {
      const sendToRegistry = (data: Hex) => sendAnyway(registry, runnerRegistryAbi, data)
      await postWhatIsMissing({ publicClient, registry, send: sendToRegistry, quote, collateral, now })
      const claim = claimForChain({ statement, signerKey, nonceBlock, provider: account.address, signature })
      const args = [quoteForChain(quote), claim] as const
      const { hash } = await sendToRegistry(
        encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'register', args }),
      )
      return hash
    },
    async verifierSet() {
      const at = { address: await verifiersOf(), abi: verifierSetAbi } as const
      return {
        threshold: Number(await publicClient.readContract({ ...at, functionName: 'threshold' })),
        isVerifier: (verifier) => publicClient.readContract({ ...at, functionName: 'isVerifier', args: [verifier] }),
      }
    },
    async registerVerdict({ verdict, signatures }) {
      const to = await verifiersOf()
      const abi = [...verifierSetAbi, ...runnerRegistryAbi]
      const data = encodeFunctionData({
        abi: verifierSetAbi,
        functionName: 'register',
        args: [verdict, signatures],
      })
      return (await sendAnyway(to, abi, data)).hash
    },
    async preview(claim) {
      const packed = packClaims({ claims: [await claimOf(claim)], signature: unsigned })
      const call = { address: escrow, abi: escrowAbi, functionName: 'preview', args: [toHex(packed)] } as const
      const [, [amount]] = await asOfNextBlock((blockTag) => publicClient.readContract({ ...call, blockTag }))
      return amount ?? 0n
    },
    async settle(claims, signature) {
      return settlePacked(packClaims({ claims: await Promise.all(claims.map(claimOf)), signature }))
    },
    async settleOne(claim) {
      const { signature, proof } = claim.entry
      return settlePacked(packClaims({ claims: [await claimOf(claim)], signature, proof }))
    },
    async gasPrice() {
      try {
        const { baseFeePerGas } = await publicClient.getFeeHistory({
          blockCount: feeHistoryBlocks,
          rewardPercentiles: [],
        })
        const price = baseFeePerGas.at(-1)
        const usual = baseFeePerGas.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0))[baseFeePerGas.length >> 1]
        return price === undefined || usual === undefined ? null : { price, usual }
      } catch {
        return null
      }
    },
    resolvePending: () => sender.resolve(),
    async signTypedSuccession(digest) {
      const signature = await account.sign({ hash: toHex(concat(digest)) })
      return Uint8Array.from(Buffer.from(signature.slice(2), 'hex'))
    },
  }
}
