import { describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { checkListing } from '../../gpu-runner/engine/models.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import { listingDigest } from '../../protocol/listing.ts'
import { createSigner } from '../../protocol/secp256k1.ts'

const domain = { chainId: 31_337, escrow: `0x${'22'.repeat(20)}` as Hex }
const digest: Hex = `0x${'11'.repeat(32)}`
const publisher = createSigner(fromHex(developmentKey('publisher'), 32))
const stranger = createSigner(fromHex(developmentKey('stranger'), 32))

describe('checkListing', () => {
  const listing = {
    model: digest,
    publisher: publisher.address,
    payout: publisher.address,
    price: '10',
    royaltyBps: 500,
    unit: 'inference',
    validUntil: '2000',
    nonce: '1',
  }
  const check = async (
    change: Partial<typeof listing>,
    { by = publisher, now = 1_000, wallet = null as boolean | null } = {},
  ) => {
    const signed = { ...listing, price: 10n, validUntil: 2_000n, nonce: 1n }
    const signature = toHex(await by.sign(listingDigest(domain, signed)))
    return checkListing(
      { digest, manifest: {}, listing: { ...listing, ...change }, signature },
      { domain, now, contractSignature: async () => wallet },
    )
  }

  test('behavior: the listing its publisher signed passes, a contract wallet included', async () => {
    await expect(check({})).resolves.toBeUndefined()
    await expect(check({}, { by: stranger, wallet: true })).resolves.toBeUndefined()
  })

  test.each([
    ['another price', { price: '0' }, {}, 'not signed'],
    ['another payee', { payout: stranger.address }, {}, 'not signed'],
    ['another model', { model: `0x${'33'.repeat(32)}` as Hex }, {}, 'another model'],
    ['a stranger signed', {}, { by: stranger }, 'not signed'],
    ['a contract wallet says no', {}, { by: stranger, wallet: false }, 'not signed'],
    ['ran out', {}, { now: 2_001 }, 'ran out'],
  ])('refusal: %s', async (_, change, options, reason) => {
    await expect(check(change, options)).rejects.toThrow(reason)
  })
})
