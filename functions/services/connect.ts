import { eq } from 'drizzle-orm'
import { fromBase64, fromHex, fromUtf8, type Hex } from '../../protocol/bytes.ts'
import { connectDigest, successionDigest } from '../../protocol/registration.ts'
import { recoverAddress } from '../../protocol/secp256k1.ts'
import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import { query } from '../store/database.ts'
import { runners } from '../store/schema.ts'

/** How far a connection's time may be from the edge's, in seconds. */
const maxSkewSeconds = 300

/** Checks that a socket is opened by the runner's own key, or by a successor its provider names. Throws `unauthorized`. */
export async function authorizeSocket(
  { database, domain, now }: Context,
  runner: Hex,
  header: string | undefined,
): Promise<'own' | 'successor'> {
  const refuse = (detail: string) =>
    new AssayError('unauthorized', detail, {
      hint: 'Sign Connect (EIP-712) with the attested key, with the time of now.',
    })
  const encoded = header?.match(/^Assay ([A-Za-z0-9+/=]+)$/)?.[1]
  if (!encoded) throw refuse('The socket is opened without an Assay authorization.')
  let proof: Record<string, string>
  try {
    proof = JSON.parse(fromUtf8(fromBase64(encoded))) as Record<string, string>
    const at = BigInt(proof.at!)
    const skew = Math.abs(Number(at) - now() / 1000)
    if (skew > maxSkewSeconds) throw refuse(`The authorization is ${Math.round(skew)} s away from now.`)
    if (proof.runner !== runner) throw refuse('The authorization is for another runner.')
    const signedBy = recoverAddress(connectDigest(domain, { runner, at }), fromHex(proof.signature!))
    if (signedBy !== (proof.successor ?? runner)) throw refuse('The authorization is signed by another key.')
  } catch (error) {
    if (error instanceof AssayError) throw error
    throw refuse('The authorization is malformed.')
  }
  const [row] = await query(() =>
    database.select({ provider: runners.provider }).from(runners).where(eq(runners.signer, runner)),
  )
  if (!row) throw refuse('The runner is not registered.')
  if (!proof.successor) return 'own'
  const digest = successionDigest(domain, { predecessor: runner, successor: proof.successor as Hex })
  if (recoverAddress(digest, fromHex(proof.succession ?? '')) !== row.provider)
    throw refuse("The succession is not signed by the predecessor's provider.")
  return 'successor'
}
