import { createHash } from 'node:crypto'
import { privateKeyToAccount } from 'viem/accounts'
import { Assay, type Inference } from '../client/assay.ts'
import { depositTokens, findPots } from '../client/escrow.ts'
import { publishModel } from '../client/publish.ts'
import { tryModel } from '../client/tryModel.ts'
import { escrowAbi } from '../contracts/abi.ts'
import { verifyBundle } from '../protocol/bundle.ts'
import { fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import { defaultPolicy, vendorRoots } from '../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../protocol/evidence/roots.development.ts'
import { tensorToJson } from '../protocol/oip.ts'
import { receiptToJson } from '../protocol/receipt.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import type { Tensor } from '../protocol/tensors.ts'
import { developmentKey } from './keys.ts'
import type { Marketplace, RunnerProcess } from './marketplace.ts'
import { walletOf } from './marketplace.ts'
import type { Progress } from './progress.ts'

/** Holds what to sell: the model's bytes, a name, a price in the token's smallest unit, and one input to ask about. */
export type Offer = {
  graph: Uint8Array
  name: string
  card: string
  price: bigint
  royaltyBps: number
  inputs: Tensor[]
}

/** Makes a buyer's SDK for a local marketplace, with the development root allowed on purpose. */
export function localBuyer(
  marketplace: Pick<Marketplace, 'edgeUrl' | 'developmentRoot' | 'chain'>,
  key: Hex = developmentKey('buyer'),
): Assay {
  const { edgeUrl, developmentRoot, chain } = marketplace
  return new Assay({
    edge: edgeUrl,
    signer: createSigner(fromHex(key, 32)),
    roots: [vendorRoots, readDevelopmentRoots(chain.chainId, developmentRoot)],
  })
}

/** Asks a runner to claim what it earned, through its own control door. */
export async function settleNow(
  runner: RunnerProcess,
): Promise<{ transactions: { hash: Hex; gasUsed: string }[]; channels: number; receipts: number }> {
  const response = await fetch(`${runner.controlUrl}/settle`, { method: 'POST' })
  const body = (await response.json()) as {
    transactions: { hash: Hex; gasUsed: string }[]
    channels: number
    receipts: number
    error?: string
  }
  if (!response.ok) throw new Error(`The runner could not settle: ${body.error}`)
  return body
}

/** Reads what a party has earned and not withdrawn, its share of what is not divided yet included. */
export async function earningsOf(
  { chain, contracts }: Pick<Marketplace, 'chain' | 'contracts'>,
  party: 'provider' | 'publisher' | 'treasury',
): Promise<bigint> {
  const addressOf = (name: typeof party) => privateKeyToAccount(developmentKey(name)).address
  const escrow = { address: contracts.escrow, abi: escrowAbi } as const
  const { publicClient } = chain
  const pots = await findPots({ publicClient, contracts, payee: null })
  const shares = await Promise.all(
    pots.map(async ({ provider, publisher, royaltyBps, amount }) => {
      const parts = await publicClient.readContract({ ...escrow, functionName: 'divide', args: [amount, royaltyBps] })
      const payees = [provider, publisher, addressOf('treasury')].map((payee) => payee.toLowerCase())
      return parts.reduce((sum, part, at) => (payees[at] === addressOf(party).toLowerCase() ? sum + part : sum), 0n)
    }),
  )
  const divided = await publicClient.readContract({ ...escrow, functionName: 'earnings', args: [addressOf(party)] })
  return shares.reduce((sum, share) => sum + share, divided)
}

/** Sells one inference from listing to settlement, and gives the facts of it. Every figure is read back from where it counts: the chain, the verifier, the receipt. */
export async function sellOne(marketplace: Marketplace, runner: RunnerProcess, offer: Offer, progress: Progress) {
  const { chain, contracts } = marketplace
  const buyer = localBuyer(marketplace)
  const network = await buyer.network()

  const model = await progress('publishing model', () =>
    publishModel(buyer.edge, {
      graph: offer.graph,
      name: offer.name,
      version: createHash('sha256').update(offer.graph).digest('hex').slice(0, 12),
      licence: 'Apache-2.0',
      card: offer.card,
      price: offer.price,
      royaltyBps: offer.royaltyBps,
      signer: createSigner(fromHex(developmentKey('publisher'), 32)),
      network,
      now: Date.now,
      check: tryModel,
    }),
  )
  await progress('admitting model', async () => {
    const response = await fetch(`${runner.controlUrl}/models`, { method: 'POST' })
    const { models = [] } = (await response.json()) as { models?: Hex[] }
    if (!models.includes(model.digest))
      throw new Error('The runner could not load the model. Does onnxruntime run it on its CPU provider?')
  })
  await progress('depositing', () =>
    depositTokens({
      wallet: walletOf(developmentKey('buyer'), marketplace.rpcUrl),
      publicClient: chain.publicClient,
      contracts,
      amount: offer.price * 10n,
    }),
  )
  const answer = await progress('buying one inference', () => buyWhenListed(buyer, model.digest, offer))
  const bundle = answer.bundle({ reveal: true })
  const verified = await verifyBundle(bundle, {
    roots: [vendorRoots, readDevelopmentRoots(chain.chainId, marketplace.developmentRoot)],
    policy: defaultPolicy,
  })
  if (verified.verdict !== 'verified')
    throw new Error(`The bundle does not verify: ${verified.checks.find(({ status }) => status === 'failed')?.detail}`)

  const settled = await progress('settling', async () => {
    const before = await Promise.all(
      (['provider', 'publisher', 'treasury'] as const).map((party) => earningsOf(marketplace, party)),
    )
    const { transactions } = await settleNow(runner)
    const [transaction] = transactions
    if (!transaction) throw new Error('Nothing was settled.')
    const after = await Promise.all(
      (['provider', 'publisher', 'treasury'] as const).map((party) => earningsOf(marketplace, party)),
    )
    const [provider, publisher, fee] = after.map((amount, index) => (amount - before[index]!).toString())
    return { provider, publisher, fee, tx: transaction.hash, gasUsed: transaction.gasUsed }
  })
  return {
    modelDigest: model.digest,
    runner: answer.runner,
    verdict: {
      verdict: answer.verdict.verdict,
      tee: answer.verdict.tee,
      root: answer.verdict.root,
      tcbStatus: answer.verdict.tcbStatus,
      workload: answer.verdict.measurement?.workload,
    },
    output: answer.outputs.map((tensor) =>
      tensor.datatype === 'FP16'
        ? { name: tensor.name, datatype: tensor.datatype, shape: tensor.shape, data: toHex(tensor.data) }
        : tensorToJson(tensor),
    ),
    receipt: { ...receiptToJson(answer.receipt), price: answer.price.toString() },
    receiptVerified: true,
    settled,
    bundle,
  }
}

/** Buys, waiting a moment for the directory to show a runner that has just admitted the model. */
async function buyWhenListed(buyer: Assay, digest: Hex, offer: Offer): Promise<Inference> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await buyer.infer(digest, offer.inputs, { maxPrice: offer.price })
    } catch (error) {
      if ((error as { code?: string }).code !== 'no_match' || attempt >= 20) throw error
      await new Promise((resolve) => setTimeout(resolve, 250))
    }
  }
}
