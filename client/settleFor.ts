import { type Account, encodeFunctionData, type PublicClient, type WalletClient } from 'viem'
import { escrowAbi } from '../contracts/abi.ts'
import { EncodingError, type Hex, toHex } from '../protocol/bytes.ts'
import { packClaims, type SettlementClaim, type VoucherKind } from '../protocol/claims.ts'
import type { Domain } from '../protocol/eip712.ts'
import { type KeptClaim, type KeptClaimJson, readKeptClaim } from '../protocol/keptClaim.ts'
import { asOfNextBlock } from '../protocol/nextBlock.ts'
import { recoverAddress } from '../protocol/secp256k1.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import type { Edge } from './edge.ts'

/** Lists how the escrow can end a claim, in the contract's order. */
const claimStatuses = [
  'settled',
  'partial',
  'nothing_new',
  'bad_voucher',
  'bad_receipt',
  'runner_inactive',
  'expired',
  'bad_terms',
  'no_funds',
  'mandate_exceeded',
] as const

/** Tells what became of one channel: what was paid, in the token's smallest unit, or why nothing was. */
export type SettledFor = {
  channel: Hex
  status: (typeof claimStatuses)[number] | 'unreadable' | 'below_minimum'
  amount: bigint
  transaction: Hex | null
}

type Deps = { publicClient: PublicClient; escrow: Hex; domain: Domain }
type Best = { packed: Uint8Array<ArrayBuffer>; status: SettledFor['status']; amount: bigint }

/** Settles for a runner from what its edge kept, with the gas of whoever asks: the runner may be gone, and its provider is paid all the same. Every channel goes by itself, with the proof its receipt has. Checks each claim before it believes it, and sends nothing the escrow would not pay at least `minimum` for. Throws EdgeError, and Error when a transaction reverts. */
export async function settleFor({
  edge,
  runner,
  wallet,
  minimum = 1n,
  ...deps
}: Deps & { edge: Edge; runner: Hex; wallet: WalletClient & { account: Account }; minimum?: bigint }): Promise<
  SettledFor[]
> {
  const done: SettledFor[] = []
  for await (const json of keptClaims(edge, runner)) {
    let claim: KeptClaim
    try {
      claim = readKeptClaim(deps.domain, runner, json)
    } catch (error) {
      if (!(error instanceof EncodingError)) throw error
      done.push({ channel: json.channel, status: 'unreadable', amount: 0n, transaction: null })
      continue
    }
    const { packed, status, amount } = await bestOf(deps, claim)
    if (amount < minimum) {
      const why = amount > 0n ? 'below_minimum' : status
      done.push({ channel: claim.channel, status: why, amount: 0n, transaction: null })
      continue
    }
    const transaction = await send(deps, wallet, packed)
    done.push({ channel: claim.channel, status, amount, transaction })
  }
  return done
}

async function* keptClaims(edge: Edge, runner: Hex): AsyncGenerator<KeptClaimJson> {
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: { claims: KeptClaimJson[]; nextCursor: string | null } = await edge.json(
      `/v1/runners/${runner}/claims?limit=100${cursor && `&cursor=${cursor}`}`,
    )
    yield* page.claims
    cursor = page.nextCursor
  }
}

/** Finds the voucher the escrow would pay most for, by asking it. */
async function bestOf(deps: Deps, claim: KeptClaim): Promise<Best> {
  let best: Best = { packed: new Uint8Array(), status: 'bad_voucher', amount: 0n }
  for (const voucher of claim.vouchers) {
    for (const kind of await kindsOf(deps, claim, voucher)) {
      const { terms, receipt, signature, proof } = claim
      const claims: SettlementClaim[] = [{ terms, receipt, voucher: { ...voucher, kind } }]
      const packed = packClaims({ claims, signature, proof })
      const call = { address: deps.escrow, abi: escrowAbi, functionName: 'preview', args: [toHex(packed)] } as const
      const [[status], [amount]] = await asOfNextBlock((blockTag) =>
        deps.publicClient.readContract({ ...call, blockTag }),
      )
      const seen: Best = { packed, status: claimStatuses[status!] ?? 'bad_receipt', amount: amount! }
      if (best.amount === 0n || seen.amount > best.amount) best = seen
    }
  }
  return best
}

/** Tells as what a voucher can be presented: the buyer's key, a contract wallet, or a key with a mandate. */
async function kindsOf(
  { publicClient, domain }: Deps,
  { channel, terms }: KeptClaim,
  { cumulative, signature }: KeptClaim['vouchers'][number],
): Promise<VoucherKind[]> {
  const key = signature.length === 65 ? recoverAddress(voucherDigest(domain, { channel, cumulative }), signature) : null
  if (key === terms.buyer) return ['key']
  if (signature.length > 0xffff) return []
  const code = await publicClient.getCode({ address: terms.buyer })
  return [...(key ? (['mandate'] as const) : []), ...(code ? (['wallet'] as const) : [])]
}

async function send(
  { publicClient, escrow }: Deps,
  wallet: WalletClient & { account: Account },
  packed: Uint8Array,
): Promise<Hex> {
  const { account } = wallet
  const data = encodeFunctionData({ abi: escrowAbi, functionName: 'settleChannels', args: [toHex(packed)] })
  const gas = await asOfNextBlock((blockTag) => publicClient.estimateGas({ account, to: escrow, data, blockTag }))
  // A clock that ticks between estimate and block can take a dearer branch.
  const hash = await wallet.sendTransaction({
    account,
    to: escrow,
    data,
    gas: (gas * 12n) / 10n,
    chain: wallet.chain ?? null,
  })
  const { status } = await publicClient.waitForTransactionReceipt({ hash })
  if (status !== 'success') throw new Error(`Transaction ${hash} reverted; what was settled before it stays settled.`)
  return hash
}
