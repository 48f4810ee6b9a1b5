import type { Hex } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import type { Policy, Roots } from '../protocol/evidence/index.ts'
import type { Settings } from './env.ts'
import type { Carry } from './mailbox/carrier.ts'
import type { Directory } from './match/directory.ts'
import type { AccountNamespace, MailboxNamespace, R2Bucket } from './platform.ts'
import type { Database } from './store/database.ts'

/** Names a pot of the escrow: what settlements have paid for one runner and one publisher at one royalty. */
export type PotKey = { runner: Hex; publisher: Hex; royaltyBps: number }

/** Asks the chain's registry about a runner. Throws when the chain does not answer. */
export type RegistryReader = {
  providerOf(signer: Hex): Promise<{ provider: Hex; active: boolean }>
  alive(): Promise<boolean>
  /** Reads a buyer's account in the escrow; `withdrawableAt` in unix seconds. */
  accountOf(buyer: Hex): Promise<{ balance: bigint; requested: bigint; withdrawableAt: bigint }>
  /** Reads what a payee has earned, what slashes owe it, and what each of these pots holds. */
  payeeOf(payee: Hex, pots: readonly PotKey[]): Promise<{ earnings: bigint; slashes: bigint; pots: bigint[] }>
}

/** Holds what services work with; built once per isolate, and by hand in tests. `now` in milliseconds. */
export type Context = {
  settings: Settings
  database: Database
  directory: Directory
  artifacts: R2Bucket
  mailbox: MailboxNamespace
  /** Carries jobs to the mailboxes. */
  carry: Carry
  /** Null where mailboxes lease no credit. */
  account: AccountNamespace | null
  registry: RegistryReader
  domain: Domain
  roots: Roots[]
  policy: Policy
  fetch: (url: string, init?: RequestInit) => Promise<Response>
  now: () => number
  random: () => number
  log: (event: string, fields?: Record<string, string | number>) => void
}
