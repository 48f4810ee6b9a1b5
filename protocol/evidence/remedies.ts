import type { EvidenceRefusalReason } from './verdict.ts'

const attestAgain = 'Take fresh evidence and attest again.'
const askProvider = 'Ask whoever runs the machine; no setting of the runner changes it.'
const waitForVendor = "Try again later; if it stays, the collateral service does not pass on the vendor's own bytes."

const remedies: Record<EvidenceRefusalReason, string> = {
  malformed_quote: 'Send the quote as the machine gave it, byte for byte.',
  unsupported_quote: 'Use a quote of a kind that is taken: TDX version 4 or 5.',
  malformed_collateral: waitForVendor,
  certificate_invalid: askProvider,
  certificate_expired: 'Check the clock; otherwise have the platform certified anew.',
  certificate_role: askProvider,
  certificate_revoked: 'The vendor has revoked this machine or its authority: use another machine.',
  untrusted_root: 'Use real hardware, or allow a development root explicitly on a local chain.',
  crl_invalid: waitForVendor,
  crl_stale: 'Check the clock; otherwise fetch the revocation list anew.',
  collateral_signature: waitForVendor,
  collateral_stale: 'Check the clock; otherwise fetch the collateral anew.',
  collateral_too_old: 'Fetch the collateral anew.',
  collateral_mismatch: 'Fetch the collateral of this platform.',
  qe_report_signature: attestAgain,
  qe_report_binding: attestAgain,
  qe_identity_mismatch: "Install Intel's current quoting enclave and attest again.",
  quote_signature: attestAgain,
  module_mismatch: "Load Intel's current TDX module and attest again.",
  tcb_status: 'Update firmware, microcode and TEE module as the named advisories say, reboot, and attest again.',
  debug: 'Start the guest without debugging.',
  attributes: 'Start the guest with the attributes that the detail names.',
  measurement_not_allowed: 'Run a published workload, or have this one approved.',
  platform_denied: 'Use another machine: the policy refuses this one or its model.',
  report_data: 'Have the evidence made for this statement; a runner does so at each attestation.',
  statement: 'Attest again for this chain, registry and workload.',
  malformed_evidence: 'Send the evidence as the machine gave it, byte for byte.',
  unsupported_evidence: 'Use evidence of a kind that is taken.',
  evidence_signature: attestAgain,
  evidence_too_old: attestAgain,
  platform_mismatch: 'Give the certificates of this machine at its present firmware.',
  nonce_mismatch: attestAgain,
  firmware_mismatch: 'Update the driver, reset the GPU, and attest again.',
  gpu_mode: 'Switch confidential computing on (single or multi-GPU passthrough, not protected PCIe), and attest again.',
  gpu_repeated: 'Show each GPU once.',
  gpu_link: 'Attest again: the statement names other GPU evidence than was sent.',
  rim_invalid: 'Sign the table of reference measurements anew from the manifest (`assay rim sign`).',
  rim_mismatch: 'Install a driver and video BIOS that NVIDIA publishes references for, and give those references.',
  not_signed_by_runner: "Have the registration signed by the runner's own key.",
  nonce_not_recent: 'Attest again with the hash of a recent block.',
  expires_early: 'State an earlier end and attest again.',
  undecided: 'Give what is missing: the detail names it.',
}

/** Says what to do about a refusal, in one sentence. */
export function remedyFor(reason: EvidenceRefusalReason): string {
  return remedies[reason]
}
