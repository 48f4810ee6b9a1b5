import { sql } from 'drizzle-orm'
import { EncodingError, type Hex } from '../../protocol/bytes.ts'
import type { StakePosition } from '../../protocol/stake.ts'
import { AssayError, UnavailableError } from '../errors.ts'
import { type Database, query } from '../store/database.ts'
import { chainCursor, drifts } from '../store/schema.ts'
import { readStakes } from '../store/stakes.ts'
import { addUp, type Ledger, readEvents } from './ledger.ts'

/** Reads the contracts' own books as of one block. */
export type BooksReader = {
  deposit(buyer: Hex, block: bigint): Promise<bigint>
  settled(channel: Hex, block: bigint): Promise<bigint>
  earnings(payee: Hex, block: bigint): Promise<bigint>
  /** `provider publisher royaltyBps`. */
  pot(name: string, block: bigint): Promise<bigint>
  /** What the escrow holds of the token. */
  held(block: bigint): Promise<bigint>
  /** Reads the stakes, what slashes owe, and what their contract holds of the token; null where there are none. */
  stakes: {
    of(runner: Hex, block: bigint): Promise<StakePosition & { slashed: boolean }>
    /** What slashes owe a payee. */
    owed(payee: Hex, block: bigint): Promise<bigint>
    held(block: bigint): Promise<bigint>
  } | null
}

/** Names a difference between what the chain, its events and the edge's receipts say of the same money. */
export type Drift = { kind: string; subject: string; expected: string; found: string; cause: string }

/** Holds what reconciling works with. */
export type ReconcileDeps = {
  database: Database
  books: BooksReader
  treasury: Hex
  /** Unix seconds. */
  now: number
  log: (event: string, fields?: Record<string, string | number>) => void
}

const missed = 'An event was missed or read twice: rebuild the index from its first block.'

async function compareBook(
  kind: string,
  book: Map<string, bigint>,
  read: (subject: Hex, block: bigint) => Promise<bigint>,
  block: bigint,
): Promise<Drift[]> {
  const found = await Promise.all([...book.keys()].map((subject) => read(subject as Hex, block)))
  return [...book].flatMap(([subject, expected], at) =>
    found[at] === expected
      ? []
      : [{ kind, subject, expected: String(expected), found: String(found[at]), cause: missed }],
  )
}

const positionText = (amount: unknown, exiting: unknown, withdrawableAt: unknown, slashed: boolean) =>
  `${amount}, of it asked back ${exiting} for ${withdrawableAt}${slashed ? ', slashed' : ''}`

/** Compares the stakes the directory shows with the contract's own, and what that contract holds with what it owes. */
async function compareStakes(
  database: Database,
  ledger: Ledger,
  { stakes }: BooksReader,
  block: bigint,
): Promise<Drift[]> {
  if (!stakes) return []
  const rows = await readStakes(database)
  const found = await Promise.all(rows.map(({ runner }) => stakes.of(runner as Hex, block)))
  const drifts = rows.flatMap(({ runner, amount, exiting, withdrawableAt, slashed }, at): Drift[] => {
    const expected = positionText(amount, exiting, withdrawableAt, slashed)
    const { amount: has, exiting: leaves, withdrawableAt: from, slashed: was } = found[at]!
    const actual = positionText(has, leaves, from, was)
    return expected === actual ? [] : [{ kind: 'stake', subject: runner, expected, found: actual, cause: missed }]
  })
  const owed = sum(ledger.stakes) + sum(ledger.slashes)
  return [
    ...drifts,
    ...(await compareBook('slashes', ledger.slashes, stakes.owed, block)),
    ...heldDrift('stake_held', 'stakes', owed, await stakes.held(block)),
  ]
}

const sum = (book: Map<string, bigint>) => [...book.values()].reduce((total, amount) => total + amount, 0n)

async function compareHeld(ledger: Ledger, books: BooksReader, block: bigint): Promise<Drift[]> {
  const owed = sum(ledger.deposits) + sum(ledger.pots) + sum(ledger.earnings)
  return heldDrift('held', 'escrow', owed, await books.held(block))
}

function heldDrift(kind: string, subject: string, owed: bigint, held: bigint): Drift[] {
  if (held === owed) return []
  const cause =
    held > owed
      ? 'Tokens were sent to the contract without a deposit or a stake: nobody is owed them.'
      : 'The contract holds less than it owes: stop deposits and find out why before anything else.'
  return [{ kind, subject, expected: String(owed), found: String(held), cause }]
}

