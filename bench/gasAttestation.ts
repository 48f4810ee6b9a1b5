import { toHex } from '../protocol/bytes.ts'
import { parseTdxQuote, tdxWorkload } from '../protocol/evidence/quote.ts'
import { vendorRoots } from '../protocol/evidence/roots.ts'
import { openRecorded } from '../test/contracts/recorded.ts'
import { type RealQuote, realQuotes } from '../test/fixtures/quotes.ts'
import type { Row } from './main.ts'

// A published transaction of the heaviest peer, not measured here.
const peerRegistration = 8_931_626
const recorded = [
  ['phala_tdx_quote__', 'version 4'],
  ['go-tdx-guest_quote_v5', 'version 5'],
] as const
// The longest TCB info of those recorded; the platform of its quote has fallen out of date and registers no more.
const longest = 'go-tdx-guest_tdx_prod_quote_SPR_E4_dat__lunal'

/** Measures attestation on chain with quotes and collateral of real machines, whole transactions; none where the recordings are absent. */
export async function run(): Promise<Row[]> {
  const rows: Row[] = []
  const add = (figure: string, gas: bigint | number, bar: number | null, baseline: number | null = null) => {
    const value = Number(gas)
    const ratio = baseline === null ? null : value / baseline
    rows.push({ figure, value, unit: 'gas', baseline, ratio, bar, met: bar === null ? null : value <= bar })
  }
  const quotes = realQuotes()
  if (quotes.length === 0)
    console.warn('The recorded quotes are not beside this checkout: attestation gas was not measured.')
  for (const [start, label] of recorded) {
    const found = quotes.find(({ name }) => name.startsWith(start))
    if (!found) continue
    const { quote, collateral, now } = found
    const { body } = parseTdxQuote(quote)
    const it = await openRecorded({ now, rootDer: vendorRoots.intel, reportData: toHex(body.reportData) })
    try {
      await it.setTcbRules(3, 17, 30 * 24)
      await it.approve(tdxWorkload(body))
      const gas = await it.post(quote, collateral)
      add(`${label}: register a platform key (real PCK certificate)`, gas.pck, 125_000)
      await addTcbInfo(it, found, label, gas.tcbInfo, add)
      add(`${label}: post the quoting enclave's identity`, gas.qeIdentity, null)
      add(`${label}: post the revocation list (${collateral.pckCrl.length} bytes)`, gas.pckCrl, null)
      add(`${label}: add an intermediate`, gas.platformCa, null)
      add(
        `${label}: register a runner (real quote, TCB, module and enclave levels)`,
        (await it.register(quote)).gasUsed,
        115_000,
        peerRegistration,
      )
      await it.testClient.increaseTime({ seconds: 60 })
      await it.testClient.mine({ blocks: 2 })
      add(`${label}: renew a runner`, (await it.register(quote)).gasUsed, null)
    } finally {
      await it.chain.stop()
    }
  }
  const found = quotes.find(({ name }) => name.startsWith(longest))
  if (!found) return rows
  const it = await openRecorded({ now: found.now, rootDer: vendorRoots.intel, reportData: toHex(new Uint8Array(64)) })
  try {
    await addTcbInfo(it, found, 'longest', (await it.post(found.quote, found.collateral)).tcbInfo, add)
  } finally {
    await it.chain.stop()
  }
  return rows
}

/** Adds what posting TCB info costs: with and without the account of its levels, and again with levels unchanged. */
async function addTcbInfo(
  it: Awaited<ReturnType<typeof openRecorded>>,
  { quote, collateral }: RealQuote,
  label: string,
  first: bigint,
  add: (figure: string, gas: bigint | number, bar: number | null) => void,
): Promise<void> {
  const size = `${collateral.tcbInfo.length} bytes`
  // The levels lie in an account: 32,000 gas, and 200 a byte of its code, of which one stands before them.
  const levels = ((await it.table(quote)).length - 2) / 2
  const table = 32_000 + 200 * (levels + 1)
  add(`${label}: post TCB info of ${size}, first of its platform`, first, null)
  add(`${label}: post TCB info of ${size}, less the account of its table`, first - BigInt(table), 150_000)
  add(`${label}: post TCB info of ${size} again, levels unchanged`, await it.repost(collateral), 150_000)
}
