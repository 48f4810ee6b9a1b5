import { concat, EncodingError, equalBytes, fromHex, fromUtf8, type Hex, LittleReader, toHex, utf8 } from '../bytes.ts'
import { parseStrictList } from './json.ts'
import type { Claim } from './verdict.ts'

/** Names a register that a log extends: RTMR0 to RTMR3. */
export type Register = 0 | 1 | 2 | 3

/** Holds one event of a log: the register it extended, with what, and what the log says it was. `checked` says that the digest was computed again from the payload; only then does the payload mean anything. */
export type LoggedEvent = {
  register: Register
  type: number
  name: string
  digest: Uint8Array
  payload: Uint8Array
  checked: boolean
}

const sha384 = async (bytes: Uint8Array) =>
  new Uint8Array(await crypto.subtle.digest('SHA-384', bytes as Uint8Array<ArrayBuffer>))

const runtimeEventType = 0x0800_0001
const digestLength = 48

function little32(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24)
}

function readRegister(value: unknown): Register {
  if (value !== 0 && value !== 1 && value !== 2 && value !== 3)
    throw new EncodingError(`Event log: register ${String(value)} is not 0 to 3.`)
  return value
}

/** Reads the event log that dstack's guest agent gives beside a quote. Events that dstack itself measures (RTMR3) have their digest computed here; the firmware's are taken as logged. Throws EncodingError. */
export async function readDstackLog(text: string): Promise<LoggedEvent[]> {
  const list = parseStrictList(text)
  return Promise.all(
    list.map(async (entry) => {
      const { imr, event_type: type, digest, event, event_payload: payload } = entry as Record<string, unknown>
      if (
        typeof type !== 'number' ||
        typeof digest !== 'string' ||
        typeof event !== 'string' ||
        typeof payload !== 'string'
      )
        throw new EncodingError('Event log: an event lacks its type, digest, name or payload.')
      const register = readRegister(imr)
      const content = fromHex(`0x${payload}`)
      const computed =
        type === runtimeEventType
          ? await sha384(concat(little32(type), utf8(':'), utf8(event), utf8(':'), content))
          : null
      const logged = digest === '' ? computed : fromHex(`0x${digest}`, digestLength)
      if (!logged) throw new EncodingError('Event log: an event has neither a digest nor what one is computed from.')
      return {
        register,
        type,
        name: event,
        digest: logged,
        payload: content,
        checked: computed !== null && equalBytes(computed, logged),
      }
    }),
  )
}

const algorithmLengths: Record<number, number> = { 4: 20, 11: 32, 12: digestLength, 13: 64 }
const sha384Algorithm = 12
const noAction = 3

/** Tells which of the usual ways of measuring a payload gives a digest: all of it, without the zero byte that ends it, or without the word in front that names it (as boot loaders log command lines). */
async function isMeasurementOf(digest: Uint8Array, payload: Uint8Array): Promise<boolean> {
  const bare = payload.at(-1) === 0 ? payload.subarray(0, -1) : payload
  const colon = bare.indexOf(0x20)
  const named = colon > 0 && bare[colon - 1] === 0x3a ? [bare.subarray(colon + 1)] : []
  for (const candidate of [payload, bare, ...named]) if (equalBytes(await sha384(candidate), digest)) return true
  return false
}

