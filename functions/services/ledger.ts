import { asc } from 'drizzle-orm'
import { EncodingError, fromHex, type Hex, Reader, toHex } from '../../protocol/bytes.ts'
import { type Database, query } from '../store/database.ts'
import { chainEvents } from '../store/schema.ts'

/** Holds one payment out of a `Settled` event. */
export type Payment = { channel: Hex; buyer: Hex; amount: bigint; settledTotal: bigint }

/** Holds the contracts' books as their events tell them: deposits by buyer, pots by provider, publisher and royalty, earnings by payee, totals by channel, stakes by runner, and what slashes owe in all. Which buyer a slash owes is not in its event. */
export type Ledger = {
  deposits: Map<Hex, bigint>
  pots: Map<string, bigint>
  earnings: Map<Hex, bigint>
  settled: Map<Hex, bigint>
  stakes: Map<Hex, bigint>
  slashesOwed: bigint
}

type Event = { name: string; args: Record<string, string> }

/** Reads the payments packed in a `Settled` event: 84 bytes each. Throws EncodingError on bytes left over. */
export function readPayments(payments: string): Payment[] {
  const reader = new Reader(fromHex(payments as Hex))
  const list: Payment[] = []
  const wide = () => (reader.u64() << 64n) | reader.u64()
  while (reader.offset < reader.bytes.length) {
    list.push({ channel: toHex(reader.take(32)), buyer: toHex(reader.take(20)), amount: wide(), settledTotal: wide() })
  }
  return list
}

/** Names a pot as the ledger does. */
export const potName = (provider: string, publisher: string, royaltyBps: string | number): string =>
  `${provider} ${publisher} ${royaltyBps}`

function add<K>(book: Map<K, bigint>, key: K, amount: bigint): void {
  const sum = (book.get(key) ?? 0n) + amount
  if (sum < 0n) throw new EncodingError(`The events take more from ${String(key)} than they gave.`)
  book.set(key, sum)
}

const postings: Record<string, (ledger: Ledger, args: Record<string, string>, treasury: Hex) => void> = {
  Deposited: ({ deposits }, { buyer, amount }) => add(deposits, buyer as Hex, BigInt(amount!)),
  Withdrawn: ({ deposits }, { buyer, amount }) => add(deposits, buyer as Hex, -BigInt(amount!)),
  Settled({ deposits, pots, settled }, { provider, publisher, royaltyBps, payments }) {
    for (const { channel, buyer, amount, settledTotal } of readPayments(payments!)) {
      add(deposits, buyer, -amount)
      add(pots, potName(provider!, publisher!, royaltyBps!), amount)
      add(settled, channel, amount)
      if (settled.get(channel) !== settledTotal)
        throw new EncodingError(
          `Channel ${channel} was paid ${settledTotal} in all, its events add up to ${settled.get(channel)}.`,
        )
    }
  },
  EarningsWithdrawn: ({ earnings }, { payee, amount }) => add(earnings, payee as Hex, -BigInt(amount!)),
  Staked: ({ stakes }, { runner, amount }) => add(stakes, runner as Hex, BigInt(amount!)),
  Exited: ({ stakes }, { runner, amount }) => add(stakes, runner as Hex, -BigInt(amount!)),
  Slashed(ledger, { runner, toBuyer, toReporter, burned }) {
    const whole = BigInt(toBuyer!) + BigInt(toReporter!) + BigInt(burned!)
    add(ledger.stakes, runner as Hex, -whole)
    ledger.slashesOwed += whole
    const left = ledger.stakes.get(runner as Hex)
    if (left !== 0n) throw new EncodingError(`A slash of ${runner} left ${left} of its stake.`)
  },
  Paid(ledger, { amount }) {
    ledger.slashesOwed -= BigInt(amount!)
    if (ledger.slashesOwed < 0n) throw new EncodingError('More was paid out of slashes than they owe.')
  },
}

/** Divides a pot as the event says. The event does not name the royalty, so the pot is the one of these two whose amount was divided. */
function distribute(ledger: Ledger, args: Record<string, string>, treasury: Hex): void {
  const { provider, publisher } = args
  const [toProvider, toPublisher, toTreasury] = [args.toProvider!, args.toPublisher!, args.toTreasury!].map(BigInt) as [
    bigint,
    bigint,
    bigint,
  ]
  const whole = toProvider + toPublisher + toTreasury
  const prefix = `${provider} ${publisher} `
  const pot = [...ledger.pots].find(([name, amount]) => name.startsWith(prefix) && amount === whole)
  if (!pot)
    throw new EncodingError(`A pot of ${provider} and ${publisher} was divided that no event filled with ${whole}.`)
  ledger.pots.set(pot[0], 0n)
  add(ledger.earnings, provider as Hex, toProvider)
  add(ledger.earnings, publisher as Hex, toPublisher)
  add(ledger.earnings, treasury, toTreasury)
}

/** Adds up events, in the order of the chain. Throws EncodingError where they contradict themselves. */
export function addUp(events: readonly Event[], treasury: Hex): Ledger {
  const ledger: Ledger = {
    deposits: new Map(),
    pots: new Map(),
    earnings: new Map(),
    settled: new Map(),
    stakes: new Map(),
    slashesOwed: 0n,
  }
  for (const { name, args } of events) {
    if (name === 'Distributed') distribute(ledger, args, treasury)
    else postings[name]?.(ledger, args, treasury)
  }
  return ledger
}

/** Reads every indexed event, in the order of the chain. */
export function readEvents(database: Database): Promise<Event[]> {
  return query(() =>
    database
      .select({ name: chainEvents.name, args: chainEvents.args })
      .from(chainEvents)
      .orderBy(asc(chainEvents.block), asc(chainEvents.logIndex)),
  )
}
