import { sql } from 'drizzle-orm'
import {
  type AnyPgColumn,
  bigint,
  boolean,
  index,
  integer,
  jsonb,
  numeric,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'

const createdAt = timestamp('created_at', { withTimezone: true, mode: 'string' }).notNull().defaultNow()

/** Listed models, one row a version; never changed, so a digest means the same for ever. */
export const models = pgTable(
  'models',
  {
    digest: text('digest').primaryKey(),
    position: bigint('position', { mode: 'number' }).generatedAlwaysAsIdentity({ name: 'models_position' }).notNull(),
    owner: text('owner').notNull(),
    name: text('name').notNull(),
    version: text('version').notNull(),
    manifest: jsonb('manifest').notNull(),
    listing: jsonb('listing').$type<Record<string, string | number>>().notNull(),
    signature: text('signature').notNull(),
    card: text('card').notNull().default(''),
    /** Orders a publisher's versions of a name: of two published at once, the higher nonce is the newer. */
    nonce: numeric('nonce', { precision: 20, scale: 0 }).generatedAlwaysAs(sql`((listing->>'nonce')::numeric)`),
    createdAt,
  },
  (table) => [
    index('models_by_owner_name').on(table.owner, table.name, table.position),
    uniqueIndex('models_nonce').on(table.owner, table.name, table.nonce),
    index('models_by_position').on(table.position),
  ],
)

/** Registered runners, with all that is needed to verify them again. */
export const runners = pgTable(
  'runners',
  {
    signer: text('signer').primaryKey(),
    provider: text('provider').notNull(),
    hpkeKey: text('hpke_key').notNull(),
    statement: text('statement').notNull(),
    evidence: jsonb('evidence').notNull(),
    /** Evidence of the machine's GPUs, whose digest the statement names. */
    gpus: jsonb('gpus').$type<unknown[]>().notNull().default([]),
    collateral: jsonb('collateral').notNull(),
    registration: jsonb('registration').notNull(),
    verdict: jsonb('verdict').notNull(),
    evidenceDigest: text('evidence_digest').notNull(),
    verifiedAt: bigint('verified_at', { mode: 'number' }).notNull(),
    validUntil: bigint('valid_until', { mode: 'number' }).notNull(),
    online: boolean('online').notNull().default(false),
    models: jsonb('models').$type<string[]>().notNull().default([]),
    capacity: integer('capacity').notNull().default(0),
    /** Models held in memory and not only on disk. */
    warm: jsonb('warm').$type<string[]>().notNull().default([]),
    /** Where the provider says the machine stands; nothing proves it. */
    region: text('region'),
    /** Names the collateral this registration stands on: the platform it is for, and the digest of what was last judged. */
    platform: text('platform').notNull().default(''),
    collateralDigest: text('collateral_digest').notNull().default(''),
    createdAt,
  },
  (table) => [
    index('runners_by_model').using('gin', sql`${table.models} jsonb_path_ops`),
    index('runners_by_platform').on(table.platform, table.validUntil),
  ],
)

/** Receipts the mailboxes have relayed. */
export const receipts = pgTable(
  'receipts',
  {
    channel: text('channel').notNull(),
    job: text('job').notNull(),
    position: bigint('position', { mode: 'number' }).generatedAlwaysAsIdentity({ name: 'receipts_position' }).notNull(),
    runner: text('runner').notNull(),
    receipt: jsonb('receipt').notNull(),
    detail: jsonb('detail').notNull(),
    proof: jsonb('proof').notNull(),
    signature: text('signature').notNull(),
    createdAt,
  },
  (table) => [
    primaryKey({ name: 'receipts_pk', columns: [table.channel, table.job] }),
    index('receipts_by_channel').on(table.channel, table.position),
  ],
)

/** Collateral by platform: fetched from the vendor, verified, kept until something newer comes. */
export const collaterals = pgTable('collaterals', {
  platform: text('platform').primaryKey(),
  digest: text('digest').notNull(),
  content: jsonb('content').notNull(),
  issuedAt: bigint('issued_at', { mode: 'number' }).notNull(),
  expiresAt: bigint('expires_at', { mode: 'number' }).notNull(),
  fetchedAt: bigint('fetched_at', { mode: 'number' }).notNull(),
})

/** How far the chain is indexed. One row: the last block whose events are in `chain_events`, and whose events these are. */
export const chainCursor = pgTable('chain_cursor', {
  id: integer('id').primaryKey(),
  block: bigint('block', { mode: 'number' }).notNull(),
  hash: text('hash').notNull(),
  contracts: text('contracts').notNull().default(''),
})

/** Hashes of blocks the indexer stopped at, newest some hundreds: where it looks for common ground after a reorganisation. */
export const chainCheckpoints = pgTable('chain_checkpoints', {
  block: bigint('block', { mode: 'number' }).primaryKey(),
  hash: text('hash').notNull(),
})

const inPots = (name: AnyPgColumn) => sql`${name} IN ('Settled', 'Distributed')`

/** Events of the escrow and of the stakes, exactly as the chain has them, one row each. */
export const chainEvents = pgTable(
  'chain_events',
  {
    block: bigint('block', { mode: 'number' }).notNull(),
    logIndex: integer('log_index').notNull(),
    blockHash: text('block_hash').notNull(),
    transaction: text('transaction').notNull(),
    contract: text('contract').$type<'escrow' | 'stake'>().notNull().default('escrow'),
    name: text('name').notNull(),
    args: jsonb('args').$type<Record<string, string>>().notNull(),
  },
  (table) => [
    primaryKey({ name: 'chain_events_pk', columns: [table.block, table.logIndex] }),
    index('chain_events_by_channel').on(sql`(${table.args}->>'channel')`, table.block),
    index('chain_events_by_buyer').on(sql`(${table.args}->>'buyer')`, table.block),
    index('chain_events_by_staked').on(sql`(${table.args}->>'runner')`).where(sql`${table.contract} = 'stake'`),
    index('chain_events_by_pot_runner').on(sql`(${table.args}->>'runner')`).where(inPots(table.name)),
    index('chain_events_by_pot_publisher').on(sql`(${table.args}->>'publisher')`).where(inPots(table.name)),
  ],
)

/** Stakes of runners as `chain_events` add up, worked out with them: never written by anything else. `withdrawableAt` in unix seconds, 0 where nothing was asked back. */
export const stakes = pgTable('stakes', {
  runner: text('runner').primaryKey(),
  amount: numeric('amount', { precision: 29, scale: 0 }).notNull(),
  exiting: numeric('exiting', { precision: 29, scale: 0 }).notNull(),
  withdrawableAt: bigint('withdrawable_at', { mode: 'number' }).notNull(),
  slashed: boolean('slashed').notNull(),
})

/** What runners say their journals add up to, as of `at` (unix seconds); amounts in the token's smallest unit. */
export const journalTotals = pgTable(
  'journal_totals',
  {
    runner: text('runner').notNull(),
    channel: text('channel').notNull(),
    cumulative: numeric('cumulative', { precision: 39, scale: 0 }).notNull(),
    vouched: numeric('vouched', { precision: 39, scale: 0 }).notNull(),
    at: bigint('at', { mode: 'number' }).notNull(),
  },
  (table) => [primaryKey({ name: 'journal_totals_pk', columns: [table.runner, table.channel] })],
)

/** Differences between what the chain, the edge and the runners say of the same money; found, never repaired. */
export const drifts = pgTable(
  'drifts',
  {
    id: bigint('id', { mode: 'number' }).generatedAlwaysAsIdentity({ name: 'drifts_id' }).primaryKey(),
    kind: text('kind').notNull(),
    subject: text('subject').notNull(),
    expected: text('expected').notNull(),
    found: text('found').notNull(),
    cause: text('cause').notNull(),
    block: bigint('block', { mode: 'number' }).notNull(),
    createdAt,
  },
  (table) => [uniqueIndex('drifts_once').on(table.kind, table.subject, table.expected, table.found)],
)
