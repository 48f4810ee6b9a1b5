import { hash } from 'node:crypto'

/** Hashes bytes with SHA-256 to a text of 32 characters, one a byte: kept by the thousand, texts take less memory than byte arrays, and compare at once. */
export const digestText = (bytes: Uint8Array): string => hash('sha256', bytes, 'binary')

/** Turns a digest's bytes into that text. */
export const textOfDigest = ({ buffer, byteOffset, byteLength }: Uint8Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString('latin1')

/** Turns that text into the digest's bytes. */
export function digestBytes(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at)
  return bytes
}
