import { createHash, createHmac } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toHex, utf8 } from '../../protocol/bytes.ts'
import { createLanes, hashRows, hmacRows, type Lanes } from '../../protocol/sha256Lanes.ts'

const fallback = createLanes({
  compile: () => {
    throw new WebAssembly.CompileError('Wasm code generation disallowed by embedder')
  },
})

/** Splits rows, and joins what is made of each. */
function joined(rows: Uint8Array, length: number, count: number, digest: (row: Uint8Array) => Uint8Array): string {
  const digests = new Uint8Array(32 * count)
  for (let row = 0; row < count; row++) digests.set(digest(rows.subarray(row * length, (row + 1) * length)), 32 * row)
  return toHex(digests)
}
const nativeHash = (row: Uint8Array) => createHash('sha256').update(row).digest()
const nativeHmac = (key: Uint8Array) => (row: Uint8Array) => createHmac('sha256', key).update(row).digest()
const bytesOf = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, at) => (at * 31 + (at >> 7) + seed) ^ at)
const room = (count: number) => new Uint8Array(32 * count)

/** Repeats a message, so that every lane hashes it. */
const fourOf = (message: Uint8Array) =>
  Uint8Array.from({ length: 4 * message.length }, (_, at) => message[at % message.length]!)
const fourTimes = (digest: string) => `0x${digest.repeat(4)}`

