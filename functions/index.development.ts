import { vendorRoots } from '../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../protocol/evidence/roots.development.ts'
import { createWorker } from './worker.ts'

export { Account } from './account.ts'
export { Mailbox } from './mailbox.ts'

/** The Worker of a local marketplace: it also trusts the development roots it is given, on a local chain only. */
export default createWorker(({ CHAIN_ID, DEVELOPMENT_ROOT }) =>
  DEVELOPMENT_ROOT ? [vendorRoots, readDevelopmentRoots(CHAIN_ID, DEVELOPMENT_ROOT)] : [vendorRoots],
)
