import type { AddressInfo } from 'node:net'
import { afterAll, describe, expect, test } from 'vitest'
import { WebSocketServer } from 'ws'
import { type Link, openLink } from '../../gpu-runner/link.ts'

describe('openLink', () => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  const links: Link[] = []
  afterAll(() => {
    for (const link of links) link.close()
    server.close()
  })

  const told = (word: string) =>
    new Promise<Record<string, unknown>>((resolve) => {
      server.once('connection', (socket) => socket.close(4003, word))
      links.push(
        openLink({
          url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
          authorization: async () => ({}),
          hello: () => ({ models: [], capacity: 1 }),
          load: () => ({ queued: 0, capacity: 1 }),
          handle: () => {},
          log: (event, fields = {}) => {
            if (event !== 'link_evicted') return
            // It would come back at once, and take the next test's connection.
            links.pop()!.close()
            resolve(fields)
          },
          random: () => 1,
        }),
      )
    })

  test('behavior: a runner whose platform fell is told why and what to do', async () => {
    const word = 'tcb_status: Platform status OutOfDate is not accepted (INTEL-SA-00001).'
    expect(await told(word)).toEqual({ why: word, whatToDo: expect.stringContaining('Update firmware') })
  })

  test('behavior: a closing word of another edge still says what to do', async () => {
    expect(await told('constructor: odd')).toEqual({ why: 'constructor: odd', whatToDo: 'Attest again.' })
  })
})
