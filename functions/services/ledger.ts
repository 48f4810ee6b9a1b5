import { asc } from 'drizzle-orm'
import { EncodingError, fromHex, type Hex, Reader, toHex } from '../../protocol/bytes.ts'
import { type Database, query } from '../store/database.ts'
import { chainEvents } from '../store/schema.ts'

/** Holds one payment out of a `Settled` event. */
export type Payment = { channel: Hex; buyer: Hex; amount: bigint; settledTotal: bigint }

/** Holds the contracts' books as their events tell them: deposits by buyer, pots by runner, publisher and royalty, earnings by payee, totals by channel, stakes by runner, and what slashes owe by payee. */
export type Ledger = {
  deposits: Map<Hex, bigint>
  pots: Map<string, bigint>
  earnings: Map<Hex, bigint>
  settled: Map<Hex, bigint>
  stakes: Map<Hex, bigint>
  slashes: Map<Hex, bigint>
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

/** Where the burned share of a slash goes: `BURN` of the contract of stakes. */
const burnAddress: Hex = '0x000000000000000000000000000000000000dead'

/** Names a pot as the ledger does. */
const potName = (runner: string, publisher: string, royaltyBps: string | number): string =>
  `${runner} ${publisher} ${royaltyBps}`

function add<K>(book: Map<K, bigint>, key: K, amount: bigint): void {
  const sum = (book.get(key) ?? 0n) + amount
  if (sum < 0n) throw new EncodingError(`The events take more from ${String(key)} than they gave.`)
  book.set(key, sum)
}

const postings: Record<string, (ledger: Ledger, args: Record<string, string>, treasury: Hex) => void> = {
  Deposited: ({ deposits }, { buyer, amount }) => add(deposits, buyer as Hex, BigInt(amount!)),
  Withdrawn: ({ deposits }, { buyer, amount }) => add(deposits, buyer as Hex, -BigInt(amount!)),
  Settled({ deposits, pots, settled }, { runner, publisher, royaltyBps, payments }) {
    for (const { channel, buyer, amount, settledTotal } of readPayments(payments!)) {
      add(deposits, buyer, -amount)
      add(pots, potName(runner!, publisher!, royaltyBps!), amount)
      add(settled, channel, amount)
      if (settled.get(channel) !== settledTotal)
        throw new EncodingError(
          `Channel ${channel} was paid ${settledTotal} in all, its events add up to ${settled.get(channel)}.`,
        )
    }
  },
  Distributed({ pots, earnings }, args, treasury) {
    const pot = potName(args.runner!, args.publisher!, args.royaltyBps!)
    const [toProvider, toPublisher, toTreasury] = [args.toProvider!, args.toPublisher!, args.toTreasury!].map(BigInt)
    const whole = toProvider! + toPublisher! + toTreasury!
    if (pots.get(pot) !== whole)
      throw new EncodingError(`Of pot ${pot} ${whole} was divided, its events add up to ${pots.get(pot) ?? 0n}.`)
    pots.set(pot, 0n)
    add(earnings, args.provider as Hex, toProvider!)
    add(earnings, args.publisher as Hex, toPublisher!)
    add(earnings, treasury, toTreasury!)
  },
  EarningsWithdrawn: ({ earnings }, { payee, amount }) => add(earnings, payee as Hex, -BigInt(amount!)),
  Staked: ({ stakes }, { runner, amount }) => add(stakes, runner as Hex, BigInt(amount!)),
  Exited: ({ stakes }, { runner, amount }) => add(stakes, runner as Hex, -BigInt(amount!)),
  Slashed({ stakes, slashes }, { runner, buyer, reporter, toBuyer, toReporter, burned }) {
    add(slashes, buyer as Hex, BigInt(toBuyer!))
    add(slashes, reporter as Hex, BigInt(toReporter!))
    add(slashes, burnAddress, BigInt(burned!))
    add(stakes, runner as Hex, -(BigInt(toBuyer!) + BigInt(toReporter!) + BigInt(burned!)))
    const left = stakes.get(runner as Hex)
    if (left !== 0n) throw new EncodingError(`A slash of ${runner} left ${left} of its stake.`)
  },
  Paid: ({ slashes }, { payee, amount }) => add(slashes, payee as Hex, -BigInt(amount!)),
}

/** Adds up events, in the order of the chain. Throws EncodingError where they contradict themselves. */
export function addUp(events: readonly Event[], treasury: Hex): Ledger {
  const ledger: Ledger = {
    deposits: new Map(),
    pots: new Map(),
    earnings: new Map(),
    settled: new Map(),
    stakes: new Map(),
    slashes: new Map(),
  }
  for (const { name, args } of events) {
    postings[name]?.(ledger, args, treasury)
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
