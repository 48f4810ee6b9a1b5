/** Holds where a contract's conditions are likely to be missed first: forge suites by their file, and tests that run the real contracts on a chain. */
type Suites = { forge: readonly string[]; chain: readonly string[] }

const money = ['test/contracts/escrow.test.ts', 'test/contracts/mandates.test.ts']
const attested = ['test/contracts/malformed.test.ts', 'test/contracts/collateral.test.ts']
const registering = ['Registering', 'Posting']
const texts = ['test/contracts/tcbTexts.test.ts', ...attested]

/** Names the contracts by their file, with the suites to ask first; forge's other suites follow, then those on a chain. */
export const suites = {
  'Escrow.sol': { forge: ['Refusals', 'Standings', 'Pots', 'Escrow', 'Buyers', 'Attested'], chain: money },
  'Claims.sol': { forge: ['Refusals', 'Escrow'], chain: money },
  'Protocol.sol': { forge: ['Protocol', 'Inference'], chain: [...money, 'test/contracts/consumer.test.ts'] },
  'Stake.sol': { forge: ['Stake'], chain: ['test/contracts/stake.test.ts', 'test/contracts/consumer.test.ts'] },
  'AttestedInference.sol': {
    forge: ['Inference'],
    chain: ['test/contracts/escrow.test.ts', 'test/contracts/consumer.test.ts'],
  },
  'Standings.sol': { forge: ['Standings', 'Pots', 'Policy'], chain: ['test/contracts/registry.test.ts', ...money] },
  'MeasurementPolicy.sol': { forge: ['Policy'], chain: ['test/contracts/registry.test.ts'] },
  'RunnerRegistry.sol': {
    forge: [...registering, 'Registry'],
    chain: ['test/contracts/registry.test.ts', 'test/contracts/collateral.test.ts', 'test/contracts/escrow.test.ts'],
  },
  'attestation/AttestationReader.sol': { forge: ['Reading'], chain: attested },
  'attestation/Certificates.sol': { forge: ['Reading'], chain: attested },
  'attestation/Collateral.sol': { forge: registering, chain: attested },
  'attestation/Crls.sol': { forge: ['Reading'], chain: attested },
  'attestation/DataStore.sol': { forge: ['Parsing', 'Attestation'], chain: attested },
  'attestation/Der.sol': { forge: ['Reading', 'Parsing', 'Attestation'], chain: attested },
  'attestation/Issuers.sol': { forge: registering, chain: attested },
  'attestation/PackedText.sol': { forge: ['Attestation'], chain: ['test/contracts/packedText.test.ts', ...attested] },
  'attestation/PckExtension.sol': { forge: ['Reading'], chain: attested },
  'attestation/Platforms.sol': { forge: registering, chain: attested },
  'attestation/Quotes.sol': { forge: registering, chain: ['test/contracts/attestation.test.ts', ...attested] },
  'attestation/Tables.sol': { forge: ['Attestation', 'Texts'], chain: texts },
  'attestation/Tcb.sol': { forge: ['Attestation', 'Texts', 'Registry'], chain: texts },
  'attestation/TcbTexts.sol': { forge: ['Texts', 'Posting'], chain: texts },
  'attestation/Text.sol': { forge: ['Attestation', 'Texts'], chain: texts },
  'attestation/Time.sol': { forge: ['Parsing', 'Attestation', 'Reading'], chain: attested },
  'attestation/VerifierSet.sol': { forge: ['Verifiers'], chain: ['test/contracts/verifierSet.test.ts'] },
  'examples/Grants.sol': { forge: ['Grants'], chain: ['test/contracts/consumer.test.ts'] },
} as const satisfies Record<string, Suites>

export type Contract = keyof typeof suites
export const contracts = Object.keys(suites) as Contract[]

