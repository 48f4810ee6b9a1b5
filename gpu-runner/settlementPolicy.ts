/** Says when a runner claims what it has earned. Amounts in the token's smallest unit, times in seconds. */
export type SettlementPolicy = {
  /** Claim as soon as this much is unsettled; null claims by time alone. */
  threshold: bigint | null
  /** Claim what is unsettled at least this often. */
  intervalSeconds: number
  /** How long before terms or the registration end a claim no longer waits for anything. */
  leadSeconds: number
  /** Gas is dear above this many hundredths of its usual price. */
  dearPercent: bigint
}

/** Holds what the policy looks at. Times in unix seconds, prices in wei a unit of gas. */
export type SettlementState = {
  /** What receipts and vouchers allow beyond what the chain has paid. */
  unsettled: bigint
  /** When the first terms with something unsettled end; null where nothing is. */
  termsEnd: number | null
  registrationEnd: number
  /** Null where the chain did not tell: gas then counts as usual. */
  gas: { price: bigint; usual: bigint } | null
  /** When a claim was last tried. */
  triedAt: number
  stopping: boolean
}

/** Tells whether to claim now, and why or why not. */
export type SettlementDecision =
  | { due: true; because: 'shutdown' | 'terms_end' | 'registration_end' | 'threshold' | 'interval' }
  | { due: false; because: 'nothing_unsettled' | 'not_yet' | 'gas_dear' }

/** A claim that a deadline presses for is tried again after this part of the lead. */
const triesPerLead = 4

/** Decides whether a runner claims now: at once when it stops, when terms or the registration are about to end, when enough has gathered or enough time has passed; dear gas is waited out unless something ends. Pure; `now` in unix seconds. */
export function settlementDue(state: SettlementState, policy: SettlementPolicy, now: number): SettlementDecision {
  const { unsettled, termsEnd, registrationEnd, gas, triedAt, stopping } = state
  if (unsettled <= 0n) return { due: false, because: 'nothing_unsettled' }
  if (stopping) return { due: true, because: 'shutdown' }
  const pressing = now + policy.leadSeconds
  const rested = now - triedAt >= policy.leadSeconds / triesPerLead
  if (rested && termsEnd !== null && termsEnd <= pressing) return { due: true, because: 'terms_end' }
  if (rested && registrationEnd <= pressing) return { due: true, because: 'registration_end' }
  const gathered = policy.threshold !== null && unsettled >= policy.threshold
  // A claim that failed is not tried again at every look, however much it is about.
  const tooSoon = now - triedAt < Math.min(60, policy.intervalSeconds)
  if (tooSoon || (!gathered && now - triedAt < policy.intervalSeconds)) return { due: false, because: 'not_yet' }
  if (gas && gas.price * 100n > gas.usual * policy.dearPercent) return { due: false, because: 'gas_dear' }
  return { due: true, because: gathered ? 'threshold' : 'interval' }
}
