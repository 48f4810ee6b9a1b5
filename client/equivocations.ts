import { EncodingError, type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import {
  differencesOf,
  type Equivocation,
  judgeEquivocation,
  type SignedReceipt,
  type SignedReceiptJson,
  signedReceiptFromJson,
} from '../protocol/equivocation.ts'
import { recoverAddress } from '../protocol/secp256k1.ts'
import { channelOf, type Terms } from '../protocol/terms.ts'
import type { Edge } from './edge.ts'

/** Holds what a buyer has of one channel: its terms, and a signed receipt a job. */
export type KeptReceipts = { terms: Terms; receipts: Pick<ReadonlyMap<bigint, SignedReceipt>, 'get'> }

/** Compares receipts a buyer has with those its edge shows of the same channel, and gives every job its runner provably answered twice. What does not prove anything is passed over: the edge may show what it likes. Throws EdgeError. */
export async function findEquivocations(
  edge: Edge,
  domain: Domain,
  { terms, receipts }: KeptReceipts,
  recover: typeof recoverAddress = recoverAddress,
): Promise<Equivocation[]> {
  const found: Equivocation[] = []
  for await (const json of shownReceipts(edge, channelOf(domain, terms))) {
    const second = readable(json)
    const first = second && receipts.get(second.receipt.job)
    if (!first || differencesOf(first.receipt, second.receipt).length === 0) continue
    const equivocation = { terms, first, second }
    if (judgeEquivocation(domain, equivocation, recover).proven) found.push(equivocation)
  }
  return found
}

async function* shownReceipts(edge: Edge, channel: Hex): AsyncGenerator<SignedReceiptJson> {
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: { receipts: SignedReceiptJson[]; nextCursor: string | null } = await edge.json(
      `/v1/channels/${channel}/receipts?limit=100${cursor && `&cursor=${cursor}`}`,
    )
    yield* page.receipts
    cursor = page.nextCursor
  }
}

function readable(json: SignedReceiptJson): SignedReceipt | null {
  try {
    return signedReceiptFromJson(json)
  } catch (error) {
    if (error instanceof EncodingError) return null
    throw error
  }
}

/** Copies a signed receipt out of the answer it came in, which would be kept whole otherwise. */
export function keepReceipt({ receipt, proof, signature }: SignedReceipt): SignedReceipt {
  return {
    receipt: { ...receipt, channel: receipt.channel.slice(), detail: receipt.detail.slice() },
    proof: { ...proof, path: proof.path.map((node) => node.slice()) },
    signature: signature.slice(),
  }
}

/** Says what was proven and what to do about it. */
export function wordsFor({ terms, first, second }: Equivocation): string {
  const { channel, job } = first.receipt
  const differs = differencesOf(first.receipt, second.receipt).join(' and ')
  return (
    `Runner ${terms.runner} signed two different answers to job ${job} of channel ${toHex(channel)}: they differ in ${differs}. ` +
    'Believe neither, keep the proof in a file and report it: `assay slash <file>` takes its stake, four tenths of it for the buyer and one for whoever reports first.'
  )
}
