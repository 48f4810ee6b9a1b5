import { concat, utf8 } from '../bytes.ts'

/** Writes one DER element. */
export function element(tag: number, ...contents: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const content = concat(...contents)
  const { length } = content
  const header =
    length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff]
  if (length > 0xffff) throw new RangeError('An element of more than 65,535 bytes is not needed here.')
  return concat(new Uint8Array(header), content)
}

/** Writes a sequence. */
export const sequence = (...members: Uint8Array[]) => element(0x30, ...members)

/** Writes a non-negative integer from a number or big-endian magnitude. */
export function integer(value: number | Uint8Array): Uint8Array<ArrayBuffer> {
  let magnitude = typeof value === 'number' ? numberBytes(value) : value
  while (magnitude.length > 1 && magnitude[0] === 0) magnitude = magnitude.subarray(1)
  return element(0x02, magnitude[0]! & 0x80 ? concat(new Uint8Array(1), magnitude) : magnitude)
}

function numberBytes(value: number): Uint8Array {
  const digits = value.toString(16)
  const padded = digits.length % 2 ? `0${digits}` : digits
  return new Uint8Array(padded.match(/../g)!.map((pair) => Number.parseInt(pair, 16)))
}

/** Writes an object identifier from dotted text. */
export function oid(text: string): Uint8Array<ArrayBuffer> {
  const [first = 0, second = 0, ...rest] = text.split('.').map(Number)
  const bytes: number[] = []
  for (const arc of [first * 40 + second, ...rest]) {
    const groups = [arc & 0x7f]
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) groups.unshift((left & 0x7f) | 0x80)
    bytes.push(...groups)
  }
  return element(0x06, new Uint8Array(bytes))
}

/** Writes an octet string. */
export const octets = (bytes: Uint8Array) => element(0x04, bytes)

/** Writes a bit string of whole bytes. */
export const bits = (bytes: Uint8Array, unused = 0) => element(0x03, new Uint8Array([unused]), bytes)

/** Writes a true boolean: DER omits false ones. */
export const yes = () => element(0x01, new Uint8Array([0xff]))

/** Writes a UTCTime or, from 2050, a GeneralizedTime (RFC 5280 §4.1.2.5) from unix seconds. */
export function time(seconds: number): Uint8Array<ArrayBuffer> {
  const text = `${new Date(seconds * 1000).toISOString().replace(/[-:T]/g, '').slice(0, 14)}Z`
  return Number(text.slice(0, 4)) < 2050 ? element(0x17, utf8(text.slice(2))) : element(0x18, utf8(text))
}

/** Writes a distinguished name of a common name and an organisation. */
export function name(commonName: string): Uint8Array<ArrayBuffer> {
  const attribute = (type: string, value: string) => element(0x31, sequence(oid(type), element(0x0c, utf8(value))))
  return sequence(attribute('2.5.4.3', commonName), attribute('2.5.4.10', 'Assay Development, not a vendor'))
}
