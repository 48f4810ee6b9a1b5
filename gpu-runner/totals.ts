import { type Hex, toHex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import { totalsDigest } from '../protocol/totals.ts'
import type { Journal } from './journal.ts'

/** Most channels the edge takes in one posting. */
const channelsPerPosting = 1_000
/** How long after their terms' end channels can still be claimed, in seconds (`Escrow.CLAIM_WINDOW`). */
const claimWindowSeconds = 86_400

/** Tells the edge what the journal adds up to, signed by the runner's key, so that both can be compared. Leaves out other keys' channels, which it cannot speak for, and those nothing can be claimed of. Gives how many channels it told; throws what posting throws. `now` in unix seconds. */
export async function postTotals({
  journal,
  signer,
  domain,
  now,
  post,
}: {
  journal: Pick<Journal, 'totals'>
  signer: Signer
  domain: Domain
  now: number
  post: (body: object) => Promise<unknown>
}): Promise<number> {
  const runner: Hex = signer.address
  const at = BigInt(now)
  const own = journal
    .totals()
    .filter(({ terms }) => terms.runner === runner && terms.expiresAt + BigInt(claimWindowSeconds) > at)
    .map(({ channel, cumulative, vouched }) => ({ channel: toHex(channel), cumulative, vouched }))
  for (let from = 0; from < own.length; from += channelsPerPosting) {
    const totals = own.slice(from, from + channelsPerPosting)
    const signature = toHex(await signer.sign(totalsDigest(domain, { runner, at, totals })))
    await post({
      at: String(at),
      totals: totals.map((each) => ({
        ...each,
        cumulative: String(each.cumulative),
        vouched: String(each.vouched),
      })),
      signature,
    })
  }
  return own.length
}
