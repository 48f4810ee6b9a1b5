/** How long a receipt's signer keeps what its cover was when it signed, in seconds (Stake.sol, DISPUTE_WINDOW). */
export const disputeWindowSeconds = 604_800
/** How long an exit of a stake waits, in seconds (Stake.sol, EXIT_DELAY). */
const exitDelaySeconds = 1_209_600

/** Holds a runner's stake, in the token's smallest unit; `exiting` is a part of `amount`, `withdrawableAt` in unix seconds, 0 where nothing was asked back. */
export type StakePosition = { amount: bigint; exiting: bigint; withdrawableAt: bigint }

/** Tells what of a stake nobody can withdraw before `until`, as the contract's `cover` does; times in unix seconds. Zero where an exit asked for now would be over by then. */
export function coverOf({ amount, exiting, withdrawableAt }: StakePosition, until: bigint, now: bigint): bigint {
  if (until > now + BigInt(exitDelaySeconds)) return 0n
  return withdrawableAt < until ? amount - exiting : amount
}

/** Gives until when a stake must stand to vouch for every receipt of a channel, in unix seconds. */
export const coverUntil = (expiresAt: bigint): bigint => expiresAt + BigInt(disputeWindowSeconds)
