import { buildContracts } from '../../dev/contracts.ts'

/** Compiles the contracts and, with them, those that only tests deploy. */
export const testContracts = () =>
  buildContracts(undefined, ['test/contracts/RecordedQuotes.sol', 'test/contracts/PackedTexts.sol'])
