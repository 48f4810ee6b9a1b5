import { ChannelBook } from '../functions/mailbox/channelBook.ts'
import { CreditGate } from '../functions/mailbox/creditGate.ts'
import { Relay } from '../functions/mailbox/relay.ts'
import { Credit } from '../functions/services/credit.ts'
import { fromHex, toHex, utf8 } from '../protocol/bytes.ts'
import { decodeFrame, encodeJobRequest, type JobRequest, splitFrames } from '../protocol/frames.ts'
import { sha256 } from '../protocol/hash.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import { channelOf, type Terms } from '../protocol/terms.ts'
import { voucherDigest } from '../protocol/voucher.ts'
import { openSql } from '../test/functions/sqlite.ts'
import type { Row } from './main.ts'
import { sideBySide } from './sideBySide.ts'

const jobs = 1_000
const wave = 50
const domain = { chainId: 31_337, escrow: `0x${'5e'.repeat(20)}` as const }
const signerOf = (name: string) => createSigner(sha256(utf8(`bench key: ${name}`)))
const buyer = signerOf('buyer')
const terms: Terms = {
  buyer: buyer.address,
  runner: signerOf('runner').address,
  model: toHex(sha256(utf8('model'))),
  publisher: signerOf('publisher').address,
  price: 10n,
  royaltyBps: 0,
  feeBps: 0,
  expiresAt: 4_000_000_000n,
  salt: toHex(sha256(utf8('salt'))),
}
const channel = fromHex(channelOf(domain, terms), 32)
const cumulative = 2n ** 100n
const zero = new Uint8Array(32)

/** Opens a relay whose runner answers on the spot, and a gate before it that leases from a real account. */
function open(signature: Uint8Array) {
  let job = 0n
  let total = 0n
  let questions = 0
  const after = (ms: number, run: () => void) => {
    // Sweeps and writes behind the jobs are left out: they come by the clock and not by the job.
    if (ms <= 2) queueMicrotask(run)
  }
  // Written once and changed in place: what writing them costs is the buyer's and the runner's.
  const request = {
    ticket: 0,
    channel,
    job: 0n,
    context: new Uint8Array(8),
    deadlineMs: 60_000,
    voucher: { cumulative, signature },
    body: new Uint8Array(512),
  }
  const opening = encodeJobRequest({ ...request, opening: { terms, enc: zero } })
  const requestFrame = encodeJobRequest(request)
  const answerFrame = new Uint8Array(600).fill(2, 0, 1)
  const relay = new Relay({
    now: Date.now,
    after,
    firstTicket: 1,
    send(message) {
      for (const bytes of splitFrames(message)) {
        const { ticket, job } = decodeFrame(bytes) as JobRequest & { type: 'jobRequest' }
        total += terms.price
        const receipt = { channel, job, status: 0, cumulative: total, finishedAt: 1n, detail: zero }
        const detail = { input: zero, output: zero, execution: zero, price: terms.price }
        const proof = { index: 0, count: 1, path: [] }
        const answer = { ticket, receipt, detail, signature: new Uint8Array(65), proof, body: zero }
        queueMicrotask(() => {
          relay.settle(answerFrame.slice(), answer)
          relay.spoke()
        })
      }
    },
    answered: (answer) => gate.answered(answer.receipt),
  })
  const sql = openSql()
  const book = new ChannelBook({ domain, sql, now: Date.now, after, pause: async () => {} })
  const credit = new Credit({
    sql: openSql(),
    now: Date.now,
    funds: async (channels) => ({ deposit: 2n ** 80n, settled: channels.map(() => 0n) }),
    recall: async () => ({ open: 0n, channels: [] }),
  })
  const gate = new CreditGate({
    relay,
    book,
    sql,
    domain,
    now: Date.now,
    after,
    vouched: async () => false,
    lease(_, request) {
      questions++
      return credit.lease(request)
    },
  })
  book.prepare()
  gate.prepare()
  relay.opened()
  relay.hello({ capacity: 10_000 })
  const frame = () => {
    const bytes = (job === 0n ? opening : requestFrame).slice()
    new DataView(bytes.buffer).setBigUint64(38, ++job)
    return bytes
  }
  const batch = async (submit: (frame: Uint8Array) => Promise<Uint8Array>) => {
    for (let left = jobs; left > 0; left -= wave)
      await Promise.all(Array.from({ length: Math.min(wave, left) }, () => submit(frame())))
  }
  return {
    questions: () => questions,
    plain: () => batch((bytes) => relay.submit(bytes)),
    gated: () => batch((bytes) => gate.submit(terms.runner, bytes)),
  }
}

/** Measures what credit costs a job at the mailbox, beside the same relay without it, and how often the buyer's account is asked. */
export async function run(): Promise<Row[]> {
  const signature = await buyer.sign(voucherDigest(domain, { channel: toHex(channel), cumulative }))
  const plain = open(signature)
  const gated = open(signature)
  const times = await sideBySide({ plain: plain.plain, gated: gated.gated })
  const micro = (ms: number) => Number(((ms * 1_000) / jobs).toFixed(2))
  const counted = open(signature)
  await counted.gated()
  const asked = counted.questions()
  const ratio = Number((times.gated / times.plain).toFixed(2))
  return [
    {
      figure: 'a job through the relay with credit',
      value: micro(times.gated),
      unit: 'µs',
      baseline: micro(times.plain),
      ratio,
      bar: 1.5,
      met: ratio <= 1.5,
    },
    {
      figure: 'questions to the account in 1,000 jobs',
      value: asked,
      unit: 'calls',
      baseline: jobs,
      ratio: asked / jobs,
      bar: 0.02,
      met: asked / jobs <= 0.02,
    },
  ]
}
