import { desc, gt, lt, sql } from 'drizzle-orm'
import type { Hex } from '../../protocol/bytes.ts'
import { UnavailableError } from '../errors.ts'
import { type Database, query } from '../store/database.ts'
import { chainCheckpoints, chainCursor, chainEvents } from '../store/schema.ts'
import { renewAllStakes, renewStakes } from '../store/stakes.ts'
import { type ChainLog, readChainEvent } from './chainEvents.ts'

/** Reads a chain. Every call may throw, answer late, twice or from a node that is behind; the indexer takes that as it comes. */
export type ChainReader = {
  /** Names the contracts whose logs it gives: where they change, everything is read anew. */
  contracts: string
  /** Gives a block's number and hash; null where the node has no such block. */
  block(number: bigint | 'latest'): Promise<{ number: bigint; hash: Hex } | null>
  logs(range: { from: bigint; to: bigint }): Promise<ChainLog[]>
}

/** Holds what indexing works with. `start` is the block the escrow was deployed in; `confirmations` is how many blocks must stand on one before it is read. */
export type IndexerDeps = {
  database: Database
  chain: ChainReader
  start: bigint
  confirmations: bigint
  log: (event: string, fields?: Record<string, string | number>) => void
}

/** Says what one run of the indexer did: blocks now read up to `block`, events added, and the block it fell back to where the chain had been reorganised. */
export type IndexRun = { block: bigint; events: number; rolledBackTo: bigint | null }

const maxRange = 2_000n
const keptCheckpoints = 512

type Cursor = { block: bigint; hash: Hex }

/** Where nothing is read yet. */
const beginning = ({ start }: IndexerDeps): Cursor => ({ block: start - 1n, hash: '0x' })

/** Reads how far the index is; everything is forgotten first where it was of other contracts. */
async function readCursor(deps: IndexerDeps): Promise<Cursor> {
  const { database, chain, log } = deps
  const [row] = await query(() => database.select().from(chainCursor))
  if (!row) return beginning(deps)
  const cursor = { block: BigInt(row.block), hash: row.hash as Hex }
  if (row.contracts === chain.contracts) return cursor
  log('indexer_contracts_changed', { from: row.block })
  return fallTo(deps, beginning(deps))
}

/** Moves the cursor and writes its events in one statement, or does nothing where another run has moved it meanwhile. The stakes they tell of follow in the same transaction. */
async function advance(
  { database, chain }: IndexerDeps,
  from: Cursor,
  to: Cursor,
  rows: (typeof chainEvents.$inferInsert)[],
): Promise<boolean> {
  const move = database.execute(sql`
      WITH moved AS (
        INSERT INTO chain_cursor (id, block, hash, contracts)
        VALUES (1, ${Number(to.block)}, ${to.hash}, ${chain.contracts})
        ON CONFLICT (id) DO UPDATE SET block = excluded.block, hash = excluded.hash, contracts = excluded.contracts
        WHERE chain_cursor.block = ${Number(from.block)} AND chain_cursor.hash = ${from.hash}
        RETURNING 1
      ), marked AS (
        INSERT INTO chain_checkpoints (block, hash) SELECT ${Number(to.block)}, ${to.hash} FROM moved
        ON CONFLICT (block) DO UPDATE SET hash = excluded.hash
      ), added AS (
        INSERT INTO chain_events (block, log_index, block_hash, transaction, contract, name, args)
        SELECT e.block, e.log_index, e.block_hash, e.transaction, e.contract, e.name, e.args
        FROM moved, jsonb_to_recordset(${JSON.stringify(
          rows.map((row) => ({
            block: row.block,
            log_index: row.logIndex,
            block_hash: row.blockHash,
            transaction: row.transaction,
            contract: row.contract,
            name: row.name,
            args: row.args,
          })),
        )}::jsonb) AS e(block bigint, log_index int, block_hash text, transaction text, contract text, name text, args jsonb)
        ON CONFLICT (block, log_index) DO NOTHING
      )
      SELECT 1 FROM moved`)
  const staked = new Set(
    rows.flatMap(({ contract, args }) => (contract === 'stake' && args.runner ? [args.runner] : [])),
  )
  const moved = await query(async () =>
    staked.size > 0 ? (await database.batch([move, renewStakes(database, [...staked])]))[0] : move,
  )
  return moved.rows.length === 1
}

/** Sets the cursor back and forgets every event after it. */
async function fallTo({ database, chain }: IndexerDeps, ground: Cursor): Promise<Cursor> {
  const at = Number(ground.block)
  // The cursor first: whoever moves it at the same time is waited for, or waits, and then finds it elsewhere.
  await query(() =>
    database.batch([
      database.update(chainCursor).set({ block: at, hash: ground.hash, contracts: chain.contracts }),
      database.delete(chainEvents).where(gt(chainEvents.block, at)),
      database.delete(chainCheckpoints).where(gt(chainCheckpoints.block, at)),
      ...renewAllStakes(database),
    ]),
  )
  return ground
}

