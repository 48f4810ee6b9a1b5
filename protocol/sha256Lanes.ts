import { sha256, sha256Rows } from './hash.ts'

/** Hashes rows, messages of equal length that stand back to back, to digests of 32 bytes that stand so too. */
export type Lanes = {
  /** Hashes each row of `length` bytes with SHA-256 into `digests`. Without it, room is made; with it, it says how many rows of 0 bytes there are. Throws RangeError when the rows are not whole or the digests do not fit. */
  hashRows(rows: Uint8Array, length: number, digests?: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>
  /** Authenticates each row of `length` bytes with HMAC-SHA-256 (RFC 2104 §2) into `digests`, as `hashRows` takes them. Throws RangeError too when the key is longer than the 64 bytes of a block. */
  hmacRows(
    key: Uint8Array,
    rows: Uint8Array,
    length: number,
    digests?: Uint8Array<ArrayBuffer>,
  ): Uint8Array<ArrayBuffer>
}

/** Bytes of WebAssembly (WebAssembly Core §5) as a tree, which is quicker to grow than one list. */
type Code = number | readonly Code[]

const v128 = {
  load: 0x00,
  load32Splat: 0x09,
  store: 0x0b,
  const: 0x0c,
  shuffle: 0x0d,
  swizzle: 0x0e,
  and: 0x4e,
  or: 0x50,
  xor: 0x51,
} as const
const i32x4 = { shl: 0xab, shrU: 0xad, add: 0xae } as const
const i32 = { ne: 0x47, leU: 0x4d, add: 0x6a, sub: 0x6b, shl: 0x74 } as const
const valueTypes = { v128: 0x7b, i32: 0x7f } as const
const sections = { type: 1, function: 3, memory: 5, export: 7, code: 10 } as const
const end = 0x0b

// Of unknown parts, because the compiler gives up on the type of a tree flattened to its ends.
const flatten = (code: readonly unknown[]) => code.flat(Number.POSITIVE_INFINITY) as number[]
/** Encodes an unsigned number as LEB128. */
const leb = (value: number): Code => (value < 0x80 ? value : [(value & 0x7f) | 0x80, leb(value >>> 7)])
/** Encodes a number from 0 as signed LEB128: the second bit of the last byte is the sign. */
const signedLeb = (value: number): Code => (value < 0x40 ? value : [(value & 0x7f) | 0x80, signedLeb(value >>> 7)])

const get = (local: number): Code => [0x20, leb(local)]
const set = (local: number, value: Code): Code => [value, 0x21, leb(local)]
const constant = (value: number): Code => [0x41, signedLeb(value)]
const scalar = (op: number, a: Code, b: Code): Code => [a, b, op]
const simd = (op: number, ...operands: Code[]): Code => [operands, 0xfd, leb(op)]
/** Runs the body, and again as long as the condition is not 0. */
const repeatWhile = (condition: Code, ...body: Code[]): Code => [0x03, 0x40, body, condition, 0x0d, 0, end]
const when = (condition: Code, ...body: Code[]): Code => [condition, 0x04, 0x40, body, end]

const load = (address: Code, offset: number): Code => [simd(v128.load, address), 0, leb(offset)]
const splat = (address: Code, offset: number): Code => [simd(v128.load32Splat, address), 2, leb(offset)]
const store = (address: Code, offset: number, value: Code): Code => [simd(v128.store, address, value), 0, leb(offset)]
/** Picks four of the eight 32-bit words of two vectors. */
const pick = (a: Code, b: Code, words: readonly number[]): Code => [
  simd(v128.shuffle, a, b),
  words.map((word) => [4 * word, 4 * word + 1, 4 * word + 2, 4 * word + 3]),
]
const xor = (first: Code, ...others: Code[]): Code => others.reduce((sum, each) => simd(v128.xor, sum, each), first)
const add = (first: Code, ...others: Code[]): Code => others.reduce((sum, each) => simd(i32x4.add, sum, each), first)
const shiftRight = (x: Code, bits: number) => simd(i32x4.shrU, x, constant(bits))
const rotateRight = (x: Code, bits: number) =>
  simd(v128.or, shiftRight(x, bits), simd(i32x4.shl, x, constant(32 - bits)))

const primes: number[] = []
for (let each = 2; primes.length < 64; each++) if (primes.every((prime) => each % prime !== 0)) primes.push(each)
/** Takes the first 32 bits of the fraction. */
const fraction = (root: number) => Math.floor((root % 1) * 2 ** 32)
/** The constants of the 64 rounds (FIPS 180-4 §4.2.2). */
const roundConstants = primes.map((prime) => fraction(Math.cbrt(prime)))
/** The hash before the first block (FIPS 180-4 §5.3.3). */
const initialHash = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)))