describe.each<[string, Lanes]>([
  ['SHA-256 of four rows at a time', { hashRows, hmacRows }],
  ['SHA-256 of rows one by one', fallback],
])('%s', (_, lanes) => {
  test('vector: the digests of FIPS 180-4', () => {
    expect(toHex(lanes.hashRows(new Uint8Array(0), 0, room(4)))).toBe(
      fourTimes('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'),
    )
    for (const [message, digest] of [
      ['abc', 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
      [
        'abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq',
        '248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1',
      ],
    ] as const)
      expect(toHex(lanes.hashRows(fourOf(utf8(message)), message.length))).toBe(fourTimes(digest))
  })

  test.each([
    [55, '9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318'],
    [56, 'b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a'],
    [63, '7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34'],
    [64, 'ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb'],
    [65, '635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0'],
    [119, '31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb'],
    [120, '2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c'],
  ])('vector: %i letters, around the ends of blocks', (length, digest) => {
    expect(toHex(lanes.hashRows(utf8('a'.repeat(4 * length)), length))).toBe(fourTimes(digest))
  })

  test('vector: the first two HMACs of RFC 4231', () => {
    for (const [key, message, mac] of [
      [new Uint8Array(20).fill(0x0b), 'Hi There', 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'],
      [
        utf8('Jefe'),
        'what do ya want for nothing?',
        '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
      ],
    ] as const)
      expect(toHex(lanes.hmacRows(key, fourOf(utf8(message)), message.length))).toBe(fourTimes(mac))
  })

  test('behavior: every length up to that of rows hashed one by one', () => {
    for (let length = 0; length <= 400; length++) {
      const rows = bytesOf(5 * length, length)
      expect(toHex(lanes.hashRows(rows, length, room(5)))).toBe(joined(rows, length, 5, nativeHash))
    }
  })

  test('property: any rows, call after call, are hashed as the platform does and stay as they were', () => {
    const key = fc.uint8Array({ minLength: 32, maxLength: 32 })
    const calls = fc.array(fc.tuple(fc.nat(70), fc.nat(300), fc.nat(), key), { minLength: 1, maxLength: 3 })
    fc.assert(
      fc.property(calls, (all) =>
        all.every(([count, length, seed, key]) => {
          const rows = bytesOf(count * length, seed)
          const before = rows.slice()
          return (
            toHex(lanes.hashRows(rows, length, room(count))) === joined(before, length, count, nativeHash) &&
            toHex(lanes.hmacRows(key, rows, length, room(count))) === joined(before, length, count, nativeHmac(key)) &&
            toHex(rows) === toHex(before)
          )
        }),
      ),
    )
  })

  test('behavior: a short call after a long one takes nothing of it', () => {
    const short = bytesOf(3 * 7, 1)
    const digests = joined(short, 7, 3, nativeHash)
    const key = new Uint8Array(32).fill(5)
    const macs = joined(short, 7, 3, nativeHmac(key))
    lanes.hmacRows(new Uint8Array(64).fill(0xff), new Uint8Array(64 * 300).fill(0xff), 300)
    expect(toHex(lanes.hashRows(short, 7))).toBe(digests)
    lanes.hashRows(new Uint8Array(200 * 120).fill(0xff), 120)
    expect(toHex(lanes.hmacRows(key, short, 7))).toBe(macs)
  })

  test.each([
    { count: 601, length: 106 },
    { count: 1_100, length: 1 },
    { count: 300, length: 375 },
    { count: 6, length: 5_000 },
  ])('behavior: $count rows of $length bytes, more than the memory holds at once', ({ count, length }) => {
    const rows = bytesOf(count * length, 3)
    const key = bytesOf(32, 4)
    expect(toHex(lanes.hashRows(rows, length))).toBe(joined(rows, length, count, nativeHash))
    expect(toHex(lanes.hmacRows(key, rows, length))).toBe(joined(rows, length, count, nativeHmac(key)))
  })

  test('behavior: digests are written into the room given, and no rows give none', () => {
    const digests = room(5)
    expect(lanes.hashRows(bytesOf(5 * 9, 1), 9, digests)).toBe(digests)
    expect(lanes.hmacRows(bytesOf(32, 1), bytesOf(5 * 9, 1), 9, digests)).toBe(digests)
    for (const length of [0, 1, 64, 5_000, 2 ** 31, 2 ** 32]) {
      expect(lanes.hashRows(new Uint8Array(0), length)).toHaveLength(0)
      expect(lanes.hmacRows(bytesOf(32, 1), new Uint8Array(0), length)).toHaveLength(0)
    }
  })

  test('behavior: rows within another memory, or of a Buffer, are read where they stand', () => {
    const rows = bytesOf(6 * 33, 2)
    const within = new Uint8Array(rows.length + 5)
    within.set(rows, 5)
    const digests = joined(rows, 33, 6, nativeHash)
    expect(toHex(lanes.hashRows(within.subarray(5), 33))).toBe(digests)
    expect(toHex(lanes.hashRows(Buffer.from(rows), 33))).toBe(digests)
  })

  test('behavior: refuses rows that are not whole, digests that do not fit and a key longer than a block', () => {
    const key = new Uint8Array(32)
    const divides = new RangeError('Rows of 4 bytes do not divide 10 bytes.')
    expect(() => lanes.hashRows(new Uint8Array(10), 4)).toThrow(divides)
    expect(() => lanes.hmacRows(key, new Uint8Array(10), 4)).toThrow(divides)
    expect(() => lanes.hashRows(new Uint8Array(10), 0)).toThrow('Rows of 0 bytes do not divide 10 bytes.')
    expect(() => lanes.hashRows(new Uint8Array(10), 5_000)).toThrow('Rows of 5000 bytes do not divide 10 bytes.')
    expect(() => lanes.hashRows(new Uint8Array(0), 0, new Uint8Array(33))).toThrow(RangeError)
    for (const length of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
      expect(() => lanes.hashRows(new Uint8Array(10), length)).toThrow(
        new RangeError(`A row has a whole number of bytes, not ${length}.`),
      )
    expect(() => lanes.hashRows(new Uint8Array(8), 4, new Uint8Array(32))).toThrow(
      new RangeError('2 rows have 64 bytes of digests, not 32.'),
    )
    expect(() => lanes.hmacRows(new Uint8Array(65), new Uint8Array(8), 4)).toThrow(
      new RangeError('A key has at most 64 bytes, not 65.'),
    )
  })
})

describe('createLanes', () => {
  test('behavior: this platform hashes four rows at a time', () => {
    expect(createLanes().hashRows).not.toBe(fallback.hashRows)
  })

  test('behavior: a module that hashes wrongly, or is another, is not used', () => {
    const compiles = [
      () => new WebAssembly.Module(Uint8Array.of(0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0)),
      // One exclusive or becomes an or.
      (bytes: Uint8Array<ArrayBuffer>) => {
        const wrong = bytes.slice()
        wrong[bytes.findLastIndex((byte, at) => byte === 0x51 && bytes[at - 1] === 0xfd)] = 0x50
        return new WebAssembly.Module(wrong)
      },
    ]
    for (const compile of compiles) expect(createLanes({ compile }).hashRows).toBe(fallback.hashRows)
  })
})
