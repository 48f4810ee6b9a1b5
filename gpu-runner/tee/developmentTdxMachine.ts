import { concat, toHex, utf8 } from '../../protocol/bytes.ts'
import { sha256 } from '../../protocol/hash.ts'

/** Makes one thing wrong on purpose, for tests that a verifier refuses it. */
export type TeeFault =
  | 'expired_leaf'
  | 'future_leaf'
  | 'wrong_role'
  | 'leaf_as_ca'
  | 'ca_not_ca'
  | 'foreign_root'
  | 'revoked_leaf'
  | 'revoked_intermediate'
  | 'revoked_tcb_signer'
  | 'stale_crl'
  | 'foreign_crl'
  | 'empty_crl_bytes'
  | 'stale_tcb'
  | 'tcb_out_of_date'
  | 'tcb_revoked'
  | 'tcb_wrong_fmspc'
  | 'tcb_wrong_pce'
  | 'tcb_signed_by_leaf'
  | 'tcb_duplicate_key'
  | 'tcb_15_components'
  | 'tcb_17_components'
  | 'tcb_changed'
  | 'unknown_module'
  | 'qe_wrong_signer'
  | 'qe_changed'
  | 'debug'
  | 'migratable'
  | 'no_sept_ve'
  | 'service_td'
  | 'qe_unbound'
  | 'zero_signature'
  | 'key_off_curve'
  | 'trailing_bytes'
  | 'non_minimal_der'

/** Holds what a development TDX machine is made of; `now` gives unix seconds, `seed` has 32 bytes. */
export type TdxMachine = {
  seed: Uint8Array
  now: () => number
  /** Names what is measured, so that machines of two workloads differ in their measurements. */
  workload: string
  has: (fault: TeeFault) => boolean
}

/** Names the family of the development platform, 12 hex digits. */
export const developmentFmspc = '00a55a700000'

/** MRSIGNER of the development quoting enclave, 64 hex digits. */
export const developmentQeSigner = toHex(sha256(utf8('assay development quoting enclave signer'))).slice(2)

/** Derives 32 bytes from a machine's seed and a label. */
export const derive = ({ seed }: Pick<TdxMachine, 'seed'>, label: string): Uint8Array =>
  sha256(concat(seed, utf8(label)))