const block = 64
/** Bytes that say which bits of a block's 16 words are the message's, and what the padding adds to each word. */
const paddingSize = 2 * block
/** Bytes of a message, with its padding six blocks, beyond which one after the other is faster where a processor has SHA instructions. */
const mostLength = 6 * block - 9
/** Digests that fit at once. */
const mostDigests = 256

// Addresses in the memory's one page. A row's last block is read past its end, at most 63 bytes past the room of rows; the padding masks what is not its own.
const constantsAt = 0
const initialAt = constantsAt + 4 * 64
/** Room of four digests: the hashes after the key's two blocks, and two that nobody reads. */
const keyedAt = initialAt + 32
/** First of a block that is all message, then of the one or two at a message's end. */
const paddingAt = keyedAt + 4 * 32
const digestsAt = 1_024
const rowsAt = digestsAt + 32 * mostDigests
const rowsSize = 48 * 1_024

/** Assembles the module: `compress(rows, digests, groups, length, blocks, tails, hash)` hashes four rows at a time (FIPS 180-4 §6.2.2), each from the hash whose bytes stand at an address. */
function assemble(): Uint8Array<ArrayBuffer> {
  const [rows, digests, groups, length, blocks, tails, hash] = [0, 1, 2, 3, 4, 5, 6] as const
  const [left, padding, first, second, third, fourth, round] = [7, 8, 9, 10, 11, 12, 13] as const
  const vectors = Array.from({ length: 38 }, (_, at) => 14 + at)
  const locals = [2, 7, valueTypes.i32, vectors.length, valueTypes.v128]
  const chain = vectors.slice(0, 8)
  const working = vectors.slice(8, 16)
  const schedule = vectors.slice(16, 32)
  const [low, high, swap, sum, differ, differed] = vectors.slice(32) as [number, number, number, number, number, number]
  const words = schedule.map((_, t) => t)

  const bigEndian = (x: Code) => simd(v128.swizzle, x, get(swap))
  /** Turns four vectors of one row each into four of one word each, or back. */
  const transpose = (from: readonly number[], to: readonly number[]): Code => {
    const [a, b, c, d] = from.map(get) as [Code, Code, Code, Code]
    const half = (pairs: readonly number[], at: number) => [
      set(low, pick(a, b, pairs)),
      set(high, pick(c, d, pairs)),
      set(to[at]!, bigEndian(pick(get(low), get(high), [0, 1, 4, 5]))),
      set(to[at + 1]!, bigEndian(pick(get(low), get(high), [2, 3, 6, 7]))),
    ]
    return [half([0, 4, 1, 5], 0), half([2, 6, 3, 7], 2)]
  }

  const readWords = [0, 4, 8, 12].map((word) => [
    [first, second, third, fourth].map((row, lane) => set(working[lane]!, load(get(row), 4 * word))),
    transpose(working.slice(0, 4), schedule.slice(word, word + 4)),
  ])
  const padWords = schedule.map((w, t) => {
    const message = simd(v128.and, get(w), splat(get(padding), 4 * t))
    return set(w, simd(v128.or, message, splat(get(padding), block + 4 * t)))
  })
  const extend = (t: number): Code => {
    const w = schedule[t]!
    const [w15, w7, w2] = [t + 1, t + 9, t + 14].map((at) => get(schedule[at % 16]!)) as [Code, Code, Code]
    const sigma0 = xor(rotateRight(w15, 7), rotateRight(w15, 18), shiftRight(w15, 3))
    const sigma1 = xor(rotateRight(w2, 17), rotateRight(w2, 19), shiftRight(w2, 10))
    return set(w, add(get(w), sigma0, w7, sigma1))
  }
  // The working variables trade names and not values: after 16 rounds each has its own again. Of Maj, a ^ b is the next round's b ^ c.
  const oneRound = (t: number): Code => {
    const [a, b, , d, e, f, g, h] = working.map((_, at) => working[(at + 16 - t) % 8]!)
    const [aNow, bNow, eNow, gNow] = [a!, b!, e!, g!].map(get) as [Code, Code, Code, Code]
    const sum1 = xor(rotateRight(eNow, 6), rotateRight(eNow, 11), rotateRight(eNow, 25))
    const sum0 = xor(rotateRight(aNow, 2), rotateRight(aNow, 13), rotateRight(aNow, 22))
    const choice = xor(simd(v128.and, xor(get(f!), gNow), eNow), gNow)
    const majority = xor(simd(v128.and, get(differ), get(differed)), bNow)
    return [
      set(sum, add(get(schedule[t]!), splat(get(round), constantsAt + 4 * t), get(h!), choice, sum1)),
      set(d!, add(get(d!), get(sum))),
      set(differ, xor(aNow, bNow)),
      set(h!, add(get(sum), majority, sum0)),
      set(differed, get(differ)),
    ]
  }

  const tailReached = scalar(i32.leU, get(left), get(tails))
  const wordsLeft = scalar(i32.ne, get(round), constant(4 * 64))
  const hashBlock = [
    set(padding, scalar(i32.add, get(padding), scalar(i32.shl, tailReached, constant(Math.log2(paddingSize))))),
    set(second, scalar(i32.add, get(first), get(length))),
    set(third, scalar(i32.add, get(second), get(length))),
    set(fourth, scalar(i32.add, get(third), get(length))),
    readWords,
    padWords,
    working.map((variable, at) => set(variable, get(chain[at]!))),
    set(differed, xor(get(working[1]!), get(working[2]!))),
    set(round, constant(0)),
    repeatWhile(
      wordsLeft,
      words.map(oneRound),
      set(round, scalar(i32.add, get(round), constant(4 * 16))),
      when(wordsLeft, words.map(extend)),
    ),
    chain.map((variable, at) => set(variable, add(get(variable), get(working[at]!)))),
    set(first, scalar(i32.add, get(first), constant(block))),
    set(left, scalar(i32.sub, get(left), constant(1))),
  ]
  const hashFour = [
    chain.map((variable, at) => set(variable, bigEndian(splat(get(hash), 4 * at)))),
    set(left, get(blocks)),
    set(padding, constant(paddingAt)),
    set(first, get(rows)),
    repeatWhile(get(left), hashBlock),
    [0, 4].map((word) => [
      transpose(chain.slice(word, word + 4), working),
      [0, 1, 2, 3].map((lane) => store(get(digests), 32 * lane + 4 * word, get(working[lane]!))),
    ]),
    set(rows, scalar(i32.add, get(rows), scalar(i32.shl, get(length), constant(2)))),
    set(digests, scalar(i32.add, get(digests), constant(4 * 32))),
    set(groups, scalar(i32.sub, get(groups), constant(1))),
  ]
  const reversed = [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]
  const body = flatten([locals, set(swap, [simd(v128.const), reversed]), repeatWhile(get(groups), hashFour), end])

  const section = (id: number, content: readonly Code[]): Code => {
    const bytes = flatten(content)
    return [id, leb(bytes.length), bytes]
  }
  const name = (text: string): Code => [text.length, Array.from(text, (letter) => letter.charCodeAt(0))]
  const parameters = [7, Array<number>(7).fill(valueTypes.i32)]
  return Uint8Array.from(
    flatten([
      [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      section(sections.type, [1, 0x60, parameters, 0]),
      section(sections.function, [1, 0]),
      section(sections.memory, [1, 1, 1, 1]),
      section(sections.export, [2, name('memory'), 2, 0, name('compress'), 0, 0]),
      section(sections.code, [1, leb(body.length), body]),
    ]),
  )
}

/** Counts the rows and makes room for their digests. Throws RangeError when either does not fit. */
function takeRows(rows: Uint8Array, length: number, digests?: Uint8Array<ArrayBuffer>) {
  if (!Number.isInteger(length) || length < 0) throw new RangeError(`A row has a whole number of bytes, not ${length}.`)
  const count = length === 0 ? (digests?.length ?? 0) / 32 : rows.length / length
  if (count * length !== rows.length || !Number.isInteger(count))
    throw new RangeError(`Rows of ${length} bytes do not divide ${rows.length} bytes.`)
  digests ??= new Uint8Array(32 * count)
  if (digests.length !== 32 * count)
    throw new RangeError(`${count} rows have ${32 * count} bytes of digests, not ${digests.length}.`)
  return { count, digests }
}

const padByte = { inner: 0x36, outer: 0x5c } as const

/** Refuses a key that HMAC would have to hash first. */
function checkKey(key: Uint8Array): void {
  if (key.length > block) throw new RangeError(`A key has at most ${block} bytes, not ${key.length}.`)
}

const oneByOne: Lanes = {
  hashRows(rows, length, room) {
    return sha256Rows(rows, length, takeRows(rows, length, room).digests)
  },
  hmacRows(key, rows, length, room) {
    checkKey(key)
    const { count, digests } = takeRows(rows, length, room)
    if (count === 0) return digests
    const inner = new Uint8Array(block + length).fill(padByte.inner, 0, block)
    const outer = new Uint8Array(block + 32).fill(padByte.outer, 0, block)
    for (let at = 0; at < key.length; at++) {
      inner[at]! ^= key[at]!
      outer[at]! ^= key[at]!
    }
    for (let row = 0; row < count; row++) {
      inner.set(rows.subarray(row * length, (row + 1) * length), block)
      outer.set(sha256(inner), block)
      digests.set(sha256(outer), 32 * row)
    }
    inner.fill(0)
    outer.fill(0)
    return digests
  },
}

/** Hashes four rows at a time on the memory of one instance, which every call writes over. */
function fourByFour(module: WebAssembly.Module): Lanes {
  const { memory, compress } = new WebAssembly.Instance(module).exports as {
    memory: WebAssembly.Memory
    compress: (
      rows: number,
      digests: number,
      groups: number,
      length: number,
      blocks: number,
      tails: number,
      hash: number,
    ) => void
  }
  const bytes = new Uint8Array(memory.buffer)
  const view = new DataView(memory.buffer)
  const paddings = new Int32Array(memory.buffer, paddingAt, (3 * paddingSize) / 4)
  roundConstants.forEach((word, at) => {
    view.setUint32(constantsAt + 4 * at, word, true)
  })
  initialHash.forEach((word, at) => {
    view.setUint32(initialAt + 4 * at, word)
  })
  paddings.fill(-1, 0, 16)

  const blocksOf = (length: number) => ((length + 8) >> 6) + 1

  /** Hashes rows that stand in the memory; `before` is how many bytes of each message the hash at `hashAt` has taken in (FIPS 180-4 §5.1.1). */
  const run = (from: number, count: number, length: number, hashAt: number, before: number) => {
    const blocks = blocksOf(length)
    const tails = blocks - (length >> 6)
    const rest = length & 63
    for (let word = 0; word < 16 * tails; word++) {
      const kept = rest - 4 * word
      const at = 32 + (word & 15) + ((word & 16) << 1)
      paddings[at] = kept >= 4 ? -1 : kept <= 0 ? 0 : -1 << (32 - 8 * kept)
      paddings[at + 16] = kept >= 0 && kept < 4 ? 0x8000_0000 >>> (8 * kept) : 0
    }
    paddings[32 * tails + 31] = 8 * (before + length)
    compress(from, digestsAt, (count + 3) >> 2, length, blocks, tails, hashAt)
  }

  /** Has the rows hashed in parts that fit into the memory. */
  const inParts = (
    rows: Uint8Array,
    length: number,
    count: number,
    digests: Uint8Array,
    hash: (count: number) => void,
  ) => {
    const most = length === 0 ? mostDigests : Math.min(mostDigests, Math.floor(rowsSize / length) & ~3)
    for (let done = 0; done < count; done += most) {
      const part = Math.min(most, count - done)
      bytes.set(part * length === rows.length ? rows : rows.subarray(done * length, (done + part) * length), rowsAt)
      hash(part)
      digests.set(bytes.subarray(digestsAt, digestsAt + 32 * part), 32 * done)
    }
  }

  return {
    hashRows(rows, length, room) {
      if (length > mostLength) return oneByOne.hashRows(rows, length, room)
      const { count, digests } = takeRows(rows, length, room)
      // Four lanes take as long for one row as for four: about as long, for each block, as one digest by itself.
      const rest = (count & 3) < blocksOf(length) ? count & 3 : 0
      const together = count - rest
      inParts(rows, length, together, digests, (part) => run(rowsAt, part, length, initialAt, 0))
      if (rest > 0) oneByOne.hashRows(rows.subarray(together * length), length, digests.subarray(32 * together))
      return digests
    },
    hmacRows(key, rows, length, room) {
      if (length > mostLength) return oneByOne.hmacRows(key, rows, length, room)
      checkKey(key)
      const { count, digests } = takeRows(rows, length, room)
      if (count === 0) return digests
      bytes.fill(padByte.inner, rowsAt, rowsAt + block)
      bytes.fill(padByte.outer, rowsAt + block, rowsAt + 2 * block)
      for (let at = 0; at < key.length; at++) {
        bytes[rowsAt + at]! ^= key[at]!
        bytes[rowsAt + block + at]! ^= key[at]!
      }
      compress(rowsAt, keyedAt, 1, block, 1, 0, initialAt)
      bytes.fill(0, rowsAt, rowsAt + 2 * block)
      inParts(rows, length, count, digests, (part) => {
        run(rowsAt, part, length, keyedAt, block)
        run(digestsAt, part, 32, keyedAt + 32, block)
      })
      bytes.fill(0, keyedAt, keyedAt + 2 * 32)
      return digests
    },
  }
}

/** Makes lanes of SHA-256 (FIPS 180-4 §6.2) on what `compile` makes of WebAssembly's bytes; where that throws, as on Cloudflare's Workers, or hashes otherwise than `sha256`, rows are hashed one by one, to the same digests. */
export function createLanes({
  compile = (bytes: BufferSource) => new WebAssembly.Module(bytes),
}: {
  compile?: (bytes: Uint8Array<ArrayBuffer>) => WebAssembly.Module
} = {}): Lanes {
  try {
    const lanes = fourByFour(compile(assemble()))
    const isRight = [3, 55, 56, 64, 200].every((length) => {
      const rows = Uint8Array.from({ length: 4 * length }, (_, at) => at * 7 + length)
      const key = rows.subarray(0, 3)
      const same = (a: Uint8Array, b: Uint8Array) => a.every((byte, at) => byte === b[at])
      return (
        same(lanes.hashRows(rows, length), oneByOne.hashRows(rows, length)) &&
        same(lanes.hmacRows(key, rows, length), oneByOne.hmacRows(key, rows, length))
      )
    })
    return isRight ? lanes : oneByOne
  } catch {
    return oneByOne
  }
}

// Made at the first use, so that a page or a worker which hashes no rows assembles nothing.
let lanes: Lanes | undefined

/** Hashes rows of `length` bytes with SHA-256 (FIPS 180-4 §6.2), four side by side where the platform compiles WebAssembly; gives 32 bytes for each row. Throws RangeError when the rows are not whole or the digests do not fit. */
export const hashRows: Lanes['hashRows'] = (rows, length, digests) => {
  lanes ??= createLanes()
  return lanes.hashRows(rows, length, digests)
}

/** Authenticates rows of `length` bytes with HMAC-SHA-256 (RFC 2104 §2) under a key of at most 64 bytes, whose blocks are hashed once; gives 32 bytes for each row. Throws RangeError when the key is longer, the rows are not whole or the digests do not fit. */
export const hmacRows: Lanes['hmacRows'] = (key, rows, length, digests) => {
  lanes ??= createLanes()
  return lanes.hmacRows(key, rows, length, digests)
}
