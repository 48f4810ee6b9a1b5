import { buildContracts } from '../dev/contracts.ts'
import { testContracts } from './contracts/compiled.ts'

/** Compiles the contracts once, before the suites that deploy them begin: it takes longer than their hooks may. */
export default function setup(): void {
  buildContracts()
  testContracts()
}
