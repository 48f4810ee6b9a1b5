import { concat, utf8 } from '../protocol/bytes.ts'

const zeros = (digits: number) => '0'.repeat(digits)
const module = `"mrsigner":"${zeros(96)}","attributes":"${zeros(16)}","attributesMask":"${'F'.repeat(16)}"`
const [isvsvn, date, fixes] = [
  '{"tcb":{"isvsvn":',
  ',"tcbDate":"',
  ',"advisoryIDs":["INTEL-SA-01036","INTEL-SA-01099"]}',
]
const late = 'Late Microcode Update"}'
const oldest =
  '00106 00115 00135 00203 00220 00233 00270 00293 00320 00329 00381 00389 00477 00837 01036 01079 01099 01103 01111'

/** Stands before every text when it is unpacked, so that a text may repeat it: the fixed words of a quoting enclave's identity, and a TCB info of 2026 with its first level and its oldest. The contracts' `PackedText` holds the same bytes. */
export const packingWords: Uint8Array = utf8(
  [
    '{"id":"TD_QE","version":2,"issueDate":"2026-","tcbEvaluationDataNumber":18,"miscselect":"00000000","miscselectMask":"FFFFFFFF"',
    `,"attributes":"11${zeros(30)}","attributesMask":"FB${'F'.repeat(14)}${zeros(16)}"`,
    ',"mrsigner":"DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5","isvprodid":2,"tcbLevels":[',
    '{"id":"TDX","version":3,"issueDate":"2026-Z","nextUpdate":"2026-Z","fmspc":"90c06f000000","pceId":"0000","tcbType":0',
    `,"tcbEvaluationDataNumber":18,"tdxModule":{${module}},"tdxModuleIdentities":[`,
    `{"id":"TDX_03",${module},"tcbLevels":[${isvsvn}3}${date}2024-11-13T00:00:00Z","tcbStatus":"UpToDate"}]},`,
    `{"id":"TDX_01",${module},"tcbLevels":[${isvsvn}6}${date}2024-03-13T00:00:00Z","tcbStatus":"UpToDate"},`,
    `${isvsvn}4}${date}2024-03-13T00:00:00Z","tcbStatus":"OutOfDate"${fixes},`,
    `${isvsvn}2}${date}2023-08-09T00:00:00Z","tcbStatus":"OutOfDate"${fixes}]}],`,
    '"tcbLevels":[{"tcb":{"sgxtcbcomponents":[{"svn":3,"category":"BIOS","type":"Early Microcode Update"},',
    `{"svn":3,"category":"OS/VMM","type":"SGX ${late},{"svn":2,"category":"OS/VMM","type":"TXT SINIT"},`,
    '{"svn":2,"category":"BIOS"},{"svn":4,"category":"BIOS"},{"svn":1,"category":"BIOS"},{"svn":0},',
    `{"svn":5,"category":"OS/VMM","type":"SEAMLDR ACM"}${',{"svn":0}'.repeat(8)}],"pcesvn":13,"tdxtcbcomponents":[`,
    '{"svn":5,"category":"OS/VMM","type":"TDX Module"},{"svn":0,"category":"OS/VMM","type":"TDX Module"},',
    `{"svn":3,"category":"OS/VMM","type":"TDX ${late}${',{"svn":0}'.repeat(13)}]}${date}2024-11-13T00:00:00Z",`,
    `"tcbStatus":"OutOfDate","advisoryIDs":[${oldest
      .split(' ')
      .map((id) => `"INTEL-SA-${id}"`)
      .join(',')}]}]}`,
  ].join(''),
)

/** The most bytes a step takes literally, the most it repeats, and the last place it can repeat from. */
const limits = { literal: 31, size: 0x7ff, source: 0xffff }
/** What a step costs besides its bytes in the call and the words it copies, in gas: measured. */
const stepGas = 200
const wordGas = 3

/** Prices a byte of a call, in gas (EIP-2028). */
const byteGas = (byte: number) => (byte === 0 ? 4 : 16)

type Run = { source: number; size: number }
type Choice = Run & { gas: number }
const nothing: Choice = { source: 0, size: 0, gas: 3 * byteGas(0) }

/** Finds, for each byte from `start` on, the longest run that stands whole before it and that it repeats. */
function longestRuns(bytes: Uint8Array, start: number): Run[] {
  const places = new Map<number, number[]>()
  const runs: Run[] = []
  for (let at = 0; at < bytes.length; at++) {
    const key = (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!
    const earlier = places.get(key) ?? []
    if (at >= start) {
      let longest: Run = { source: 0, size: 0 }
      for (const source of earlier) {
        const room = Math.min(limits.size, at - source, bytes.length - at)
        // The nearer a run begins, the less of it there is.
        if (room <= longest.size || source > limits.source) break
        let size = 0
        while (size < room && bytes[source + size] === bytes[at + size]) size++
        if (size > longest.size) longest = { source, size }
      }
      runs.push(longest)
    }
    earlier.push(at)
    places.set(key, earlier)
  }
  return runs
}

/** Chooses how much of a run to repeat, given what the rest of the text costs from each byte on. */
function cheapestRepeat({ source, size: longest }: Run, at: number, rest: Float64Array): Choice {
  const place = byteGas(source >> 8) + byteGas(source & 0xff)
  let cheapest: Choice = { source: 0, size: 0, gas: Number.POSITIVE_INFINITY }
  for (let size = 1; size <= longest; size++) {
    const gas = place + byteGas(size & 0xff) + wordGas * Math.ceil(size / 32) + rest[at + size]!
    if (gas < cheapest.gas) cheapest = { source, size, gas }
  }
  return cheapest
}

/** Packs a text for `PackedText` of the contracts, as `pack` does. */
export const packText = (text: string): Uint8Array => pack(utf8(text))

/** Packs bytes for `PackedText` of the contracts so that posting them costs the least gas: of all divisions into steps of literal bytes and repeated runs, the cheapest by the prices of a call's bytes and of a step. */
export function pack(given: Uint8Array): Uint8Array {
  const start = packingWords.length
  const bytes = concat(packingWords, given)
  const length = bytes.length - start
  const runs = longestRuns(bytes, start)
  const rest = new Float64Array(length + 1)
  const repeats: Choice[] = Array.from({ length: length + 1 }, () => ({ ...nothing }))
  const literals = new Uint8Array(length)
  for (let at = length - 1; at >= 0; at--) {
    rest[at] = Number.POSITIVE_INFINITY
    repeats[at] = cheapestRepeat(runs[at]!, at, rest)
    let before = stepGas
    for (let literal = 0; literal <= limits.literal && at + literal <= length; literal++) {
      const gas = before + byteGas((literal << 3) | (repeats[at + literal]!.size >> 8)) + repeats[at + literal]!.gas
      if (gas < rest[at]!) {
        rest[at] = gas
        literals[at] = literal
      }
      before += byteGas(bytes[start + at + literal] ?? 0)
    }
    // A step may also end with its literal bytes, where the next one goes on with more.
    const alone = nothing.gas + rest[at]!
    if (alone < repeats[at]!.gas) repeats[at] = { ...nothing, gas: alone }
  }
  const steps: Uint8Array[] = []
  for (let at = 0; at < length; ) {
    const literal = literals[at]!
    const { source, size } = repeats[at + literal]!
    steps.push(Uint8Array.of((literal << 3) | (size >> 8), size & 0xff, source >> 8, source & 0xff))
    steps.push(bytes.subarray(start + at, start + at + literal))
    at += literal + size
  }
  return concat(...steps)
}
