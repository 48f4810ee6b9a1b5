import { vendorRoots } from '../protocol/evidence/index.ts'
import { runVerifier } from './run.ts'

/** The verifier as it is deployed: it trusts the vendors' roots and nothing else. */
await runVerifier(() => [vendorRoots])
