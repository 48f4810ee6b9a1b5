import { fromBase64 } from '../protocol/bytes.ts'
import { vendorRoots } from '../protocol/evidence/index.ts'
import { developmentRoots } from '../protocol/evidence/roots.development.ts'
import { createWorker } from './worker.ts'

export { Mailbox } from './mailbox.ts'

/** The Worker of a local marketplace: it also trusts the development root it is given, on a local chain only. */
export default createWorker(({ CHAIN_ID, DEVELOPMENT_ROOT }) =>
  DEVELOPMENT_ROOT
    ? [vendorRoots, developmentRoots({ chainId: CHAIN_ID, intel: fromBase64(DEVELOPMENT_ROOT) })]
    : [vendorRoots],
)
