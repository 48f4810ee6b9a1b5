import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from '@hpke/core'
import { createEnvelope, direction, envelopeInfo, envelopeKeys } from '../protocol/envelope.ts'
import { generateHpkeKeyPair, setupRecipient, setupSender } from '../protocol/hpke.ts'
import type { Row } from './main.ts'
import { sideBySide } from './sideBySide.ts'

const channel = new Uint8Array(32).fill(7)

async function openChannel() {
  const pair = await generateHpkeKeyPair()
  const info = envelopeInfo(channel)
  const { enc, context } = await setupSender(pair.rawPublicKey, info)
  const sender = await createEnvelope(channel, await envelopeKeys(context))
  const recipient = await createEnvelope(channel, await envelopeKeys(await setupRecipient(pair, enc, info)))
  return { sender, recipient }
}

/** Measures what sealing a request and opening it costs, with one key encapsulation a channel, beside a library that encapsulates for each message, and beside AES-GCM alone. */
export async function run(): Promise<Row[]> {
  const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes256Gcm() })
  const keys = await suite.kem.generateKeyPair()
  const { sender, recipient } = await openChannel()
  const small = new Uint8Array(1_024).fill(1)
  const large = new Uint8Array(1_048_576).fill(1)
  let job = 0n
  const through = async (body: Uint8Array) => {
    job++
    const opened = await recipient.open(job, direction.request, await sender.seal(job, direction.request, body))
    if (opened.length !== body.length) throw new Error('The body did not come through.')
  }
  const singleShot = async () => {
    const { enc, ct } = await suite.seal({ recipientPublicKey: keys.publicKey }, small.slice().buffer)
    const opened = await suite.open({ recipientKey: keys.privateKey, enc }, ct)
    if (opened.byteLength !== small.length) throw new Error('The body did not come through.')
  }
  const key = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt'])
  const raw = async () => {
    const algorithm = { name: 'AES-GCM', iv: new Uint8Array(12), additionalData: channel }
    await crypto.subtle.decrypt(algorithm, key, await crypto.subtle.encrypt(algorithm, key, large))
  }
  const requests = await sideBySide({ ours: () => through(small), library: singleShot }, { repeat: 50 })
  const bandwidth = await sideBySide({ ours: () => through(large), raw }, { repeat: 10 })
  const perSecond = (ms: number) => 1_000 / ms
  return [
    {
      figure: 'seal and open 1 KB / @hpke/core single shot',
      value: requests.ours,
      unit: 'ms',
      baseline: requests.library,
      ratio: requests.ours / requests.library,
      bar: 0.1,
      met: requests.ours / requests.library <= 0.1,
    },
    {
      figure: 'seal and open 1 MiB, bandwidth / AES-GCM alone (at least)',
      value: perSecond(bandwidth.ours),
      unit: 'MiB/s',
      baseline: perSecond(bandwidth.raw),
      ratio: bandwidth.raw / bandwidth.ours,
      bar: 0.8,
      met: bandwidth.raw / bandwidth.ours >= 0.8,
    },
  ]
}