/** Compares what channels were paid with the highest receipt that passed this edge: a payment above it stands on a receipt the edge never saw. */
async function compareReceipts(database: Database, ledger: Ledger): Promise<Drift[]> {
  const channels = [...ledger.settled.keys()]
  if (channels.length === 0) return []
  const { rows } = await query(() =>
    database.execute<{ channel: string; highest: string }>(sql`
      SELECT channel, max((receipt->>'cumulative')::numeric)::text AS highest FROM receipts
      WHERE channel IN (${sql.join(
        channels.map((channel) => sql`${channel}`),
        sql`, `,
      )}) GROUP BY channel`),
  )
  const highest = new Map(rows.map((row) => [row.channel, BigInt(row.highest)]))
  return channels.flatMap((channel) => {
    const paid = ledger.settled.get(channel)!
    const seen = highest.get(channel)
    if (seen !== undefined && paid <= seen) return []
    const cause =
      seen === undefined
        ? 'No receipt of this channel passed this edge, or its history was lost; the runner has it in its journal.'
        : 'A later receipt of this channel passed another way; the runner has it in its journal.'
    return [{ kind: 'receipts', subject: channel, expected: String(paid), found: String(seen ?? 'none'), cause }]
  })
}

/** How long a receipt may be on its way to the database, in seconds, before its absence means something. */
const settlingSeconds = 300

type Journalled = {
  channel: string
  cumulative: string
  vouched: string
  at: string
  seen: string | null
  seen_then: string | null
}

/** Compares what runners say their journals add up to with the receipts that passed this edge. */
async function compareJournals(database: Database, now: number): Promise<Drift[]> {
  const { rows } = await query(() =>
    database.execute<Journalled>(sql`
      SELECT t.channel, t.cumulative::text, t.vouched::text, t.at::text,
        max((r.receipt->>'cumulative')::numeric)::text AS seen,
        max((r.receipt->>'cumulative')::numeric) FILTER (WHERE (r.receipt->>'finishedAt')::numeric < t.at)::text AS seen_then
      FROM journal_totals t LEFT JOIN receipts r ON r.channel = t.channel AND r.runner = t.runner
      GROUP BY t.runner, t.channel`),
  )
  return rows.flatMap(({ channel: subject, at, ...row }) => {
    const [journal, vouched, seen, seenThen] = [row.cumulative, row.vouched, row.seen ?? 0, row.seen_then ?? 0].map(
      BigInt,
    ) as [bigint, bigint, bigint, bigint]
    const drift = (kind: string, expected: bigint, found: bigint, cause: string): Drift => ({
      kind,
      subject,
      expected: String(expected),
      found: String(found),
      cause,
    })
    const found: Drift[] = []
    if (seenThen > journal)
      found.push(
        drift(
          'journal_behind',
          seenThen,
          journal,
          'The journal lacks a receipt its runner signed: restored from an older copy, or its disk lost a write. The edge has the receipt.',
        ),
      )
    if (journal > seen && Number(at) + settlingSeconds < now)
      found.push(
        drift(
          'journal_ahead',
          journal,
          seen,
          'The journal has a receipt that never passed this edge, or whose history was lost here. The runner can claim it.',
        ),
      )
    if (journal > vouched)
      found.push(
        drift('uncovered', journal, vouched, 'The runner worked beyond the voucher: what is above it is never paid.'),
      )
    return found
  })
}

/** Compares the chain's books with its events, the edge's receipts and what runners say of their journals, as of the block the index stands at, and records each difference with its cause. Repairs nothing: a book that mends itself hides what went wrong. Gives what differs now. */
export async function reconcile({
  database,
  books,
  treasury,
  now,
  log,
}: ReconcileDeps): Promise<{ block: bigint; drifts: Drift[] }> {
  const [cursor] = await query(() => database.select().from(chainCursor))
  if (!cursor) return { block: 0n, drifts: [] }
  const block = BigInt(cursor.block)
  let ledger: Ledger
  const found: Drift[] = []
  try {
    ledger = addUp(await readEvents(database), treasury)
  } catch (error) {
    if (!(error instanceof EncodingError)) throw error
    found.push({
      kind: 'events',
      subject: 'escrow',
      expected: 'events that add up',
      found: error.message,
      cause: missed,
    })
    await record(database, found, block, log)
    return { block, drifts: found }
  }
  try {
    found.push(
      ...(await compareBook('deposit', ledger.deposits, books.deposit, block)),
      ...(await compareBook('settled', ledger.settled, books.settled, block)),
      ...(await compareBook('earnings', ledger.earnings, books.earnings, block)),
      ...(await compareBook('pot', ledger.pots, books.pot, block)),
      ...(await compareHeld(ledger, books, block)),
      ...(await compareStakes(database, ledger, books, block)),
    )
  } catch (error) {
    throw error instanceof AssayError ? error : new UnavailableError('chain', error)
  }
  found.push(...(await compareReceipts(database, ledger)), ...(await compareJournals(database, now)))
  await record(database, found, block, log)
  return { block, drifts: found }
}

async function record(database: Database, found: Drift[], block: bigint, log: ReconcileDeps['log']): Promise<void> {
  if (found.length === 0) return
  for (const { kind, subject, cause } of found) log('drift', { kind, subject, cause })
  await query(() =>
    database
      .insert(drifts)
      .values(found.map((drift) => ({ ...drift, block: Number(block) })))
      .onConflictDoNothing(),
  )
}
