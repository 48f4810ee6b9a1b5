import { p256 } from '@noble/curves/nist.js'
import fc from 'fast-check'
import { decodeFunctionData } from 'viem'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runnerRegistryAbi } from '../../contracts/abi.ts'
import { packingWords } from '../../gpu-runner/packedText.ts'
import { collateralCall } from '../../gpu-runner/registrar.ts'
import { createDevelopmentTee } from '../../gpu-runner/tee/development.ts'
import { concat, fromHex, fromUtf8, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { type CollateralOf, defaultPolicy, verifyEvidence } from '../../protocol/evidence/index.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { tcbStatuses } from '../../protocol/evidence/verdict.ts'
import { sha256 } from '../../protocol/hash.ts'
import { openRecorded } from './recorded.ts'

const now = Date.UTC(2026, 10, 21) / 1000
const seed = new Uint8Array(32).fill(7)
const tee = createDevelopmentTee({ seed, now: () => now })
const roots = developmentRoots({ chainId: 31_337, intel: tee.rootDer })
const collateral = tee.collateral() as CollateralOf<'tdx'>
// The development signer's key follows from the seed, so that texts nobody would publish can be signed here.
const signerSecret = sha256(concat(seed, utf8('tcb signing')))
const sign = (text: string) => toHex(p256.sign(utf8(text), signerSecret, { lowS: false })).slice(2)

const svn = fc.constantFrom(0, 1, 4, 5, 6, 9, 10, 99, 100, 255)
const category = fc.constantFrom('', ',"category":"BIOS"', ',"category":"OS/VMM","type":"TDX Module"', ',"type":"]["')
const component = fc
  .tuple(fc.oneof({ weight: 3, arbitrary: fc.constantFrom(0, 5) }, { weight: 1, arbitrary: svn }), category)
  .map(([value, more]) => `{"svn":${value}${more}}`)
const components = fc
  .array(component, { minLength: 16, maxLength: 16 })
  .chain((all) => fc.boolean().map((low) => `[${(low ? all.map(() => '{"svn":0}') : all).join(',')}]`))
// What the vendor says of its components, in the form it lists them; the rest are bare zeros.
const named = {
  sgx: [
    ',"category":"BIOS","type":"Early Microcode Update"',
    ',"category":"OS/VMM","type":"SGX Late Microcode Update"',
    ',"category":"OS/VMM","type":"TXT SINIT"',
    ...Array<string>(3).fill(',"category":"BIOS"'),
    '',
    ',"category":"OS/VMM","type":"SEAMLDR ACM"',
  ],
  tdx: [
    ...Array<string>(2).fill(',"category":"OS/VMM","type":"TDX Module"'),
    ',"category":"OS/VMM","type":"TDX Late Microcode Update"',
  ],
}
/** Draws a list in the vendor's form, sometimes with one number that the form has no room for. */
const vendorList = (of: 'sgx' | 'tdx') =>
  fc
    .tuple(
      // Half of the lists are of low numbers, which the platform reaches, so that levels match.
      fc
        .constantFrom(1, 9)
        .chain((most) => fc.array(fc.nat(most), { minLength: named[of].length, maxLength: named[of].length })),
      fc.option(fc.tuple(fc.nat(15), svn), { freq: 3 }),
    )
    .map(([digits, odd]) => {
      const numbers = Array.from({ length: 16 }, (_, index) => (odd?.[0] === index ? odd[1] : (digits[index] ?? 0)))
      return `[${numbers.map((value, index) => `{"svn":${value}${named[of][index] ?? ''}}`).join(',')}]`
    })
const advisories = fc.constantFrom('', ',"advisoryIDs":[]', ',"advisoryIDs":["INTEL-SA-00001","INTEL-SA-00002"]')
const status = fc.constantFrom(...tcbStatuses)
const end = fc
  .tuple(status, advisories)
  .map(([name, more]) => `,"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"${name}"${more}}`)
const platformLevel = fc
  .tuple(
    fc.oneof(components, vendorList('sgx')),
    fc.constantFrom(0, 12, 13, 14, 1_000),
    fc.oneof(components, vendorList('tdx')),
    end,
  )
  .map(([sgx, pce, tdx, rest]) => `{"tcb":{"sgxtcbcomponents":${sgx},"pcesvn":${pce},"tdxtcbcomponents":${tdx}}${rest}`)
const moduleLevel = fc.tuple(svn, end).map(([value, rest]) => `{"tcb":{"isvsvn":${value}}${rest}`)
const signerOfModule = `"mrsigner":"${'0'.repeat(96)}","attributes":"${'0'.repeat(16)}","attributesMask":"${'F'.repeat(16)}"`
const moduleIdentity = fc
  .tuple(fc.constantFrom('01', '02', '03', 'FF'), fc.array(moduleLevel, { minLength: 1, maxLength: 3 }))
  .map(([major, levels]) => ({
    major,
    text: `{"id":"TDX_${major}",${signerOfModule},"tcbLevels":[${levels.join(',')}]}`,
  }))
const tcbInfo = fc
  .tuple(
    fc.uniqueArray(moduleIdentity, { selector: ({ major }) => major, maxLength: 3 }),
    fc.array(platformLevel, { minLength: 1, maxLength: 4 }),
  )
  .map(([modules, levels]) => {
    const identities = modules.length > 0 ? `"tdxModuleIdentities":[${modules.map(({ text }) => text).join(',')}],` : ''
    return `{"id":"TDX","version":3,"issueDate":"2026-11-20T00:00:00Z","nextUpdate":"2026-12-20T00:00:00Z","fmspc":"00A55A700000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":18,"tdxModule":{${signerOfModule}},${identities}"tcbLevels":[${levels.join(',')}]}`
  })

type Level = { tcb: Record<string, number | { svn: number }[]>; tcbStatus: string }
const versionLevels = (levels: Level[]) => [
  levels.length,
  ...levels.flatMap(({ tcb, tcbStatus }) => [tcb.isvsvn as number, tcbStatuses.indexOf(tcbStatus as never)]),
]
/** Writes the table of a text as the contracts keep it, from the text as any reader of JSON has it. */
function tableOf(text: string): Hex {
  const { tdxModuleIdentities: modules = [], tcbLevels } = JSON.parse(text) as {
    tdxModuleIdentities?: { id: string; tcbLevels: Level[] }[]
    tcbLevels: Level[]
  }
  return toHex(
    Uint8Array.from([
      modules.length,
      ...modules.flatMap(({ id, tcbLevels }) => [Number.parseInt(id.slice(4), 16), ...versionLevels(tcbLevels)]),
      tcbLevels.length,
      ...tcbLevels.flatMap(({ tcb, tcbStatus }) => [
        ...(tcb.sgxtcbcomponents as { svn: number }[]).map(({ svn }) => svn),
        ...(tcb.tdxtcbcomponents as { svn: number }[]).map(({ svn }) => svn),
        (tcb.pcesvn as number) >> 8,
        (tcb.pcesvn as number) & 0xff,
        tcbStatuses.indexOf(tcbStatus as never),
      ]),
    ]),
  )
}

/** Writes out a packed text, step by step. */
function unpack(packed: Uint8Array): string {
  let all = packingWords
  for (let at = 0; at < packed.length; ) {
    const [first, second, third, fourth] = packed.subarray(at, at + 4) as unknown as [number, number, number, number]
    const [literal, source] = [first >> 3, (third << 8) | fourth]
    all = concat(all, packed.subarray(at + 4, at + 4 + literal))
    all = concat(all, all.subarray(source, source + (((first & 7) << 8) | second)))
    at += 4 + literal
  }
  return fromUtf8(all.subarray(packingWords.length))
}

describe('TCB info on chain', () => {
  let it: Awaited<ReturnType<typeof openRecorded>>
  const quotes = ([4, 5] as const).map((version) => tee.quote(new Uint8Array(64), { version }))
  beforeAll(async () => {
    it = await openRecorded({ now, rootDer: tee.rootDer, reportData: toHex(new Uint8Array(64)) })
    // An older text first, so that those made here are never a step back.
    const older = createDevelopmentTee({ seed, now: () => now - 86_400 }).collateral() as CollateralOf<'tdx'>
    await it.post(quotes[0]!, { ...collateral, tcbInfo: older.tcbInfo, tcbInfoSignature: older.tcbInfoSignature })
  })
  afterAll(async () => {
    await it?.chain.stop()
  })

  const onChain = async (quote: Uint8Array) => {
    try {
      const { status, moduleStatus } = await it.appraise(quote)
      const name = (value: number) => (value === 255 ? null : (tcbStatuses[value] ?? 'NotSupported'))
      return [name(status), name(moduleStatus)]
    } catch (error) {
      return [/Error: (\w+)\(/.exec((error as Error).message)?.[1]]
    }
  }

  test('property: any text of the template gives the levels it lists and the statuses the verifier gives', async () => {
    const seen = new Set<string>()
    await fc.assert(
      fc.asyncProperty(tcbInfo, async (text) => {
        const made = { ...collateral, tcbInfo: text, tcbInfoSignature: sign(text) }
        await it.call(collateralCall('postTcbInfo', made))
        expect(await it.table(quotes[0]!)).toBe(tableOf(text))
        for (const quote of quotes) {
          const verdict = await verifyEvidence({ format: 'tdx', quote }, made, {
            now,
            roots,
            policy: { ...defaultPolicy, tcbStatuses },
          })
          const [found, module] = await onChain(quote)
          const refusal = verdict.refusals[0]?.reason
          seen.add(found ?? 'none')
          if (refusal === 'module_mismatch') expect(found).toBe('ModuleUnknown')
          else if (refusal === 'tcb_status' && verdict.tcbStatus === null) expect(found).toBe('ModuleLevelMissing')
          else expect([found, module]).toEqual([verdict.tcbStatus, verdict.moduleStatus])
        }
      }),
      { numRuns: 60, seed: 20_261_121 },
    )
    // The draw would prove little if it always ended alike.
    expect(seen.size).toBeGreaterThan(5)
  })

  test('refusal: a text one byte away from the template, though signed', async () => {
    const text = collateral.tcbInfo
    const where = Array.from({ length: text.length }, (_, index) => index)
    // Dates, hexadecimal and numbers have other values that are sound, and free text stands in advisories; elsewhere no byte may differ.
    const free = [
      ...text.matchAll(
        /"(?:issueDate|nextUpdate|fmspc|pceId|tcbDate)":"[^"]*"|"advisoryIDs":\[[^\]]*\]|:\d+|TDX_\d\d/g,
      ),
    ]
    const isFree = (index: number) =>
      free.some((match) => index >= match.index && index < match.index + match[0].length)
    for (const index of where.filter((each) => each % 11 === 0 && !isFree(each))) {
      const changed = `${text.slice(0, index)}${text[index] === '!' ? '?' : '!'}${text.slice(index + 1)}`
      const made = { ...collateral, tcbInfo: changed, tcbInfoSignature: sign(changed) }
      await expect(it.call(collateralCall('postTcbInfo', made)), `byte ${index}`).rejects.toThrow('UnexpectedText')
    }
  })

  test('refusal: a packed text with one bit flipped is not signed, not a text, or the same text', async () => {
    const { functionName, args } = decodeFunctionData({
      abi: runnerRegistryAbi,
      data: collateralCall('postTcbInfo', collateral),
    })
    const [signer, packed, r, s] = args as [object, Hex, Hex, Hex]
    const { publicClient, registry: address } = it
    const post = async (bytes: Uint8Array) => {
      const request = { address, abi: runnerRegistryAbi, functionName, args: [signer, toHex(bytes), r, s] }
      return await publicClient.simulateContract(request as never).then(
        () => 'taken',
        (error: Error) => /Error: (\w+)\(/.exec(error.message)?.[1],
      )
    }
    const sound = fromHex(packed)
    expect(await post(sound)).toBe('taken')
    const seen = new Set<string | undefined>()
    for (let bit = 0; bit < sound.length * 8; bit += 5) {
      const flipped = sound.slice()
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      const outcome = await post(flipped)
      seen.add(outcome)
      // What stands twice among the words may be repeated from either place.
      if (outcome === 'taken') expect(unpack(flipped)).toBe(collateral.tcbInfo)
      else expect(['PackedTextMalformed', 'UnexpectedText', 'MalformedTime', 'CollateralNotSigned']).toContain(outcome)
    }
    expect(seen.size).toBeGreaterThan(2)
  })

  test('refusal: a text cut short, or with something after it, though signed', async () => {
    const text = collateral.tcbInfo
    for (const changed of [
      text.slice(0, -1),
      text.slice(0, -2),
      `${text} `,
      `${text}}`,
      text.slice(0, 500),
      '',
      '{}',
    ]) {
      const made = { ...collateral, tcbInfo: changed, tcbInfoSignature: sign(changed) }
      await expect(it.call(collateralCall('postTcbInfo', made))).rejects.toThrow('UnexpectedText')
    }
  })

  test('refusal: more levels than a table has room for', async () => {
    const [before, level] = [
      collateral.tcbInfo.slice(0, -2),
      collateral.tcbInfo.slice(0, -2).split('"tcbLevels":[').at(-1)!,
    ]
    const times = (count: number) => `${before}${`,${level}`.repeat(count)}]}`
    // The development text has two levels, of 35 bytes each in a table of 1,024.
    for (const [count, error] of [
      [13, null],
      [14, 'TableTooLong'],
    ] as const) {
      const text = times(count)
      const posting = it.call(
        collateralCall('postTcbInfo', { ...collateral, tcbInfo: text, tcbInfoSignature: sign(text) }),
      )
      if (error) await expect(posting).rejects.toThrow(error)
      else await posting
    }
  })

  test('refusal: the identity of another enclave, or of another version', async () => {
    for (const [from, to] of [
      ['"id":"TD_QE"', '"id":"QE"'],
      ['"version":2', '"version":1'],
      ['"mrsigner":"', '"mrsigner":"zz'],
    ] as const) {
      const changed = collateral.qeIdentity.replace(from, to)
      const made = { ...collateral, qeIdentity: changed, qeIdentitySignature: sign(changed) }
      await expect(it.call(collateralCall('postQeIdentity', made))).rejects.toThrow('UnexpectedText')
    }
  })
})
