import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { batchDigest } from '../../protocol/batch.ts'
import { type Hex, toBase64, toHex, utf8 } from '../../protocol/bytes.ts'
import type { Domain } from '../../protocol/eip712.ts'
import {
  decodeFrame,
  encodeHello,
  encodeJobAnswer,
  encodeJobRequest,
  type Hello,
  type JobAnswer,
  type JobRequest,
  joinFrames,
  splitFrames,
} from '../../protocol/frames.ts'
import { merkleTree } from '../../protocol/merkle.ts'
import { detailDigest, jobStatus, type Receipt, receiptLeaf } from '../../protocol/receipt.ts'
import { connectDigest } from '../../protocol/registration.ts'
import type { Signer } from '../../protocol/secp256k1.ts'

/** Signs receipts for a batch of jobs as a runner does; the answer's body is the request's, reversed. */
export async function signAnswers(
  signer: Signer,
  domain: Domain,
  requests: readonly JobRequest[],
): Promise<JobAnswer[]> {
  const detail = {
    input: new Uint8Array(32),
    output: new Uint8Array(32),
    execution: new Uint8Array(32),
    price: 5n,
  }
  const receipts = requests.map(
    ({ channel, job }): Receipt => ({
      channel: channel.slice(),
      job,
      status: jobStatus.ok,
      cumulative: 5n * job,
      finishedAt: 1_800_000_000n,
      detail: detailDigest(detail),
    }),
  )
  const { root, proofs } = merkleTree(receipts.map(receiptLeaf))
  const signature = await signer.sign(batchDigest(domain, { root, count: receipts.length }))
  return requests.map(({ ticket, body }, index) => ({
    ticket,
    receipt: receipts[index]!,
    detail,
    signature,
    proof: proofs[index]!,
    body: body.slice().reverse(),
  }))
}

/** Holds a connection to a mailbox in the place of a runner, and what came over it. */
export type FakeRunner = {
  socket: WebSocket
  /** How many jobs each message carried. */
  batches: number[]
  requests: JobRequest[]
  closed: Promise<{ code: number; reason: string }>
  send(...frames: Uint8Array[]): void
  close(): Promise<unknown>
}

/** Opens a mailbox socket with the key of a runner and hands each message's jobs to `handle`. */
export async function openRunner({
  url,
  domain,
  runner,
  by,
  at = Math.floor(Date.now() / 1000),
  hello,
  handle = () => {},
}: {
  url: string
  domain: Domain
  runner: Hex
  by: Signer
  at?: number
  hello?: Hello
  handle?: (requests: JobRequest[], fake: FakeRunner) => unknown
}): Promise<FakeRunner> {
  const signature = toHex(await by.sign(connectDigest(domain, { runner, at: BigInt(at) })))
  const proof = JSON.stringify({ runner, at: String(at), signature })
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/runners/${runner}/socket`, {
    headers: { authorization: `Assay ${toBase64(utf8(proof))}` },
    perMessageDeflate: false,
  })
  const fake: FakeRunner = {
    socket,
    batches: [],
    requests: [],
    closed: new Promise((resolve) =>
      socket.once('close', (code, reason) => resolve({ code, reason: reason.toString() })),
    ),
    send: (...frames) => socket.send(joinFrames(frames)),
    close() {
      socket.close()
      return fake.closed
    },
  }
  socket.on('message', (data: Buffer) => {
    const requests = splitFrames(new Uint8Array(data))
      .map((bytes) => decodeFrame(bytes))
      .filter((frame) => frame.type === 'jobRequest')
    fake.batches.push(requests.length)
    fake.requests.push(...requests)
    void handle(requests, fake)
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve)
    socket.once('unexpected-response', (_, response) => reject(new Error(String(response.statusCode))))
    socket.once('error', reject)
  })
  if (hello) fake.send(encodeHello(hello))
  return fake
}

/** Answers every job with a signed receipt, as a runner in order does. */
export const honest =
  (signer: Signer, domain: Domain, delayMs = 0) =>
  async (requests: JobRequest[], fake: FakeRunner): Promise<void> => {
    if (delayMs > 0) await sleep(delayMs)
    const answers = await signAnswers(signer, domain, requests)
    fake.send(...answers.map(encodeJobAnswer))
  }

/** Encodes a job for tests: nothing in it means anything to a mailbox but channel, number and body. */
export const jobFrame = (
  job: bigint,
  body: Uint8Array,
  { channel = 7, deadlineMs = 5_000 } = {},
): Uint8Array<ArrayBuffer> =>
  encodeJobRequest({
    ticket: 0,
    channel: new Uint8Array(32).fill(channel),
    job,
    context: new Uint8Array(8),
    deadlineMs,
    body,
  })
