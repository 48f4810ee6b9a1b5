import { hash } from 'node:crypto'

/** Hashes bytes with SHA-256 to a text of 32 characters, one a byte: kept by the thousand, texts take less memory than byte arrays, and compare at once. */
export const digestText = (bytes: Uint8Array): string => hash('sha256', bytes, 'binary')

/** Turns bytes into such a text, to compare them or to be the key of a map. */
export const byteText = ({ buffer, byteOffset, byteLength }: Uint8Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString('latin1')