/** Reads a confidential-computing event log as firmware leaves it (TCG PC Client firmware profile §10.2, UEFI CC measurement protocol §38.4.1): crypto-agile events, of which SHA-384 counts. Throws EncodingError. */
export async function readCcel(bytes: Uint8Array): Promise<LoggedEvent[]> {
  const reader = new LittleReader(bytes, 'Event log')
  reader.take(4)
  if (reader.number(4) !== noAction)
    throw new EncodingError('Event log: the first event does not say how to read the log.')
  reader.take(20)
  if (!fromUtf8(reader.take(reader.number(4)).subarray(0, 15)).startsWith('Spec ID Event03'))
    throw new EncodingError('Event log: not a crypto-agile log.')
  const events: LoggedEvent[] = []
  while (reader.offset + 8 <= bytes.length) {
    const index = reader.number(4)
    const type = reader.number(4)
    // What is left of the area the firmware set aside.
    if (index === 0xffff_ffff || (index === 0 && type === 0)) break
    let digest: Uint8Array | null = null
    const count = reader.number(4)
    if (count > 8) throw new EncodingError(`Event log: an event has ${count} digests.`)
    for (let each = 0; each < count; each++) {
      const algorithm = reader.number(2)
      const length = algorithmLengths[algorithm]
      if (!length) throw new EncodingError(`Event log: digest algorithm ${algorithm} is not known.`)
      const value = reader.take(length)
      if (algorithm === sha384Algorithm) digest = value
    }
    const payload = reader.take(reader.number(4))
    if (type === noAction || index === 0) continue
    if (!digest) throw new EncodingError('Event log: an event has no SHA-384 digest.')
    const checked = await isMeasurementOf(digest, payload)
    events.push({ register: readRegister(index - 1), type, name: '', digest, payload, checked })
  }
  return events
}

/** Replays a log: what RTMR0 to RTMR3 hold after every event extended its register. */
export async function replayEventLog(events: readonly LoggedEvent[]): Promise<Uint8Array[]> {
  const registers = [0, 1, 2, 3].map(() => new Uint8Array(digestLength))
  for (const { register, digest } of events) {
    registers[register] = await sha384(concat(registers[register]!, digest))
  }
  return registers
}

const printable = /^[\x20-\x7e]+$/

function textOf(payload: Uint8Array): string | null {
  const end = payload.at(-1) === 0 ? -1 : undefined
  try {
    const text = fromUtf8(payload.subarray(0, end))
    return printable.test(text) ? text : null
  } catch {
    return null
  }
}

/** Says what a log explains about a quote's registers. `facts` are payloads whose digest was computed again, in a register that replays to the quoted value: the only ones that prove something. */
export type EventLogExplanation = {
  registers: { register: Register; replayed: Hex; quoted: Hex; equal: boolean; events: number }[]
  facts: { register: Register; name: string; value: string }[]
  claims: Claim[]
}

/** Compares a log with the registers of a verified quote (RTMR0 to RTMR3, 48 bytes each) and draws out what it proves. */
export async function explainEventLog(
  events: readonly LoggedEvent[],
  quoted: readonly Uint8Array[],
): Promise<EventLogExplanation> {
  const replayed = await replayEventLog(events)
  const registers = ([0, 1, 2, 3] as const).map((register) => ({
    register,
    replayed: toHex(replayed[register]!),
    quoted: toHex(quoted[register]!),
    equal: equalBytes(replayed[register]!, quoted[register]!),
    events: events.filter((event) => event.register === register).length,
  }))
  const facts = events.flatMap(({ register, name, payload, checked }): EventLogExplanation['facts'] => {
    if (!checked || !registers[register]!.equal || payload.length === 0) return []
    const text = textOf(payload)
    // Only RTMR3's names are part of what is measured; elsewhere the log could call an event anything.
    if (register === 3)
      return [{ register, name, value: name.endsWith('hash') || text === null ? toHex(payload) : text }]
    const command = /^kernel_cmdline: |^initrd: |^kernel: |^grub_cmd: /.exec(text ?? '')
    return command ? [{ register, name: command[0].replace(': ', ''), value: text!.slice(command[0].length) }] : []
  })
  const claims = registers.map(({ register, equal, events: count }): Claim => {
    const known = count > 0
    return {
      claim: `rtmr${register}_explained`,
      status: !known ? 'unknown' : equal ? 'asserted' : 'refuted',
      source: 'verifier',
      detail: !known
        ? 'The log has no event of this register.'
        : equal
          ? `${count} events replay to the quoted value.`
          : `${count} events replay to another value than the quoted one.`,
    }
  })
  return { registers, facts, claims }
}
