import { desc, eq, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import type { Hex } from '../../protocol/bytes.ts'
import { splitAmount } from '../../protocol/terms.ts'
import type { Context, PotKey } from '../context.ts'
import { UnavailableError } from '../errors.ts'
import { query } from '../store/database.ts'
import { chainCursor, chainEvents, runners, stakes } from '../store/schema.ts'
import { readPayments } from './ledger.ts'

/** Most pots looked into for one payee; of one with more, what they hold is not known here. */
const maxPots = 256

/** Orders events as the chain does. */
const place = sql<string>`${chainEvents.block} * 100000 + ${chainEvents.logIndex}`

/** Names a member of an event's arguments. */
const member = (name: string) => sql`${chainEvents.args}->>${sql.raw(`'${name}'`)}`

/** Holds a pot and its runner's provider, where that runner registered here. */
type FoundPot = PotKey & { provider: Hex | null }

/** Finds the pots that hold something an address has a share in, as publisher or as provider of a runner registered here, as far as the chain is indexed; null where there are too many to look into, or nobody can say. */
async function potsOf({ database }: Context, address: Hex): Promise<FoundPot[] | null> {
  const last = (name: string) => sql`max(${place}) FILTER (WHERE ${chainEvents.name} = ${name})`
  try {
    const { rows } = await query(() =>
      database.execute<{ runner: Hex; publisher: Hex; royalty: string; provider: Hex | null }>(sql`
        SELECT ${member('runner')} AS runner, ${member('publisher')} AS publisher, ${member('royaltyBps')} AS royalty, ${runners.provider} AS provider
        FROM ${chainEvents} LEFT JOIN ${runners} ON ${runners.signer} = ${member('runner')}
        WHERE ${chainEvents.name} IN ('Settled', 'Distributed') AND (${member('publisher')} = ${address}
          OR ${member('runner')} = ANY(ARRAY(SELECT signer FROM ${runners} WHERE provider = ${address})))
        GROUP BY 1, 2, 3, 4 HAVING ${last('Settled')} > coalesce(${last('Distributed')}, -1)
        LIMIT ${maxPots + 1}`),
    )
    if (rows.length > maxPots) return null
    return rows.map(({ royalty, ...pot }) => ({ ...pot, royaltyBps: Number(royalty) }))
  } catch (error) {
    if (error instanceof UnavailableError) return null
    throw error
  }
}

/** Adds up an address's shares of pots as the escrow will divide them: one address can be provider and publisher at once. */
function shareOf(address: Hex, pots: readonly FoundPot[], amounts: readonly bigint[], feeBps: number): bigint {
  return pots.reduce((total, { provider, publisher, royaltyBps }, at) => {
    const split = splitAmount({ royaltyBps, feeBps }, amounts[at]!)
    return total + (provider === address ? split.provider : 0n) + (publisher === address ? split.publisher : 0n)
  }, 0n)
}

/** Adds up what is staked on the runners an address registered here; null where nobody can say. */
async function stakedBy({ database, settings }: Context, address: Hex) {
  if (!settings.STAKE) return null
  const total = (column: AnyPgColumn) => sql<string>`coalesce(sum(${column}), 0)::text`
  try {
    const [row] = await query(() =>
      database
        .select({ amount: total(stakes.amount), requested: total(stakes.exiting) })
        .from(stakes)
        .innerJoin(runners, eq(runners.signer, stakes.runner))
        .where(eq(runners.provider, address)),
    )
    return row!
  } catch (error) {
    if (error instanceof UnavailableError) return null
    throw error
  }
}

/** Gives an address's money in one view, in the token's smallest unit. As a buyer: what can be spent now, what is reserved for jobs and why, what was asked back and from when it can be withdrawn. As a provider or publisher: what is earned, what of it no pot was divided for yet, what is staked, and what slashes owe. Read from the chain, but for which pots and stakes there are, which is as new as the index; what is not known is null. Throws UnavailableError. */
export async function getAccount(context: Context, address: Hex) {
  const { registry, account: accounts, settings } = context
  const [pots, staked] = await Promise.all([potsOf(context, address), stakedBy(context, address)])
  const credit = accounts?.get(accounts.idFromName(address)).view(address) ?? null
  let account: Awaited<ReturnType<typeof registry.accountOf>>
  let view: Awaited<NonNullable<typeof credit>> | null
  let payee: Awaited<ReturnType<typeof registry.payeeOf>>
  try {
    ;[account, view, payee] = await Promise.all([
      registry.accountOf(address),
      credit,
      registry.payeeOf(address, pots ?? []),
    ])
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
    /** Withdrawable at once, and in pots that anybody can divide first. */
    earnings: {
      withdrawable: String(payee.earnings),
      undivided: pots && String(shareOf(address, pots, payee.pots, settings.FEE_BPS)),
    },
    stake: staked && { ...staked, owedBySlashes: String(payee.slashes) },
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
  const older = cursor === undefined ? sql`true` : sql`${place} < ${cursor}`
  const [rows, [indexed]] = await Promise.all([
    query(() =>
      database
        .select({
          place,
          block: chainEvents.block,
          transaction: chainEvents.transaction,
          args: chainEvents.args,
          provider: runners.provider,
        })
        .from(chainEvents)
        .leftJoin(runners, sql`${runners.signer} = ${member('runner')}`)
        .where(sql`${eq(chainEvents.name, 'Settled')} and ${named} and ${older}`)
        .orderBy(desc(chainEvents.block), desc(chainEvents.logIndex))
        .limit(limit + 1),
    ),
    query(() => database.select().from(chainCursor)),
  ])
  const page = rows.slice(0, limit)
  return {
    indexedTo: indexed?.block ?? 0,
    payments: page.flatMap(({ block, transaction, args, provider }) =>
      readPayments(args.payments!)
        .filter(({ buyer }) => buyer === address)
        .map(({ channel, amount, settledTotal }) => ({
          block,
          transaction,
          channel,
          runner: args.runner,
          /** Null where the runner registered elsewhere. */
          provider,
          amount: String(amount),
          settledTotal: String(settledTotal),
        })),
    ),
    nextCursor: rows.length > limit ? String(page.at(-1)!.place) : null,
  }
}
