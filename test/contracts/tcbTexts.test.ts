import { p256 } from '@noble/curves/nist.js'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { collateralCall } from '../../gpu-runner/registrar.ts'
import { createDevelopmentTee } from '../../gpu-runner/tee/development.ts'
import { concat, toHex, utf8 } from '../../protocol/bytes.ts'
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
const advisories = fc.constantFrom('', ',"advisoryIDs":[]', ',"advisoryIDs":["INTEL-SA-00001","INTEL-SA-00002"]')
const status = fc.constantFrom(...tcbStatuses)
const end = fc
  .tuple(status, advisories)
  .map(([name, more]) => `,"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"${name}"${more}}`)
const platformLevel = fc
  .tuple(components, fc.constantFrom(0, 12, 13, 14, 1_000), components, end)
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

  test('property: any text of the template gives the statuses the verifier gives', async () => {
    const seen = new Set<string>()
    await fc.assert(
      fc.asyncProperty(tcbInfo, async (text) => {
        const made = { ...collateral, tcbInfo: text, tcbInfoSignature: sign(text) }
        await it.call(collateralCall('postTcbInfo', made))
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
