import { closeSync, constants, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { access, statfs } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'
import { isHexOf } from '../protocol/bytes.ts'
import { type Config, readConfig } from './config.ts'
import type { Provider } from './engine/providers.ts'

/** What a check came to: well, working but worse than it should, or not working; unknown when it could not be looked at. */
export type Health = 'good' | 'poor' | 'bad' | 'unknown'

/** Holds one finding about this machine, and what to do about it. */
export type Finding = { check: string; health: Health; detail: string; hint?: string }

/** Holds what a doctor looks through; clock in milliseconds. */
export type DoctorDeps = {
  environment: Record<string, string | undefined>
  fetch: (url: string, init?: RequestInit) => Promise<Response>
  now: () => number
  nodeVersion: string
  /** Lists the execution providers the runtime has, from a process of its own. */
  providers: () => Promise<string[]>
  /** Tries one device of a provider, by number; gives null, or what the runtime says is missing. */
  tryDevice: (provider: Provider, device: number) => Promise<string | null>
  /** Tells whether libsecp256k1's prebuilt binary loads. */
  nativeSigner: boolean
  /** Gives the address of a key. */
  addressOf: (key: string) => string
  exists: (path: string) => Promise<boolean>
}

/** Tells whether a path can be reached by this process. */
export const reachable = (path: string): Promise<boolean> =>
  access(path, constants.F_OK).then(
    () => true,
    () => false,
  )

const good = (check: string, detail: string): Finding => ({ check, health: 'good', detail })
const finding = (check: string, health: Health, detail: string, hint: string): Finding => ({
  check,
  health,
  detail,
  hint,
})
const messageOf = (error: unknown) => (error instanceof Error ? (error.message.split('\n')[0] ?? 'failed') : 'failed')

const checkNode = ({ nodeVersion }: DoctorDeps): Finding =>
  Number(nodeVersion.slice(1).split('.')[0]) >= 24
    ? good('node', nodeVersion)
    : finding('node', 'bad', nodeVersion, 'Run it on Node 24 or newer.')

function checkMachine(): Finding {
  const [first] = cpus()
  const gibibytes = totalmem() / 2 ** 30
  const detail = `${cpus().length} cores, ${first?.model ?? 'unknown CPU'}, ${gibibytes.toFixed(1)} GiB of memory`
  return gibibytes >= 2
    ? good('machine', detail)
    : finding('machine', 'poor', detail, 'Models and their answers need room: 2 GiB at least.')
}

function checkConfig({ environment }: DoctorDeps): Finding {
  try {
    readConfig(environment)
    return good('settings', 'complete')
  } catch (error) {
    return finding('settings', 'bad', messageOf(error), 'Set what is named; docs/runner.md lists every variable.')
  }
}

async function checkProviders({ environment, providers }: DoctorDeps): Promise<Finding> {
  const wanted = environment.ASSAY_PROVIDER ?? 'cpu'
  try {
    const found = await providers()
    return found.includes(wanted)
      ? good('onnxruntime', `runs on ${found.join(', ')}; ${wanted} is used`)
      : finding(
          'onnxruntime',
          'bad',
          `runs on ${found.join(', ')}, not ${wanted}`,
          'Set ASSAY_PROVIDER to one of these.',
        )
  } catch (error) {
    return finding('onnxruntime', 'bad', messageOf(error), 'Install the dependencies again with `npm ci`.')
  }
}

/** Tries each device that is to run models; nothing to say where none is named. What the settings say wrongly is told with them. */
async function checkDevices({ environment, tryDevice }: DoctorDeps): Promise<Finding[]> {
  if (environment.ASSAY_DEVICES === undefined) return []
  let config: Config
  try {
    config = readConfig(environment)
  } catch {
    return [finding('devices', 'unknown', 'not looked at', 'Complete the settings first.')]
  }
  const { ASSAY_DEVICES: devices = [], ASSAY_PROVIDER: provider } = config
  const complaints = await Promise.all(devices.map((device) => tryDevice(provider, device)))
  const broken = devices.filter((_, index) => complaints[index] !== null)
  return broken.length === 0
    ? [good('devices', `${provider} runs on ${devices.join(', ')}: an executor on each`)]
    : [
        finding(
          'devices',
          'bad',
          `${provider} does not run on ${broken.join(', ')}: ${complaints.find((complaint) => complaint !== null)}`,
          'Name in ASSAY_DEVICES only devices that are here; their numbers begin at 0.',
        ),
      ]
}

const checkSigner = ({ nativeSigner }: DoctorDeps): Finding =>
  nativeSigner
    ? good('signing', 'libsecp256k1')
    : finding(
        'signing',
        'poor',
        'portable JavaScript, twenty times slower',
        'The prebuilt binary of secp256k1 does not load here.',
      )

/** Where each kind of TEE gives evidence to a guest. */
const evidencePaths: Record<string, string> = {
  tdx: '/sys/kernel/config/tsm/report',
  snp: '/sys/kernel/config/tsm/report',
  dstack: '/var/run/dstack.sock',
}

const teePaths = [...new Set(Object.values(evidencePaths)), '/dev/tdx_guest', '/dev/sev-guest', '/dev/nsm']

async function checkTee({ environment, exists }: DoctorDeps): Promise<Finding> {
  const kind = environment.ASSAY_TEE ?? 'tdx'
  const present: string[] = []
  for (const path of teePaths) if (await exists(path)) present.push(path)
  const seen = present.length > 0 ? `sees ${present.join(', ')}` : 'no device of a TEE is here'
  if (kind === 'development')
    return finding('tee', 'poor', `the development TEE, which proves nothing; ${seen}`, 'For local chains only.')
  const needed = evidencePaths[kind]
  if (!needed) return finding('tee', 'bad', `"${kind}" is no kind of TEE`, 'Set ASSAY_TEE.')
  return present.includes(needed)
    ? good('tee', `${kind}: ${seen}`)
    : finding('tee', 'bad', `${kind} needs ${needed}; ${seen}`, 'Run inside a confidential virtual machine.')
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Measures how long the disk takes to keep what a batch of 64 jobs leaves, in milliseconds: the median of 20. */
function syncMs(folder: string): number {
  const own = mkdtempSync(join(folder, 'doctor-'))
  const file = openSync(join(own, 'probe'), 'w')
  try {
    const batch = new Uint8Array(48_000)
    return median(
      Array.from({ length: 20 }, () => {
        const started = performance.now()
        writeSync(file, batch)
        fdatasyncSync(file)
        return performance.now() - started
      }),
    )
  } finally {
    closeSync(file)
    rmSync(own, { recursive: true, force: true })
  }
}

async function checkDisk({ environment, exists }: DoctorDeps): Promise<Finding> {
  const folder = environment.ASSAY_STATE
  if (!folder) return finding('disk', 'unknown', 'no state folder is set', 'Set ASSAY_STATE.')
  if (!(await exists(folder))) return finding('disk', 'unknown', 'the state folder is not there yet', 'Create it.')
  try {
    const ms = syncMs(folder)
    const { bavail, bsize } = await statfs(folder)
    const free = (bavail * bsize) / 2 ** 30
    const detail = `a batch is safe after ${ms.toFixed(2)} ms; ${free.toFixed(1)} GiB free`
    if (free < 1) return finding('disk', 'bad', detail, 'Make room: a full disk takes no job.')
    return ms <= 5
      ? good('disk', detail)
      : finding('disk', 'poor', detail, 'Each answer waits that long: use a local SSD for the state folder.')
  } catch (error) {
    return finding('disk', 'bad', messageOf(error), 'The state folder must be writable.')
  }
}

type Network = { chainId: number }

async function checkEdge({ environment, fetch, now }: DoctorDeps): Promise<{ found: Finding; network?: Network }> {
  const url = environment.ASSAY_EDGE
  if (!url) return { found: finding('edge', 'unknown', 'no edge is set', 'Set ASSAY_EDGE.') }
  const started = now()
  try {
    const response = await fetch(`${url}/v1/network`, { signal: AbortSignal.timeout(10_000) })
    if (!response.ok)
      return { found: finding('edge', 'bad', `answered ${response.status}`, 'Is ASSAY_EDGE the address of an edge?') }
    const network = (await response.json()) as Network
    return { found: good('edge', `answered in ${now() - started} ms, chain ${network.chainId}`), network }
  } catch (error) {
    return { found: finding('edge', 'bad', messageOf(error), 'The edge cannot be reached from here.') }
  }
}

async function call(deps: DoctorDeps, method: string, params: unknown[]): Promise<unknown> {
  const response = await deps.fetch(deps.environment.ASSAY_RPC!, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
    signal: AbortSignal.timeout(10_000),
  })
  const { result, error } = (await response.json()) as { result?: unknown; error?: { message: string } }
  if (error) throw new Error(error.message)
  return result
}

/** A statement made by a clock further off than this may be refused as stale, in seconds. */
const skewAllowed = 60

async function checkChain(deps: DoctorDeps, network: Network | undefined): Promise<Finding[]> {
  if (!deps.environment.ASSAY_RPC) return [finding('chain', 'unknown', 'no node is set', 'Set ASSAY_RPC.')]
  try {
    const chainId = Number(await call(deps, 'eth_chainId', []))
    const block = (await call(deps, 'eth_getBlockByNumber', ['latest', false])) as { timestamp: string }
    const ahead = Math.round(deps.now() / 1000) - Number(block.timestamp)
    const right = network === undefined || network.chainId === chainId
    return [
      right
        ? good('chain', `chain ${chainId}`)
        : finding('chain', 'bad', `the node is of chain ${chainId}, the edge of ${network.chainId}`, 'Set ASSAY_RPC.'),
      Math.abs(ahead) <= skewAllowed
        ? good('clock', `${ahead} s ahead of the newest block`)
        : finding('clock', 'poor', `${ahead} s ahead of the newest block`, 'Synchronise the clock, or the node lags.'),
      await checkBalance(deps),
    ]
  } catch (error) {
    return [finding('chain', 'bad', messageOf(error), 'The node at ASSAY_RPC does not answer.')]
  }
}

async function checkBalance(deps: DoctorDeps): Promise<Finding> {
  const key = deps.environment.ASSAY_PROVIDER_KEY
  if (!isHexOf(32)(key)) return finding('gas', 'unknown', 'no provider key is set', 'Set ASSAY_PROVIDER_KEY.')
  const address = deps.addressOf(key)
  const ether = Number(BigInt((await call(deps, 'eth_getBalance', [address, 'latest'])) as string)) / 1e18
  const detail = `${address} holds ${ether.toFixed(4)} of the chain's coin`
  return ether > 0
    ? good('gas', detail)
    : finding('gas', 'bad', detail, 'Registering and claiming cost gas: send the key some.')
}

/** Looks at everything a runner needs of this machine and its surroundings; never throws, and names no secret. */
export async function examine(deps: DoctorDeps): Promise<Finding[]> {
  const edge = await checkEdge(deps)
  return [
    checkNode(deps),
    checkMachine(),
    checkConfig(deps),
    await checkProviders(deps),
    ...(await checkDevices(deps)),
    checkSigner(deps),
    await checkTee(deps),
    await checkDisk(deps),
    edge.found,
    ...(await checkChain(deps, edge.network)),
  ]
}

/** Shows findings to a person, the hint under each that has one. */
export function showFindings(findings: readonly Finding[]): string {
  return findings
    .map(({ check, health, detail, hint }) => {
      const line = `${health.padEnd(8)}${check.padEnd(13)}${detail}`
      return hint && health !== 'good' ? `${line}\n${' '.repeat(21)}${hint}` : line
    })
    .join('\n')
}
