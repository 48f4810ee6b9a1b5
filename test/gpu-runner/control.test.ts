import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { type ControlDeps, createControl, readinessOf } from '../../gpu-runner/control.ts'

const well = { draining: false, connected: true, models: 1, validUntil: 200, now: 100, journalFailing: false }

describe('readinessOf', () => {
  test('behavior: ready when nothing speaks against it', () => {
    expect(readinessOf(well)).toEqual({ ready: true, reasons: [] })
  })

  test.each([
    [{ draining: true }, 'draining'],
    [{ connected: false }, 'not connected to the edge'],
    [{ models: 0 }, 'serves no model'],
    [{ now: 200 }, 'its attestation has run out'],
    [{ journalFailing: true }, 'its journal cannot be written'],
  ])('refusal: %o', (change, reason) => {
    expect(readinessOf({ ...well, ...change })).toEqual({ ready: false, reasons: [reason] })
  })
})

describe('createControl', () => {
  const close: (() => void)[] = []
  afterEach(() => {
    for (const each of close.splice(0)) each()
  })

  async function open(change: Partial<ControlDeps> = {}) {
    const logged: string[] = []
    const server = createControl({
      status: () => ({ state: 'ready' }),
      readiness: () => ({ ready: false, reasons: ['draining'] }),
      metrics: () => 'up 1\n',
      settle: async () => ({ channels: 0 }),
      admit: async () => ({ models: [] }),
      drain: () => ({ inFlight: 3 }),
      log: (event) => void logged.push(event),
      ...change,
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    close.push(() => server.close())
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return { ask: (method: string, path: string) => fetch(url + path, { method }), logged }
  }

  test('behavior: tells a load balancer no while not ready, and Prometheus what it counts', async () => {
    const { ask } = await open()
    const ready = await ask('GET', '/ready')
    expect([ready.status, await ready.json()]).toEqual([503, { ready: false, reasons: ['draining'] }])
    const metrics = await ask('GET', '/metrics')
    expect([metrics.headers.get('content-type'), await metrics.text()]).toEqual([
      'text/plain; version=0.0.4; charset=utf-8',
      'up 1\n',
    ])
    expect(await (await ask('POST', '/drain')).json()).toEqual({ draining: true, inFlight: 3 })
  })

  test('refusal: another path names those there are; a failure is told and logged', async () => {
    const { ask, logged } = await open({ settle: async () => Promise.reject(new Error('The chain is away.')) })
    const lost = await ask('GET', '/settle')
    expect([lost.status, ((await lost.json()) as { error: string }).error]).toEqual([
      404,
      expect.stringContaining('POST /settle'),
    ])
    const failed = await ask('POST', '/settle')
    expect([failed.status, await failed.json()]).toEqual([500, { error: 'The chain is away.' }])
    expect(logged).toEqual(['control_failed'])
  })
})
