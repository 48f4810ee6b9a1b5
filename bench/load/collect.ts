/** Loaded into a measured runner before its own code: collects its garbage when it is told to (SIGUSR2). Nothing of a runner asks for this by itself. */

type Collect = (options: { type: 'major'; execution: 'sync'; flavor: 'last-resort' }) => void

const { gc } = globalThis as { gc?: Collect }
if (!gc) throw new Error('Start with --expose-gc.')
// Any other flavor keeps the pages it empties, and what the system counts as resident does not change.
process.on('SIGUSR2', () => gc({ type: 'major', execution: 'sync', flavor: 'last-resort' }))
