import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { developmentKey } from './keys.ts'
import { takeLock } from './lock.ts'
import { type LocalState, type Marketplace, startMarketplace } from './marketplace.ts'
import { readOffer } from './offer.ts'
import { createProgress, type Progress, StepError } from './progress.ts'
import { sellOne } from './story.ts'

const usage = `Usage: npm start -- [--once] [--json] [--model model.onnx --input tensors.json] [--state folder]

  --once    sells one inference and leaves nothing running
  --json    prints the facts as one JSON object on the last line
  --model   sells this ONNX model instead of the sample; needs --input
  --input   tensors as { "inputs": [{ "name", "shape", "datatype", "data" }] }
  --state   keeps state here instead of in .assay
`

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        once: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        model: { type: 'string' },
        input: { type: 'string' },
        state: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      process.stdout.write(usage)
      process.exit(0)
    }
    if ((values.model === undefined) !== (values.input === undefined))
      throw new Error('--model and --input belong together.')
    return values
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usage}`)
    process.exit(2)
  }
}

const options = readArguments()
const home = options.state ?? join(import.meta.dirname, '../.assay')
// A single sale keeps nothing, so that it neither disturbs nor depends on a marketplace that is up.
const stateDir = options.once ? join(home, `once-${process.pid}`) : home
const { progress, timings } = createProgress((text) => process.stderr.write(text))

let marketplace: Marketplace | undefined
let release: () => void = () => {}
let ending: Promise<void> | undefined

function end(): Promise<void> {
  ending ??= (async () => {
    await marketplace?.stop()
    release()
    if (options.once) rmSync(stateDir, { recursive: true, force: true })
    else rmSync(join(home, 'state.json'), { force: true })
  })()
  return ending
}

/** Makes this the only one to hear Ctrl-C: the database's and the Worker runtime's packages each bring a hook that ends the process while the rest still runs. */
function takeSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.removeAllListeners(signal)
    process.on(signal, () => {
      if (!ending) process.stderr.write('assay  stopping …\n')
      end().then(() => process.exit(options.once ? 1 : 0))
    })
  }
}
const step: Progress = async (name, work) => {
  const result = await progress(name, work)
  takeSignals()
  return result
}
takeSignals()

function tell(story: Awaited<ReturnType<typeof sellOne>>): void {
  const { verdict, settled, receipt } = story
  const lines = [
    ['model', story.modelDigest],
    ['runner', story.runner],
    ['verdict', `${verdict.verdict}: ${verdict.tee} quote on a ${verdict.root} root, TCB ${verdict.tcbStatus}`],
    ['workload', verdict.workload ?? ''],
    ['price', `${receipt.price} (running total ${receipt.cumulative})`],
    ['output', JSON.stringify(story.output).slice(0, 200)],
    ['receipt', `job ${receipt.job} of channel ${receipt.channel.slice(0, 18)}…, verified`],
    ['paid', `provider ${settled.provider}, publisher ${settled.publisher}, fee ${settled.fee}`],
    ['transaction', `${settled.tx} (${settled.gasUsed} gas)`],
  ]
  process.stdout.write(`\n${lines.map(([name, value]) => `  ${name!.padEnd(12)}${value}`).join('\n')}\n`)
  if (verdict.root === 'development')
    process.stdout.write('\n  The TEE is simulated: this verdict stands on a development root that anyone can forge.\n')
}

try {
  const offer = await step('preparing model', async () => readOffer(options.model, options.input))
  mkdirSync(stateDir, { recursive: true })
  release = takeLock(join(stateDir, 'lock'))
  const started = await startMarketplace({ stateDir, progress: step })
  marketplace = started
  const runner = await step('attesting runner', () => started.startRunner())
  const story = await sellOne(started, runner, offer, step)
  if (!options.json) tell(story)
  writeFileSync(join(home, 'bundle.json'), `${JSON.stringify(story.bundle, null, 2)}\n`)
  if (options.once) await end()
  if (options.json) {
    const { bundle: _, ...facts } = story
    process.stdout.write(`${JSON.stringify({ ...facts, timings })}\n`)
  }
  if (options.once) process.exit(0)

  const state: LocalState = {
    edge: started.edgeUrl,
    rpc: started.rpcUrl,
    chainId: started.chain.chainId,
    contracts: started.contracts,
    developmentRoot: started.developmentRoot,
    keys: {
      publisher: developmentKey('publisher'),
      buyer: developmentKey('buyer'),
      provider: developmentKey('provider'),
    },
  }
  writeFileSync(join(home, 'state.json'), `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 })
  process.stderr.write(
    `\nassay  up: edge ${started.edgeUrl}, chain ${started.rpcUrl}. Try \`npx assay models\`. Ctrl-C stops everything.\n`,
  )
  runner.child.once('exit', () => {
    if (!ending) process.stderr.write('assay  the runner has ended; run npm start again to bring it back.\n')
  })
} catch (error) {
  const failure = error instanceof StepError ? error : new StepError('start', error)
  process.stderr.write(`assay  ${failure.message}\n`)
  await end()
  if (options.json) process.stdout.write(`${JSON.stringify({ error: failure.message, step: failure.step, timings })}\n`)
  process.exit(1)
}
