import { escrowAbi } from '../../contracts/abi.ts'
import type { Journal } from '../../gpu-runner/journal.ts'
import { batchDigest } from '../../protocol/batch.ts'
import { fromHex, type Hex } from '../../protocol/bytes.ts'
import { encodeJobAnswer } from '../../protocol/frames.ts'
import { sha256 } from '../../protocol/hash.ts'
import { merkleTree } from '../../protocol/merkle.ts'
import { type Detail, detailDigest, type Receipt, receiptLeaf } from '../../protocol/receipt.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'
import { type openContracts, signerOf } from '../contracts/setup.ts'

/** Contracts on a chain of their own. */
export type World = Awaited<ReturnType<typeof openContracts>>

/** Journals one finished job of a channel as a runner does: terms, voucher, receipt under its own batch signature. Gives the channel. */
export async function earn(
  it: World,
  journal: Journal,
  runner: Signer,
  {
    terms,
    job = 1n,
    cumulative,
    voucher = cumulative,
    finishedAt,
  }: { terms: Terms; job?: bigint; cumulative: bigint; voucher?: bigint; finishedAt?: bigint },
): Promise<Hex> {
  const channel = channelOf(it.domain, terms)
  const id = fromHex(channel, 32)
  const detail: Detail = {
    input: new Uint8Array(32),
    output: new Uint8Array(32),
    execution: new Uint8Array(32),
    price: terms.price,
  }
  const receipt: Receipt = {
    channel: id,
    job,
    status: 0,
    cumulative,
    finishedAt: finishedAt ?? (await it.now()),
    detail: detailDigest(detail),
  }
  const { root, proofs } = merkleTree([receiptLeaf(receipt)])
  const vouched = {
    cumulative: voucher,
    signature: await signerOf('buyer').sign(voucherDigest(it.domain, { channel, cumulative: voucher })),
  }
  const signature = await runner.sign(batchDigest(it.domain, { root, count: 1 }))
  const body = { bodyHash: sha256(new Uint8Array([Number(job)])), answer: new Uint8Array(0) }
  const frame = encodeJobAnswer({ ticket: 0, receipt, detail, signature, proof: proofs[0]!, body: body.answer })
  await journal.commit(
    [{ channel: id, job, receipt, detail, signature, proof: proofs[0]!, ...body, frame }],
    [{ channel: id, terms, voucher: vouched }],
  )
  return channel
}

/** Counts the settlements the chain has, and what they paid in all. */
export async function settlements(it: World): Promise<number> {
  const events = await it.publicClient.getContractEvents({
    address: it.contracts.escrow,
    abi: escrowAbi,
    eventName: 'Settled',
    fromBlock: 0n,
  })
  return events.length
}
