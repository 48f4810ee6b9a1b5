import { vendorRoots } from '../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../protocol/evidence/roots.development.ts'
import { runVerifier } from './run.ts'

/** The verifier of a local marketplace: it also trusts the development roots it is given, on a local chain only. */
await runVerifier(({ VERIFIER_CHAIN_ID }) => {
  const text = process.env.VERIFIER_DEVELOPMENT_ROOT
  return text ? [vendorRoots, readDevelopmentRoots(VERIFIER_CHAIN_ID, text)] : [vendorRoots]
})