/** Conditions whose absence nobody can observe, each with the reason: a second wall behind a first, or a shortcut; `as` names the one broken form that is meant. */
export const unobservable: readonly { contract: Contract; text: string; as?: boolean | string; because: string }[] = [
  {
    contract: 'Escrow.sol',
    text: 'amount <= type(uint120).max',
    because: 'the sum is checked again, with the same error',
  },
  {
    contract: 'Escrow.sol',
    text: 'buyer.code.length == 23',
    because: 'nobody can deploy code that begins with 0xEF, so what does is a delegation',
  },
  { contract: 'Escrow.sol', text: 'mandate.spent >= mandate.cap', because: 'what is left is zero without it' },
  {
    contract: 'Escrow.sol',
    text: 'buyer.code.length == 0',
    because: 'a call to no code returns nothing, which is no yes',
  },
  {
    contract: 'Claims.sol',
    text: 'until <= last',
    because: 'a listing of more claims ends behind the last, which is refused by the same error',
  },
  {
    contract: 'Claims.sol',
    text: 's > HALF_ORDER',
    because: 'in 255 bits one value of s in 2^128 is above the half',
  },
  {
    contract: 'RunnerRegistry.sol',
    text: 'signer != address(0)',
    because: 'a key whose address is zero would be found in 2^160 tries',
  },
  ...(
    [
      ['RunnerRegistry.sol', 'claim.notAfter < appraisal.validUntil'],
      ['RunnerRegistry.sol', 'runner.validUntil > longest'],
      ['attestation/Collateral.sol', 'oldest < posted.nextUpdate'],
      ['attestation/Quotes.sol', 'platform.notAfter < until'],
      ['attestation/Quotes.sol', 'lapse < until'],
      ['attestation/Quotes.sol', 'nextUpdate < until'],
      ['attestation/Quotes.sol', 'now_ > status'],
      ['attestation/VerifierSet.sol', 'verdict.validUntil > type(uint32).max'],
    ] as const
  ).map(([contract, text]) => ({
    contract,
    text,
    as: text.replace(/[<>]/, '$&='),
    because: 'of two that are equal either may be taken',
  })),
  {
    contract: 'RunnerRegistry.sol',
    text: 'block.chainid == madeOn',
    as: false,
    because: 'it saves computing the same domain again',
  },
  {
    contract: 'attestation/Quotes.sol',
    text: 'Tcb.sameLevel(svn, svn2)',
    as: false,
    because: 'it saves finding the same level again',
  },
  {
    contract: 'attestation/Tcb.sol',
    text: 'uint8(one[1]) > 0 && uint128(one ^ other) & type(uint120).max == 0',
    as: false,
    because: 'it saves finding the same level again',
  },
  {
    contract: 'attestation/Collateral.sol',
    text: 'account == address(0)',
    because: 'it saves looking at the code of nobody, which is no table',
  },
  {
    contract: 'attestation/Der.sol',
    text: 'content.length > 0 && content.length <= size + 1',
    because:
      'of a number longer or shorter than that, the first nine bits or what lies above its bound are refused too',
  },
  {
    contract: 'attestation/Der.sol',
    text: 'content.length > 0',
    because: 'of a number without bytes the first nine bits are all zero',
  },
  {
    contract: 'attestation/Der.sol',
    text: 'content.length <= size + 1',
    because: 'of a longer number the first nine bits are all zero, or it lies above its bound',
  },
  {
    contract: 'attestation/PckExtension.sol',
    text: 'size > 0 && size < 4',
    because: 'of another size the value is not in its shortest form, or far above its bound',
  },
  {
    contract: 'attestation/PckExtension.sol',
    text: 'size > 0',
    because: 'a value without bytes is not in its shortest form',
  },
  {
    contract: 'attestation/PckExtension.sol',
    text: 'size < 4',
    because: 'a value of four bytes in its shortest form is far above its bound',
  },
  {
    contract: 'attestation/PckExtension.sol',
    text: 'size < 4',
    as: 'size <= 4',
    because: 'a value of four bytes in its shortest form is far above its bound',
  },
  {
    contract: 'attestation/Quotes.sol',
    text: 'svn2 != svn',
    because: 'the same versions have the same status: it saves their second reading',
  },
  {
    contract: 'attestation/TcbTexts.sol',
    text: 'known',
    because: 'it saves reading components of the usual form one by one',
  },
  {
    contract: 'attestation/TcbTexts.sol',
    text: 'text >> 16 == ZERO_SVNS',
    because: 'it saves reading three zeros one by one',
  },
  {
    contract: 'attestation/TcbTexts.sol',
    text: 'after_ == COMMA',
    because: 'a number with its kind behind it is read the longer way as well',
  },
  { contract: 'Protocol.sol', text: 'v != 27 && v != 28', because: 'ecrecover answers zero for other values' },
]
