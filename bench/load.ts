import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { privateKeyToAccount } from 'viem/accounts'
import { Assay } from '../client/assay.ts'
import { publishModel } from '../client/publish.ts'
import { escrowAbi, testTokenAbi } from '../contracts/abi.ts'
import { developmentKey } from '../dev/keys.ts'
import { type Marketplace, type RunnerProcess, startMarketplace, walletOf } from '../dev/marketplace.ts'
import { createRandom } from '../dev/sample/glyphs.ts'
import { digitTensor, sampleModel } from '../dev/sample/model.ts'
import { settleNow } from '../dev/story.ts'
import { openJournal } from '../gpu-runner/journal.ts'
import { fromHex, type Hex, toHex } from '../protocol/bytes.ts'
import { vendorRoots } from '../protocol/evidence/index.ts'
import { readDevelopmentRoots } from '../protocol/evidence/roots.development.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import type { Row } from './main.ts'

/** Plays a market under load: real Worker, mailboxes, runners, journal and chain, all on this machine. LONG=1 for ten minutes. */

const runners = 10
const channels = 1_000
const buyers = 50
const inFlight = 64
const measureMs = 10_000
const loadMs = process.env.LONG === '1' ? 600_000 : 60_000
const share = 0.8
const deposit = 10_000_000n

const pixels = (seed: number) => digitTensor(seed % 10, seed)

/** Gives what a process holds in memory, in bytes (proc(5), statm: resident pages). */
function residentOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4_096
}

async function fundBuyers({ chain, contracts, rpcUrl }: Marketplace): Promise<void> {
  const wallet = walletOf(developmentKey('buyer'), rpcUrl)
  const common = { account: wallet.account, chain: wallet.chain ?? null }
  let nonce = await chain.publicClient.getTransactionCount({ address: wallet.account.address })
  let last: Hex = await wallet.writeContract({
    ...common,
    address: contracts.token,
    abi: testTokenAbi,
    functionName: 'mint',
    args: [wallet.account.address, deposit * BigInt(buyers)],
    nonce: nonce++,
  })
  await chain.publicClient.waitForTransactionReceipt({ hash: last })
  for (let index = 0; index < buyers; index++) {
    const { address } = privateKeyToAccount(developmentKey(`load buyer ${index}`))
    last = await wallet.writeContract({
      ...common,
      address: contracts.escrow,
      abi: escrowAbi,
      functionName: 'deposit',
      args: [address, deposit],
      nonce: nonce++,
    })
  }
  await chain.publicClient.waitForTransactionReceipt({ hash: last })
}

async function listModel(marketplace: Marketplace, started: RunnerProcess[]): Promise<Hex> {
  const publisher = createSigner(fromHex(developmentKey('publisher'), 32))
  const asked = new Assay({ edge: marketplace.edgeUrl, signer: publisher })
  const { digest } = await publishModel(asked.edge, {
    graph: sampleModel().graph,
    name: 'load',
    version: '1',
    licence: 'Apache-2.0',
    price: 10n,
    royaltyBps: 500,
    signer: publisher,
    network: await asked.network(),
    now: Date.now,
    check: async () => {},
  })
  for (const { controlUrl } of started) await fetch(`${controlUrl}/models`, { method: 'POST' })
  return digest
}

/** Keeps `inFlight` purchases going for a while and gives how many a second were answered: what this machine can do at most. */
async function measureMost(buy: () => Promise<unknown>): Promise<number> {
  const until = performance.now() + measureMs
  let answered = 0
  const one = async () => {
    while (performance.now() < until) {
      await buy()
      answered++
    }
  }
  await Promise.all(Array.from({ length: inFlight }, one))
  return answered / (measureMs / 1_000)
}

/** Offers purchases at a rate, whether or not earlier ones have been answered. Gives waits in milliseconds, sorted, and the errors. */
async function offer(rate: number, forMs: number, buy: () => Promise<unknown>) {
  const waits: number[] = []
  const errors: Error[] = []
  const open = new Set<Promise<void>>()
  const start = performance.now()
  for (let placed = 0; performance.now() - start < forMs; ) {
    const due = ((performance.now() - start) / 1_000) * rate
    for (; placed < due; placed++) {
      const at = performance.now()
      const one: Promise<void> = buy()
        .then(() => void waits.push(performance.now() - at))
        .catch((error: Error) => void errors.push(error))
        .finally(() => open.delete(one))
      open.add(one)
    }
    await sleep(5)
  }
  await Promise.all(open)
  return { waits: waits.sort((a, b) => a - b), errors }
}

/** Adds up what buyers, journals and chain say of every channel, and counts the channels on which they differ. */
async function compareSums({ chain, contracts }: Marketplace, stateDir: string, due: Map<Hex, bigint>) {
  let [differing, received, paid] = [0, 0n, 0n]
  const journals = Array.from({ length: runners }, (_, index) =>
    openJournal(join(stateDir, `runner${index}`, 'journal.sqlite')),
  )
  for (const [channel, total] of due) {
    const id = fromHex(channel, 32)
    const journal = journals.find((each) => each.channel(id) !== null)
    const kept = journal?.channel(id)?.voucher?.cumulative ?? 0n
    const signed = journal?.latest(id)?.receipt.cumulative ?? 0n
    const settled = await chain.publicClient.readContract({
      address: contracts.escrow,
      abi: escrowAbi,
      functionName: 'settled',
      args: [channel],
    })
    received += total
    paid += settled
    if (signed !== total || settled !== total || kept < total) differing++
  }
  for (const journal of journals) journal.close()
  return { differing, received, paid }
}

