import { equalBytes } from '../protocol/bytes.ts'
import { createEnvelope, direction, envelopeInfo, envelopeKeys } from '../protocol/envelope.ts'
import { sha256 } from '../protocol/hash.ts'
import { setupSender } from '../protocol/hpke.ts'
import type { Signer } from '../protocol/secp256k1.ts'
import type { Journal } from './journal.ts'
import type { OpenEnvelope } from './service.ts'
import type { RecoverAddress } from './signer.ts'

/** Reports a runner that would have failed its first buyer. */
export class SelfTestError extends Error {
  override name = 'SelfTestError'
}

/** Holds what a runner relies on for every job. */
export type SelfTestDeps = {
  signer: Signer
  recoverAddress: RecoverAddress
  /** The public key buyers seal to, 32 bytes. */
  hpkeKey: Uint8Array
  openEnvelope: OpenEnvelope
  journal: Pick<Journal, 'prune'>
}

/** Does once, before anything is offered, what every job needs: sign and recover, seal to its own key as a buyer would and open, write to the journal. Throws SelfTestError saying what failed. */
export async function selfTest({
  signer,
  recoverAddress,
  hpkeKey,
  openEnvelope,
  journal,
}: SelfTestDeps): Promise<void> {
  const digest = sha256(signer.publicKey)
  if (recoverAddress(digest, await signer.sign(digest)) !== signer.address)
    throw new SelfTestError('The signer signs what is not recovered to its address.')

  const channel = digest
  const { enc, context } = await setupSender(hpkeKey, envelopeInfo(channel))
  const buyer = await createEnvelope(channel, await envelopeKeys(context))
  const runner = await openEnvelope(channel, enc)
  const opened = runner.open(1n, direction.request, await buyer.seal(1n, direction.request, digest))
  const answered = await buyer.open(1n, direction.answer, runner.seal(1n, direction.answer, opened))
  if (!equalBytes(answered, digest)) throw new SelfTestError('What is sealed to the runner does not come back.')

  // A transaction that removes nothing: it takes the same lock, log and fsync as one that adds.
  await journal.prune({ answersBefore: 0, termsBefore: 0 }).catch((error: Error) => {
    throw new SelfTestError(error.message, { cause: error })
  })
}
