import { vendorRoots } from '../protocol/evidence/index.ts'
import { createWorker } from './worker.ts'

export { Account } from './account.ts'
export { Mailbox } from './mailbox.ts'

/** The Worker as deployed: it trusts the vendors' roots, and no setting can make it load another. */
export default createWorker(() => [vendorRoots])