/** How a runner is started so that it can be told to collect its garbage. */
const collecting = `--expose-gc --import ${pathToFileURL(join(import.meta.dirname, 'load/collect.ts'))}`
/** How long a runner is given to collect, in milliseconds: it takes some tens of them. */
const collectMs = 3_000

/** Runs the load. */
export async function run(): Promise<Row[]> {
  const stateDir = mkdtempSync(join(tmpdir(), 'assay-load-'))
  const marketplace = await startMarketplace({ stateDir, progress: (_, work) => work() })
  try {
    const started: RunnerProcess[] = []
    for (let index = 0; index < runners; index++)
      started.push(await marketplace.startRunner({ name: `runner${index}`, environment: { NODE_OPTIONS: collecting } }))
    const digest = await listModel(marketplace, started)
    await fundBuyers(marketplace)
    const roots = [vendorRoots, readDevelopmentRoots(marketplace.chain.chainId, marketplace.developmentRoot)]
    const signers = Array.from({ length: buyers }, (_, index) =>
      createSigner(fromHex(developmentKey(`load buyer ${index}`), 32)),
    )
    const clients = Array.from(
      { length: channels },
      (_, index) => new Assay({ edge: marketplace.edgeUrl, signer: signers[index % buyers]!, roots }),
    )
    const due = new Map<Hex, bigint>()
    let seed = 0
    const buyFrom = async (client: Assay) => {
      const { receipt } = await client.infer(digest, [pixels(seed++)])
      const channel = toHex(receipt.channel)
      if (receipt.cumulative > (due.get(channel) ?? 0n)) due.set(channel, receipt.cumulative)
    }
    const random = createRandom(5)
    const buy = () => buyFrom(clients[Math.floor(random() * channels)]!)
    // Every channel is opened and attested before anything is timed.
    for (let from = 0; from < channels; from += inFlight)
      await Promise.all(clients.slice(from, from + inFlight).map(buyFrom))

    const most = await measureMost(buy)
    const bytes = () => started.reduce((sum, { child }) => sum + residentOf(child.pid!), 0)
    /** Gives what is resident once garbage is collected: what the runners hold on to. */
    const held = async () => {
      for (const { child } of started) child.kill('SIGUSR2')
      await sleep(collectMs)
      return bytes()
    }
    const heldFirst = await held()
    const warm = await offer(most * share, loadMs / 4, buy)
    const before = bytes()
    const rest = await offer(most * share, (loadMs * 3) / 4, buy)
    const after = bytes()
    const heldLast = await held()
    for (const runner of started) await settleNow(runner)
    const errors = [...warm.errors, ...rest.errors]
    for (const error of errors.slice(0, 3)) process.stderr.write(`load  ${error.name}: ${error.message}\n`)
    const sums = await compareSums(marketplace, stateDir, due)
    const at = (quantile: number) => rest.waits[Math.floor(rest.waits.length * quantile)] ?? 0
    const row = (figure: string, value: number, unit: string, rest: Partial<Row> = {}): Row => ({
      figure,
      value: Number(value.toPrecision(4)),
      unit,
      baseline: null,
      ratio: null,
      bar: null,
      met: null,
      ...rest,
    })
    const none = (figure: string, value: number, unit: string) => row(figure, value, unit, { bar: 0, met: value === 0 })
    return [
      row('runners', runners, 'processes'),
      row('channels', due.size, 'channels'),
      row('most purchases a second, 64 in flight', most, 'per second'),
      row(`offered at ${share * 100} % of it`, most * share, 'per second'),
      row('load', loadMs / 1_000, 's'),
      row('answered', warm.waits.length + rest.waits.length, 'answers'),
      row('median wait', at(0.5), 'ms'),
      row('99th percentile of the wait', at(0.99), 'ms'),
      none('errors, answers that do not verify among them', errors.length, 'errors'),
      none('channels where receipts, journal, vouchers and chain differ', sums.differing, 'channels'),
      none('receipts less what the chain paid', Number(sums.received - sums.paid), 'units'),
      row('memory of the runners, last three quarters of the load', after / 2 ** 20, 'MiB', {
        baseline: before / 2 ** 20,
        ratio: Number((after / before).toFixed(3)),
        bar: 1.1,
        met: after / before <= 1.1,
      }),
      // V8 lets garbage lie while there is memory, so resident memory swings with its collections; what is left after one does not.
      row('what the runners hold on to, after the load; baseline: before it', heldLast / 2 ** 20, 'MiB', {
        baseline: heldFirst / 2 ** 20,
        ratio: Number((heldLast / heldFirst).toFixed(3)),
        bar: 1.1,
        met: heldLast / heldFirst <= 1.1,
      }),
    ]
  } finally {
    await marketplace.stop()
    rmSync(stateDir, { recursive: true, force: true })
  }
}
