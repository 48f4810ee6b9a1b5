import { Webhook } from 'standardwebhooks'
import { toBase64 } from '../../protocol/bytes.ts'
import { AssayError } from '../errors.ts'

/** When a webhook is tried again, in milliseconds after the attempt before: the schedule of Standard Webhooks. */
export const retryAfterMs = [
  5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000,
] as const
const timeoutMs = 15_000

/** Says where a webhook goes and what it is signed with. */
export type WebhookTarget = { url: string; secret: string }

/** Reads where a webhook goes. Throws `invalid_request` for an address that is not a public https one; `local` allows http on this machine, for development. */
export function webhookTarget(
  url: string,
  secret: string | null,
  { local, random }: { local: boolean; random: (bytes: number) => Uint8Array },
): WebhookTarget {
  const refuse = (detail: string) =>
    new AssayError('invalid_request', detail, { hint: 'See "Webhooks" in docs/http.md.' })
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    throw refuse('The webhook address is not a URL.')
  }
  const { protocol, hostname, username, password } = parsed
  if (username || password) throw refuse('A webhook address carries no credentials.')
  const here = hostname === '127.0.0.1' || hostname === 'localhost'
  if (!(local && here && protocol === 'http:')) {
    if (protocol !== 'https:') throw refuse('A webhook address is https.')
    // A name that resolves inward finds nothing: the edge has no network of its own behind it.
    if (!hostname.includes('.') || /^[0-9.]+$/.test(hostname) || hostname.startsWith('['))
      throw refuse('A webhook address names a public host.')
  }
  if (secret !== null && !/^whsec_[A-Za-z0-9+/]{32,88}={0,2}$/.test(secret))
    throw refuse('A webhook secret is "whsec_" and 24 to 64 bytes in base64.')
  return { url: parsed.href, secret: secret ?? `whsec_${toBase64(random(32))}` }
}

/** Sends a signed webhook once. Gives the HTTP status, or 0 when nobody answered; never throws. */
export async function sendWebhook(
  { url, secret }: WebhookTarget,
  { id, payload }: { id: string; payload: string },
  { fetch, now }: { fetch: (url: string, init: RequestInit) => Promise<Response>; now: () => number },
): Promise<number> {
  const at = new Date(now())
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': new Webhook(secret).sign(id, at, payload),
  }
  try {
    // A redirect would send a signed message where nobody asked for it.
    const response = await fetch(url, {
      method: 'POST',
      headers,
      body: payload,
      redirect: 'manual',
      signal: AbortSignal.timeout(timeoutMs),
    })
    await response.body?.cancel()
    return response.status
  } catch {
    return 0
  }
}
