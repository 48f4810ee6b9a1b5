import type { Context } from '../context.ts'
import { AssayError } from '../errors.ts'
import type { R2ObjectBody } from '../platform.ts'

/** Largest artifact taken in one request, in bytes: a Worker's memory is 128 MiB. */
export const maxArtifactBytes = 100 * 1024 * 1024

/** Stores bytes under their SHA-256. R2 checks the digest again while it writes. */
export async function putArtifact(
  { artifacts }: Context,
  digest: string,
  bytes: ArrayBuffer,
): Promise<{ created: boolean }> {
  const actual = Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('')
  if (actual !== digest) {
    throw new AssayError('digest_mismatch', `The bytes have digest ${actual}.`, {
      hint: 'PUT them under that digest, or send the bytes you meant.',
    })
  }
  if (await artifacts.head(digest)) return { created: false }
  await artifacts.put(digest, bytes, { sha256: digest })
  return { created: true }
}

/** Gives the bytes of an artifact. */
export async function getArtifact({ artifacts }: Context, digest: string): Promise<R2ObjectBody> {
  const object = await artifacts.get(digest)
  if (!object) throw new AssayError('not_found', `No artifact has digest ${digest}.`)
  return object
}
