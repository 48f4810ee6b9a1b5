import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex, utf8 } from '../../../protocol/bytes.ts'
import { explainEventLog, readCcel, readDstackLog, replayEventLog } from '../../../protocol/evidence/eventLog.ts'
import { parseTdxQuote } from '../../../protocol/evidence/quote.ts'
import { long, mangled } from '../../fixtures/mangle.ts'
import { realQuotes } from '../../fixtures/quotes.ts'

const sha384 = async (bytes: Uint8Array) =>
  new Uint8Array(await crypto.subtle.digest('SHA-384', bytes as Uint8Array<ArrayBuffer>))
const hex = (bytes: Uint8Array) => toHex(bytes).slice(2)
const runtime = (event: string, payload: string, over = {}) => ({
  imr: 3,
  event_type: 0x0800_0001,
  digest: '',
  event,
  event_payload: hex(utf8(payload)),
  ...over,
})
const zeros = () => [0, 1, 2, 3].map(() => new Uint8Array(48))

describe("dstack's event log", () => {
  test('behavior: what a register replays to, and what only then counts as a fact', async () => {
    const events = await readDstackLog(JSON.stringify([runtime('app-id', 'digits'), runtime('compose-hash', 'abc')]))
    const registers = await replayEventLog(events)
    expect(registers[0]).toEqual(new Uint8Array(48))
    const explained = await explainEventLog(events, registers)
    expect(explained.facts).toEqual([
      { register: 3, name: 'app-id', value: 'digits' },
      { register: 3, name: 'compose-hash', value: toHex(utf8('abc')) },
    ])
    expect(explained.claims.map(({ status }) => status)).toEqual(['unknown', 'unknown', 'unknown', 'asserted'])
  })

  test('refusal: a payload changed under its digest proves nothing, one changed with it replays to another value', async () => {
    const [sound] = await readDstackLog(JSON.stringify([runtime('compose-hash', 'abc')]))
    const kept = await readDstackLog(JSON.stringify([runtime('compose-hash', 'abd', { digest: hex(sound!.digest) })]))
    const quoted = await replayEventLog([sound!])
    expect((await explainEventLog(kept, quoted)).facts).toEqual([])
    const moved = await readDstackLog(JSON.stringify([runtime('compose-hash', 'abd')]))
    const explained = await explainEventLog(moved, quoted)
    expect(explained.facts).toEqual([])
    expect(explained.claims[3]?.status).toBe('refuted')
  })

  test('refusal: an event left out, added or put elsewhere', async () => {
    const all = await readDstackLog(JSON.stringify(['a', 'b', 'c'].map((name) => runtime(name, name))))
    const quoted = await replayEventLog(all)
    for (const log of [all.slice(1), [...all, all[0]!], [all[1]!, all[0]!, all[2]!]]) {
      expect((await explainEventLog(log, quoted)).claims[3]?.status).toBe('refuted')
    }
  })

  test.each([
    ['no list', '{}'],
    ['a register that is none', JSON.stringify([runtime('a', 'b', { imr: 4 })])],
    ['a digest that is too short', JSON.stringify([runtime('a', 'b', { digest: 'ab' })])],
    ['a payload that is not hexadecimal', JSON.stringify([runtime('a', 'b', { event_payload: 'zz' })])],
    ['a firmware event without a digest', JSON.stringify([runtime('a', 'b', { event_type: 4 })])],
    ['a key twice', '[{"imr":3,"imr":3}]'],
  ])('refusal: %s', async (_, text) => {
    await expect(readDstackLog(text)).rejects.toThrow(/Event log|JSON|hex|bytes/)
  })
})

/** Writes a crypto-agile log of events with SHA-384 digests. */
function ccel(
  events: { index: number; type: number; digest: Uint8Array; payload: Uint8Array }[],
  padding = 64,
): Uint8Array {
  const u32 = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24]
  const spec = [...utf8('Spec ID Event03'), 0, ...u32(0), 0, 2, 0, 2, ...u32(1), 12, 0, 48, 0, 0]
  const head = [...u32(0), ...u32(3), ...new Array<number>(20).fill(0), ...u32(spec.length), ...spec]
  const body = events.flatMap(({ index, type, digest, payload }) => [
    ...u32(index),
    ...u32(type),
    ...u32(1),
    12,
    0,
    ...digest,
    ...u32(payload.length),
    ...payload,
  ])
  return Uint8Array.from([...head, ...body, ...new Array<number>(padding).fill(0xff)])
}

describe('confidential-computing event log', () => {
  test('behavior: a command line measured without its label is explained; a false one is not', async () => {
    const payload = utf8('kernel_cmdline: console=ttyS0 ro\0')
    const digest = await sha384(utf8('console=ttyS0 ro'))
    const honest = await readCcel(ccel([{ index: 3, type: 13, digest, payload }]))
    const quoted = await replayEventLog(honest)
    expect((await explainEventLog(honest, quoted)).facts).toEqual([
      { register: 2, name: 'kernel_cmdline', value: 'console=ttyS0 ro' },
    ])
    const lying = await readCcel(ccel([{ index: 3, type: 13, digest, payload: utf8('kernel_cmdline: quiet\0') }]))
    expect((await explainEventLog(lying, quoted)).facts).toEqual([])
  })

  test('property: mangled logs end in an error or in events, and never prove what the quote does not', async () => {
    const digest = await sha384(utf8('x'))
    const log = ccel([{ index: 1, type: 4, digest, payload: utf8('kernel_cmdline: x') }])
    for (const changed of mangled(log, long ? 100_000 : 2_000)) {
      try {
        expect((await explainEventLog(await readCcel(changed), zeros())).facts).toEqual([])
      } catch (error) {
        expect((error as Error).name).toBe('EncodingError')
      }
    }
  })
})

const folder = join(import.meta.dirname, '../../../../shared/vectors/tdx')
const present = existsSync(folder)
if (!present) console.warn('skipped: real event logs are not beside this checkout (../shared/vectors)')

describe.skipIf(!present)('event logs of real machines', () => {
  test("behavior: dstack's log replays to the registers of its quote", async () => {
    const { quote, event_log: log } = JSON.parse(readFileSync(join(folder, 'dstack/tdx-lite-getquote.json'), 'utf8'))
    const { body } = parseTdxQuote(fromHex(`0x${quote}`))
    const explained = await explainEventLog(await readDstackLog(log), body.rtmr)
    expect(explained.registers.map(({ equal }) => equal)).toEqual([true, true, true, true])
    expect(explained.facts.find(({ name }) => name === 'compose-hash')?.value).toMatch(/^0x[0-9a-f]{64}$/)
  })

  test("behavior: Google's log replays to the registers of its quote", async () => {
    const real = realQuotes().find(({ name }) => name.includes('cos-113'))!
    const log = await readCcel(new Uint8Array(readFileSync(join(folder, 'go-tdx-guest/ccel/ccel_data.dat'))))
    const explained = await explainEventLog(log, parseTdxQuote(real.quote).body.rtmr)
    expect(explained.registers.filter(({ equal }) => equal).map(({ register }) => register)).toEqual([0, 1, 2, 3])
    expect(explained.facts.some(({ name, value }) => name === 'kernel_cmdline' && value.includes('root'))).toBe(true)
  })
})
