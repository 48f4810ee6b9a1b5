import { describe, expect, test } from 'vitest'
import { checkRequirements, type Requirements } from '../../client/requirements.ts'
import type { Verdict } from '../../protocol/evidence/verdict.ts'

const workload = `0x${'cc'.repeat(32)}` as const
const verdict: Verdict = {
  verdict: 'verified',
  tee: 'tdx',
  root: 'vendor',
  tcbStatus: 'SWHardeningNeeded',
  moduleStatus: null,
  qeStatus: null,
  advisories: [],
  measurement: { workload },
  reportData: null,
  debug: false,
  validUntil: 0,
  claims: [{ claim: 'gpu_attested', status: 'unknown', source: 'hardware', detail: '' }],
  refusals: [],
}

describe('checkRequirements', () => {
  test('a machine that meets them, and none at all', () => {
    checkRequirements(verdict, {})
    checkRequirements(verdict, { tee: 'tdx', tcbStatus: 'OutOfDate', measurement: workload, gpuAttested: false })
  })
  const lies: [string, Requirements, Partial<Verdict>?][] = [
    ['another TEE', { tee: 'snp' }],
    ['a worse TCB status', { tcbStatus: 'UpToDate' }],
    ['a TCB status that is not known', { tcbStatus: 'Revoked' }, { tcbStatus: null }],
    ['another workload', { measurement: `0x${'dd'.repeat(32)}` }],
    ['a workload that is not known', { measurement: workload }, { measurement: null }],
    ['a GPU nobody checked', { gpuAttested: true }],
    ['a GPU nobody mentions', { gpuAttested: true }, { claims: [] }],
  ]
  test.each(lies)('attack: the edge chose %s', (_, required, over = {}) => {
    expect(() => checkRequirements({ ...verdict, ...over }, required)).toThrow(
      expect.objectContaining({ reason: 'requirements_unmet' }),
    )
  })
})
