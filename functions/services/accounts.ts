import { desc, eq, sql } from 'drizzle-orm'
import type { Hex } from '../../protocol/bytes.ts'
import type { Context } from '../context.ts'
import { UnavailableError } from '../errors.ts'
import { query } from '../store/database.ts'
import { chainCursor, chainEvents } from '../store/schema.ts'
import { readPayments } from './ledger.ts'

/** Gives a buyer's money in one view, in the token's smallest unit: what can be spent now, what is reserved for jobs and why, what was asked back and from when it can be withdrawn. Read from the chain, so it is as new as its newest block. */
export async function getAccount({ registry, account: accounts }: Context, address: Hex) {
  const credit = accounts?.get(accounts.idFromName(address)).view(address) ?? null
  let account: Awaited<ReturnType<typeof registry.accountOf>>
  let view: Awaited<NonNullable<typeof credit>> | null
  try {
    ;[account, view] = await Promise.all([registry.accountOf(address), credit])
  } catch (error) {
    throw new UnavailableError('chain', error)
  }
  const { balance, requested, withdrawableAt } = account
  const leaving = requested < balance ? requested : balance
  const reserved = view ? view.owed + view.leased : 0n
  const free = balance - leaving - reserved
  return {
    address,
    deposit: String(balance),
    available: String(free > 0n ? free : 0n),
    reserved: String(reserved),
    /** Earned and not settled yet; leased to runners' mailboxes. */
    reservedFor: view ? { unsettled: String(view.owed), leased: String(view.leased) } : null,
    requested: String(leaving),
    withdrawableAt: leaving > 0n ? new Date(Number(withdrawableAt) * 1000).toISOString() : null,
  }
}

/** Lists what was paid out of a buyer's deposit, newest first, as far as the chain is indexed. */
export async function listPayments(
  { database }: Context,
  address: Hex,
  { cursor, limit }: { cursor?: number | undefined; limit: number },
) {
  // A payment is 84 bytes of one event; the buyer's address stands in it after the channel.
  const named = sql`position(${address.slice(2)} in ${chainEvents.args}->>'payments') > 0`
  const place = sql<string>`${chainEvents.block} * 100000 + ${chainEvents.logIndex}`
  const older = cursor === undefined ? sql`true` : sql`${place} < ${cursor}`
  const [rows, [indexed]] = await Promise.all([
    query(() =>
      database
        .select({ place, block: chainEvents.block, transaction: chainEvents.transaction, args: chainEvents.args })
        .from(chainEvents)
        .where(sql`${eq(chainEvents.name, 'Settled')} and ${named} and ${older}`)
        .orderBy(desc(chainEvents.block), desc(chainEvents.logIndex))
        .limit(limit + 1),
    ),
    query(() => database.select().from(chainCursor)),
  ])
  const page = rows.slice(0, limit)
  return {
    indexedTo: indexed?.block ?? 0,
    payments: page.flatMap(({ block, transaction, args }) =>
      readPayments(args.payments!)
        .filter(({ buyer }) => buyer === address)
        .map(({ channel, amount, settledTotal }) => ({
          block,
          transaction,
          channel,
          runner: args.runner,
          provider: args.provider,
          amount: String(amount),
          settledTotal: String(settledTotal),
        })),
    ),
    nextCursor: rows.length > limit ? String(page.at(-1)!.place) : null,
  }
}