/** Falls back to the newest checkpoint the chain still has and forgets every event after it. */
async function rollBack(deps: IndexerDeps, cursor: Cursor): Promise<Cursor> {
  const { database, chain, log } = deps
  const checkpoints = await query(() =>
    database
      .select()
      .from(chainCheckpoints)
      .where(lt(chainCheckpoints.block, Number(cursor.block)))
      .orderBy(desc(chainCheckpoints.block)),
  )
  let ground = beginning(deps)
  for (const { block, hash } of checkpoints) {
    const now = await chain.block(BigInt(block))
    if (now?.hash !== hash) continue
    ground = { block: BigInt(block), hash: hash as Hex }
    break
  }
  await fallTo(deps, ground)
  log('indexer_rolled_back', { from: Number(cursor.block), to: Number(ground.block) })
  return ground
}

type Range = { logs: ChainLog[]; end: Cursor }

/** Reads the logs of a range, halved as often as the node asks for by refusing. Null where the chain moved under the reading. */
async function readRange(chain: ChainReader, from: bigint, to: bigint): Promise<Range | null> {
  for (let last = to; ; last = from + (last - from) / 2n) {
    try {
      const before = await chain.block(last)
      const logs = await chain.logs({ from, to: last })
      const after = await chain.block(last)
      // The end's hash stands for every block before it, so the same hash before and after means one chain all along.
      const foreign = logs.some(
        ({ blockNumber, blockHash }) =>
          blockNumber < from || blockNumber > last || (blockNumber === last && blockHash !== after?.hash),
      )
      if (!before || before.hash !== after?.hash || foreign) return null
      return { logs, end: { block: last, hash: after.hash } }
    } catch (error) {
      if (last === from) throw new UnavailableError('chain', error)
    }
  }
}

async function step(
  deps: IndexerDeps,
  cursor: Cursor,
  target: bigint,
): Promise<{ cursor: Cursor; events: number } | null> {
  const { chain } = deps
  const from = cursor.block + 1n
  const range = await readRange(chain, from, target - from + 1n > maxRange ? from + maxRange - 1n : target)
  // What was read before must still be the past of what was read now; otherwise the next run falls back first.
  const ground = cursor.hash === '0x' ? cursor : await chain.block(cursor.block)
  if (!range || ground?.hash !== cursor.hash) {
    throw new UnavailableError('chain', new Error('The chain moved while it was read.'))
  }
  const { logs, end: next } = range
  const rows = logs.flatMap((entry) => {
    const event = readChainEvent(entry)
    if (!event) return []
    return [
      {
        block: Number(entry.blockNumber),
        logIndex: entry.logIndex,
        blockHash: entry.blockHash,
        transaction: entry.transactionHash,
        ...event,
      },
    ]
  })
  return (await advance(deps, cursor, next, rows)) ? { cursor: next, events: rows.length } : null
}

async function forgetOldCheckpoints({ database }: IndexerDeps): Promise<void> {
  const oldest = await query(() =>
    database
      .select({ block: chainCheckpoints.block })
      .from(chainCheckpoints)
      .orderBy(desc(chainCheckpoints.block))
      .offset(keptCheckpoints)
      .limit(1),
  )
  const [limit] = oldest
  if (!limit) return
  await query(() => database.delete(chainCheckpoints).where(lt(chainCheckpoints.block, limit.block)))
}

/** Reads the contracts' events into the database, up to the newest block with enough confirmations. Idempotent, safe to run twice at once, and correct after a reorganisation of any depth. Throws UnavailableError when the chain or the database does not answer: the next run goes on where this one stopped. */
export async function indexChain(given: IndexerDeps): Promise<IndexRun> {
  const { confirmations } = given
  const ask: ChainReader['block'] = async (number) => {
    try {
      return await given.chain.block(number)
    } catch (error) {
      throw new UnavailableError('chain', error)
    }
  }
  const deps = {
    ...given,
    chain: { ...given.chain, block: ask },
  }
  let cursor = await readCursor(deps)
  let rolledBackTo: bigint | null = null
  const latest = await ask('latest')
  if (!latest) throw new UnavailableError('chain', new Error('The node has no blocks.'))
  if (cursor.hash !== '0x') {
    const known = await ask(cursor.block)
    // A node that has not reached the cursor is behind, unless the chain itself got shorter; both wait.
    if (!known) return { block: cursor.block, events: 0, rolledBackTo }
    if (known.hash !== cursor.hash) {
      cursor = await rollBack(deps, cursor)
      rolledBackTo = cursor.block
    }
  }
  const target = latest.number - confirmations
  let events = 0
  while (cursor.block < target) {
    const done = await step(deps, cursor, target)
    // Another run is at work and has gone on from here.
    if (!done) break
    cursor = done.cursor
    events += done.events
  }
  await forgetOldCheckpoints(deps)
  return { block: cursor.block, events, rolledBackTo }
}
