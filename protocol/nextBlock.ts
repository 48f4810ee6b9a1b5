/** Asks a chain as of the block to come, whose clock is now: where nothing happens the newest block is old, and work finished since would seem to lie in the future. A node that knows no such block is asked about its newest. Rejects with what the second asking rejects with. */
export function asOfNextBlock<T>(ask: (blockTag: 'pending' | 'latest') => Promise<T>): Promise<T> {
  return ask('pending').catch(() => ask('latest'))
}
