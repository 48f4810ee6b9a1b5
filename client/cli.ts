import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import {
  type Account,
  BaseError,
  ContractFunctionZeroDataError,
  createPublicClient,
  createWalletClient,
  defineChain,
  HttpRequestError,
  http,
  InsufficientFundsError,
  type PublicClient,
  TimeoutError,
  type WalletClient,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { type Bundle, verifyBundle } from '../protocol/bundle.ts'
import { EncodingError, fromHex, type Hex, isHexOf } from '../protocol/bytes.ts'
import type { Domain } from '../protocol/eip712.ts'
import {
  type Equivocation,
  type EquivocationJson,
  equivocationFromJson,
  judgeEquivocation,
  receiptTermsFromJson,
  type SignedReceipt,
  type SignedReceiptJson,
  signedReceiptFromJson,
} from '../protocol/equivocation.ts'
import { explainEventLog } from '../protocol/evidence/eventLog.ts'
import {
  type Check,
  defaultPolicy,
  evidencePolicy,
  type Roots,
  type Verdict,
  vendorRoots,
  verifyUnderRoots,
} from '../protocol/evidence/index.ts'
import { remedyFor } from '../protocol/evidence/remedies.ts'
import { localChainIds, readDevelopmentRoots } from '../protocol/evidence/roots.development.ts'
import { Refused } from '../protocol/evidence/verdict.ts'
import { tensorsFromJson, tensorToJson } from '../protocol/oip.ts'
import { OnnxError, readGraph } from '../protocol/onnx/reader.ts'
import { type PublishedVerdict, replayVerdict } from '../protocol/publishedVerdict.ts'
import { receiptToJson } from '../protocol/receipt.ts'
import { createSigner } from '../protocol/secp256k1.ts'
import type { Terms } from '../protocol/terms.ts'
import { Assay } from './assay.ts'
import { ContractRefusedError } from './chainCall.ts'
import { type AccountJson, connectEdge, type Edge, type ModelJson, type Network } from './edge.ts'
import { findEquivocations, wordsFor } from './equivocations.ts'
import { EdgeError, EquivocationError, JobFailedError, VerificationError } from './errors.ts'
import { collectEarnings, depositFromInbox, depositTokens, readBalance } from './escrow.ts'
import { readEventLog, readEvidenceFiles } from './evidence.ts'
import { readExternalFiles } from './externalFiles.ts'
import { grantMandate, revokeMandate } from './mandate.ts'
import { bundleName, createProxy } from './proxy.ts'
import { serve } from './proxyServer.ts'
import { publishModel } from './publish.ts'
import type { Requirements } from './requirements.ts'
import { createRimSigner, verifyRim } from './rim.ts'
import { settleFor } from './settleFor.ts'
import {
  addStake,
  collectSlashes,
  coverReader,
  readStake,
  requestStake,
  type StakedKey,
  slashRunner,
  stakedKeys,
  withdrawStake,
} from './stake.ts'
import { tryModel } from './tryModel.ts'
import { requestWithdrawal, withdrawDeposit } from './withdraw.ts'

const usage = `assay <command> [--json]

  publish <model.onnx> [--name n] [--price p] [--royalty bps] [--card file]   lists a model
  models                                                    lists what is for sale
  runners                                                   lists the machines, their verdicts and their stakes
  buy <model> --input tensors.json [--max-price p] [--min-stake s] [--bundle file] [--on-behalf-of buyer]   buys one verified inference
  proxy [--port 8000] [--model m]... [--max-price p] [--min-stake s] [--budget b] [--keep folder]   serves the Open Inference Protocol here
  verify <bundle.json> [--development-root base64]          checks a kept bundle, offline
  evidence verify <file> [--collateral file]... [--event-log file] [--now unix] [--policy file]   judges a machine's evidence, one row a check
  verdict replay <file or url> [--rim-signer key] [--development-root base64]   judges again what a verifier signed
  rim sign <manifest.xml> --key file [--now unix]           verifies one of NVIDIA's reference manifests and signs its table
  balance [--of publisher|buyer|provider]                   shows money: wallet, deposit, what is reserved for jobs, earnings, stakes
  deposit <amount>                                          deposits for the buyer
  deposit inbox                                             credits what was sent to the buyer's inbox (see balance)
  withdraw [amount]                                         asks an amount of the deposit back; later, without one, takes it out
  mandate <address> --cap n [--channel-cap n] [--days n] [--model m]...   lets another key spend of the deposit, within bounds
  mandate revoke <address>                                  ends that at once
  collect [--of provider|publisher]                         withdraws what was earned
  settle --for <runner> [--minimum amount]                  claims a runner's earnings for its provider, from what its edge kept
  stake show <runner>                                       shows what is staked on a runner's key, what of it vouches for a job bought now, and its provider's other keys with a stake
  stake add <runner> <amount>                               stakes on a runner; it belongs to the runner's provider
  stake request <runner> <amount>                           asks a part back; it can be withdrawn 14 days later, and slashed until then
  stake withdraw <runner>                                   takes it out
  stake collect [--of buyer|provider|publisher]             withdraws what slashes owe
  slash <proof.json> | <bundle.json> [<bundle.json>] [--check]   reports a runner that signed two answers to one job; one bundle is compared with the edge's record

Prices and amounts are in the token's smallest unit. A model is named by digest, owner/name or name.
Settings: ASSAY_EDGE, ASSAY_RPC, ASSAY_KEY, ASSAY_DEVELOPMENT_ROOT, ASSAY_PROXY_TOKEN; without them, the marketplace that \`npm start\` left up.
Exit codes: 0 done or verified, 1 refuted or failed, 2 unknown or wrong usage.

  assay buy digits --input tensors.json --bundle kept.json
  assay verify kept.json
  assay evidence verify quote.bin --collateral collateral.json --now 1751624191
`

/** Reports a command that was typed wrong; ends with exit code 2. */
class UsageError extends Error {
  override name = 'UsageError'
}

type LocalState = { edge: string; rpc: string; chainId: number; developmentRoot: string; keys: Record<string, Hex> }

function readState(): LocalState | null {
  try {
    return JSON.parse(readFileSync(join(import.meta.dirname, '../.assay/state.json'), 'utf8')) as LocalState
  } catch {
    return null
  }
}

const state = readState()

function setting(name: 'ASSAY_EDGE' | 'ASSAY_RPC', local: string | undefined): string {
  const value = process.env[name] ?? local
  if (!value)
    throw new UsageError(
      `No marketplace is up here and ${name} is not set. Run \`npm start\` in another terminal, or set ${name}.`,
    )
  return httpUrl(value, name)
}

function httpUrl(text: string, what: string): string {
  if (!/^https?:\/\//.test(text) || !URL.canParse(text))
    throw new UsageError(`${what} takes an address: http://… or https://….`)
  return text
}

function keyOf(party: string): Hex {
  const key = process.env.ASSAY_KEY ?? state?.keys[party]
  if (!isHexOf(32)(key)) throw new UsageError('Set ASSAY_KEY to a private key: 0x and 64 hex digits.')
  if (!secp256k1.utils.isValidSecretKey(fromHex(key as Hex, 32)))
    throw new UsageError('ASSAY_KEY is no private key: it must be above zero and below the order of secp256k1.')
  return key as Hex
}

const parties = ['publisher', 'buyer', 'provider']

/** Names whose wallet of a local marketplace is meant. With ASSAY_KEY set there is one wallet only. */
function partyOf(of: string | undefined, otherwise: string): string {
  if (of !== undefined && !parties.includes(of)) throw new UsageError(`--of takes one of ${parties.join(', ')}.`)
  return of ?? otherwise
}

function rootsFor(chainId: number, given?: string): Roots[] {
  const development = given ?? process.env.ASSAY_DEVELOPMENT_ROOT ?? state?.developmentRoot
  if (!development) return [vendorRoots]
  try {
    return [vendorRoots, readDevelopmentRoots(chainId, development)]
  } catch (error) {
    if (!(error instanceof EncodingError)) throw error
    throw new UsageError(
      `The development root takes certificates in base64, as \`npm start\` prints them: ${error.message}`,
    )
  }
}

const loopback = ['127.0.0.1', 'localhost', '::1']
const edgeUrl = () => setting('ASSAY_EDGE', state?.edge)
const edge = () => connectEdge(edgeUrl())

/** Asks an edge what signatures are bound to. Throws UsageError where something else answers at its address. */
async function networkOf(connection: Edge): Promise<Network> {
  const network = await connection.json<Partial<Network> | null>('/v1/network')
  const { chainId, escrow, registry, token } = network ?? {}
  const known = [escrow, registry, token].every(isHexOf(20))
  if (!known || !Number.isSafeInteger(chainId))
    throw new UsageError('What answers at ASSAY_EDGE is no edge: it names no contracts.')
  return network as Network
}

function chainOf(chainId: number) {
  const rpc = setting('ASSAY_RPC', state?.rpc)
  return defineChain({
    id: chainId,
    name: 'chain',
    nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpc] } },
  })
}

/** Reads the chain without a key. */
const reader = (chainId: number) =>
  createPublicClient({ chain: chainOf(chainId), transport: http(), pollingInterval: 200 }) as PublicClient

function wallet(party: string, chainId: number) {
  const account = privateKeyToAccount(keyOf(party))
  return {
    publicClient: reader(chainId),
    wallet: createWalletClient({ account, chain: chainOf(chainId), transport: http() }) as WalletClient & {
      account: Account
    },
  }
}

/** Names what a call to the stakes takes, for a party's wallet. */
async function stakesOf(party: string) {
  const { stake, token, chainId, escrow } = await networkOf(edge())
  if (!stake) throw new UsageError('Nobody can stake here: the edge names no contract of stakes.')
  return { access: { ...wallet(party, chainId), contracts: { stake, token } }, domain: { chainId, escrow } }
}

function amount(text: string | undefined, what: string): bigint {
  if (!text || !/^\d{1,38}$/.test(text))
    throw new UsageError(`${what} takes a whole number in the token's smallest unit.`)
  return BigInt(text)
}

/** Reads a whole number that has a bound. */
function numberOf(text: string, what: string, most: number): number {
  const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
  if (!(number <= most)) throw new UsageError(`${what} takes a whole number up to ${most}.`)
  return number
}

function addressOf(text: string | undefined, what: string): Hex {
  if (!isHexOf(20)(text)) throw new UsageError(`${what} takes an address: 0x and 40 hex digits.`)
  return text as Hex
}

/** Makes the SDK for the wallet of ASSAY_KEY, spending another's deposit where that one gave it a mandate. */
function buyerOf(at: string, network: Network, onBehalfOf?: string): Assay {
  const { stake } = network
  return new Assay({
    edge: at,
    signer: createSigner(fromHex(keyOf('buyer'), 32)),
    network,
    roots: rootsFor(network.chainId),
    ...(stake ? { coverOf: (runner, until) => coverReader(reader(network.chainId), stake)(runner, until) } : {}),
    ...(onBehalfOf === undefined ? {} : { onBehalfOf: addressOf(onBehalfOf, '--on-behalf-of') }),
  })
}

function file(path: string | undefined, what: string): Buffer {
  if (!path) throw new UsageError(`Name ${what}.`)
  try {
    return readFileSync(path)
  } catch (error) {
    const why = { ENOENT: 'there is no such file', EISDIR: 'it is a folder', EACCES: 'you may not read it' }
    const { code } = error as { code?: string }
    throw new UsageError(`${path} cannot be read: ${why[code as keyof typeof why] ?? code}. Name another file.`)
  }
}

function json(path: string | undefined, what: string): unknown {
  const bytes = file(path, what)
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    throw new UsageError(`${path} is not JSON.`)
  }
}

/** Reads JSON from a file or from an address of http or https. */
async function readOrFetch(place: string | undefined, what: string): Promise<unknown> {
  if (!place || !/^https?:/.test(place)) return json(place, what)
  const response = await fetch(place, { signal: AbortSignal.timeout(30_000) }).catch(() => null)
  if (!response) throw new UsageError(`${place} cannot be reached.`)
  if (!response.ok) throw new UsageError(`${place} answered ${response.status}.`)
  return response.json().catch(() => {
    throw new UsageError(`${place} gave no JSON.`)
  })
}

const options = {
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
  name: { type: 'string' },
  version: { type: 'string' },
  licence: { type: 'string' },
  price: { type: 'string' },
  royalty: { type: 'string' },
  card: { type: 'string' },
  input: { type: 'string' },
  'max-price': { type: 'string' },
  bundle: { type: 'string' },
  of: { type: 'string' },
  'development-root': { type: 'string' },
  collateral: { type: 'string', multiple: true },
  'event-log': { type: 'string' },
  key: { type: 'string' },
  now: { type: 'string' },
  policy: { type: 'string' },
  for: { type: 'string' },
  minimum: { type: 'string' },
  'rim-signer': { type: 'string' },
  edge: { type: 'string' },
  port: { type: 'string' },
  host: { type: 'string' },
  'allow-host': { type: 'string', multiple: true },
  model: { type: 'string', multiple: true },
  budget: { type: 'string' },
  require: { type: 'string' },
  keep: { type: 'string' },
  'on-behalf-of': { type: 'string' },
  cap: { type: 'string' },
  'channel-cap': { type: 'string' },
  days: { type: 'string' },
  'min-stake': { type: 'string' },
  check: { type: 'boolean' },
} as const

type Values = ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>['values']
type Outcome = { result: unknown; lines: string[]; exit?: number }

const marks = { passed: '✓', failed: '✗', unknown: '?' }

/** Says what a buyer requires of a machine by its flags. */
const requiredBy = (values: Values): Requirements =>
  values['min-stake'] === undefined ? {} : { minStake: amount(values['min-stake'], '--min-stake').toString() }

/** What each command takes besides --json and --help: a flag it does not know would be ignored, and be missed. */
const flags: Record<string, readonly (keyof typeof options)[]> = {
  publish: ['name', 'version', 'licence', 'price', 'royalty', 'card'],
  buy: ['input', 'max-price', 'min-stake', 'bundle', 'on-behalf-of'],
  proxy: [
    ...(['edge', 'port', 'host', 'allow-host', 'model', 'max-price', 'min-stake'] as const),
    ...(['budget', 'require', 'keep', 'on-behalf-of'] as const),
  ],
  verify: ['development-root'],
  'evidence verify': ['collateral', 'event-log', 'now', 'policy', 'development-root'],
  'verdict replay': ['rim-signer', 'development-root'],
  'rim sign': ['key', 'now'],
  balance: ['of'],
  mandate: ['cap', 'channel-cap', 'days', 'model'],
  collect: ['of'],
  settle: ['for', 'minimum'],
  'stake add': ['of'],
  'stake request': ['of'],
  'stake withdraw': ['of'],
  'stake collect': ['of'],
  slash: ['check', 'of'],
}

function checkFlags(command: string, values: Values): void {
  partyOf(values.of, '')
  const known = ['json', 'help', ...(flags[command] ?? [])]
  const foreign = Object.keys(values).filter((name) => !known.includes(name))
  if (foreign.length > 0)
    throw new UsageError(
      `assay ${command} takes no --${foreign.join(', no --')}${known.length > 2 ? `; it takes --${known.slice(2).join(', --')}` : ''}.`,
    )
}

/** Commands that take no word more. */
const takesNone = new Set('models,runners,proxy,balance,collect,settle,deposit inbox,stake collect'.split(','))

/** Commands that take two words more. */
const takesTwo = new Set(['stake add', 'stake request', 'slash'])

type Command = (argument: string | undefined, values: Values, second: string | undefined) => Promise<Outcome>

const commands: Record<string, Command> = {
  async publish(path, values) {
    const royaltyBps = numberOf(values.royalty ?? '1000', '--royalty', 10_000)
    const graph = new Uint8Array(file(path, 'the ONNX file to publish'))
    const connection = edge()
    const price = amount(values.price ?? '1000', '--price')
    const external = readExternalFiles(
      path!,
      readable(`${path} is no ONNX model`, () => readGraph(graph).externalData),
    )
    const model = await publishModel(connection, {
      graph,
      external,
      name: values.name ?? basename(path!, '.onnx').toLowerCase(),
      version: values.version ?? new Date().toISOString().slice(0, 10),
      licence: values.licence ?? 'unstated',
      card: values.card ? file(values.card, 'a card').toString('utf8') : '',
      price,
      royaltyBps,
      signer: createSigner(fromHex(keyOf('publisher'), 32)),
      network: await networkOf(connection),
      now: Date.now,
      check: tryModel,
    })
    return {
      result: model,
      lines: [
        `${model.name} ${model.version} is listed at ${model.listing.price}`,
        model.digest,
        ...external.map((each) => `published with it: ${each.path}, ${each.data.length} bytes`),
        ...(BigInt(model.listing.price) === price
          ? []
          : ['It was listed before, and its price stands. Another price takes another --version.']),
      ],
    }
  },

  async models() {
    const { models } = await edge().json<{ models: ModelJson[] }>('/v1/models?limit=100')
    return {
      result: models,
      lines: models.map(
        ({ digest, owner, name, listing }) => `${digest}  ${listing.price.padStart(8)}  ${owner}/${name}`,
      ),
    }
  },

  async runners() {
    type Row = {
      signer: string
      online: boolean
      models: string[]
      validUntil: string
      verdict: { verdict: string; tee: string; root: string; tcbStatus: string }
      stake: { cover: string; slashed: boolean } | null
    }
    const { runners } = await edge().json<{ runners: Row[] }>('/v1/runners?limit=100')
    const lines = runners.map(
      ({ signer, online, models, verdict, stake }) =>
        `${signer}  ${online ? 'online ' : 'offline'}  ${verdict.verdict} (${verdict.tee}, ${verdict.root} root, ${verdict.tcbStatus})  ${models.length} models${stake ? `  ${stake.slashed ? 'slashed' : `stake ${stake.cover}`}` : ''}`,
    )
    return { result: runners, lines }
  },

  async buy(reference, values) {
    if (!reference) throw new UsageError('Name the model to buy from.')
    const tensors = tensorsFromJson(json(values.input, 'the tensors with --input'))
    const network = await networkOf(edge())
    const buyer = buyerOf(edgeUrl(), network, values['on-behalf-of'])
    const answer = await buyer.infer(reference, tensors, {
      ...(values['max-price'] ? { maxPrice: amount(values['max-price'], '--max-price') } : {}),
      requirements: requiredBy(values),
    })
    if (values.bundle) writeFileSync(values.bundle, `${JSON.stringify(answer.bundle({ reveal: true }), null, 2)}\n`)
    const outputs = answer.outputs.map(tensorToJson)
    const { verdict } = answer
    return {
      result: {
        outputs,
        price: answer.price.toString(),
        runner: answer.runner,
        receipt: receiptToJson(answer.receipt),
        receiptVerified: true,
        verdict,
      },
      lines: [
        ...outputs.map(
          ({ name, shape, data }) => `${name} [${shape.join(', ')}] ${JSON.stringify(data).slice(0, 400)}`,
        ),
        `paid ${answer.price} to runner ${answer.runner}; ${verdict.tee} on a ${verdict.root} root, TCB ${verdict.tcbStatus}; receipt verified`,
      ],
    }
  },

  async proxy(_, values) {
    const port = numberOf(values.port ?? '8000', '--port', 65_535)
    const edgeOf = values.edge ?? edgeUrl()
    const network = await networkOf(connectEdge(edgeOf))
    const { host = '127.0.0.1', keep } = values
    const token = process.env.ASSAY_PROXY_TOKEN
    if (!loopback.includes(host) && !token)
      throw new UsageError(
        `Whoever reaches ${host} can spend your deposit: set ASSAY_PROXY_TOKEN, which callers must show.`,
      )
    if (keep !== undefined) mkdirSync(keep, { recursive: true, mode: 0o700 })
    const proxy = createProxy({
      buyer: buyerOf(edgeOf, network, values['on-behalf-of']),
      models: values.model ?? [],
      hosts: values['allow-host'] ?? [],
      ...(values['max-price'] ? { maxPrice: amount(values['max-price'], '--max-price') } : {}),
      ...(values.budget ? { budget: amount(values.budget, '--budget') } : {}),
      requirements: {
        ...(values.require ? (json(values.require, 'requirements') as Requirements) : {}),
        ...requiredBy(values),
      },
      ...(token ? { token } : {}),
      ...(keep === undefined
        ? {}
        : {
            async keep(inference) {
              const name = bundleName(inference)
              await writeFile(join(keep, name), JSON.stringify(inference.bundle({ reveal: true })), { mode: 0o600 })
              return name
            },
          }),
      log: (line) => process.stderr.write(`${line}\n`),
    })
    const { url, close } = await serve(proxy, { host, port }).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'EADDRINUSE'
        ? new UsageError(`Port ${port} of ${host} is taken. Name another with --port.`)
        : error
    })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, close)
    return {
      result: { url, edge: edgeOf, models: values.model ?? [] },
      lines: [`${url}/v2 answers for ${values.model?.join(', ') ?? 'every model'} at ${edgeOf}; Ctrl-C ends it`],
    }
  },

  async verify(path, values) {
    const bundle = json(path, 'the bundle to verify') as Bundle
    const { verdict, checks } = await verifyBundle(bundle, {
      roots: rootsFor(bundle?.chainId ?? localChainIds[0]!, values['development-root']),
      policy: defaultPolicy,
    })
    return {
      result: { verdict, checks },
      lines: [...checks.map(({ check, status, detail }) => `${marks[status]} ${check}: ${detail}`), verdict],
      exit: { verified: 0, refuted: 1, unknown: 2 }[verdict],
    }
  },

  async 'evidence verify'(path, values) {
    const asked = values.now === undefined ? null : Number(amount(values.now, '--now'))
    const { evidence, collateral, now, rimSigner, ...read } = await readEvidenceFiles(
      file(path, 'the file of evidence to verify'),
      (values.collateral ?? []).map((each) => file(each, 'a file of collateral')),
      asked,
    )
    const at = asked ?? now ?? Math.floor(Date.now() / 1000)
    const policy = { ...evidencePolicy, ...(values.policy ? (json(values.policy, 'a policy') as object) : {}) }
    const rows: Check[] = []
    const roots = rootsFor(localChainIds[0]!, values['development-root']).map((trusted) =>
      rimSigner ? { ...trusted, rimSigners: [...(trusted.rimSigners ?? []), rimSigner] } : trusted,
    )
    const trace = (row: Check) => rows.push(row)
    const verdict = await verifyUnderRoots(evidence, collateral, { now: at, roots, policy, trace })
    const eventLog = values['event-log'] ? await readEventLog(file(values['event-log'], 'an event log')) : read.eventLog
    const explained =
      eventLog && verdict.tee === 'tdx' && measured(verdict)
        ? await explainEventLog(eventLog, measured(verdict)!)
        : null
    verdict.claims.push(...(explained?.claims ?? []))
    const { tee, root, tcbStatus, advisories, measurement, refusals } = verdict
    return {
      result: {
        ...verdict,
        now: at,
        policy: policy.version,
        checks: rows,
        ...(explained ? { eventLog: explained } : {}),
      },
      lines: [
        ...rows.map(checkLine),
        `${verdict.verdict}: ${tee} on a ${root} root as of ${new Date(at * 1000).toISOString()}, TCB ${tcbStatus ?? 'not judged'}${advisories.length > 0 ? ` (${advisories.join(', ')})` : ''}`,
        ...(measurement ? [`workload ${measurement.workload}`] : []),
        ...(explained?.claims.map(
          ({ claim, status, detail }) => `${{ asserted: '✓', refuted: '✗', unknown: '?' }[status]} ${claim}: ${detail}`,
        ) ?? []),
        ...(explained?.facts.map(({ register, name, value }) => `RTMR${register} ${name} = ${value.slice(0, 400)}`) ??
          []),
        ...refusals.flatMap(({ reason, detail }) => [
          `refused: ${reason}: ${detail}`,
          `what to do: ${remedyFor(reason)}`,
        ]),
        ...(collateral
          ? []
          : ["No collateral was given, so nothing was checked: name the vendor's with --collateral."]),
      ],
      exit: { verified: 0, refuted: 1, unknown: 2 }[verdict.verdict],
    }
  },

  async 'verdict replay'(path, values) {
    const published = (await readOrFetch(path, 'the published verdict to replay')) as PublishedVerdict
    const chainId = published?.domain?.chainId ?? localChainIds[0]!
    const trusted = rootsFor(chainId, values['development-root'])
    const rimSigners = values['rim-signer']?.split(',') as Hex[] | undefined
    if (rimSigners?.some((each) => !/^0x04[0-9a-f]{128}$/.test(each)))
      throw new UsageError('--rim-signer takes uncompressed P-256 keys, 0x04 and 128 hex digits, separated by commas.')
    const { verdict, verifier, checks } = await replayVerdict(published, {
      roots: trusted.map((roots) => (rimSigners ? { ...roots, rimSigners } : roots)),
      policy: defaultPolicy,
    })
    return {
      result: { verdict, verifier, checks, attested: published?.attested },
      lines: [
        ...checks.map(({ check, status, detail }) => `${marks[status]} ${check}: ${detail}`),
        `${verdict}: signed by ${verifier ?? 'nobody'}`,
      ],
      exit: { verified: 0, refuted: 1 }[verdict],
    }
  },

  async 'rim sign'(path, values) {
    const xml = file(path, "the manifest from NVIDIA's service").toString('utf8')
    const now = values.now === undefined ? Math.floor(Date.now() / 1000) : Number(amount(values.now, '--now'))
    if (!values.key) throw new UsageError('Name a file with --key; a key is made there where there is none.')
    const { table, signer } = await verifyRim(xml, { now })
    const signed = await (await loadRimSigner(values.key)).sign(table)
    const count = Object.keys(table.measurements).length
    return {
      result: signed,
      lines: [
        `${table.id}: ${count} active measurements, signed by "${signer}", good until ${new Date(table.signerNotAfter * 1000).toISOString()}`,
        JSON.stringify(signed),
      ],
    }
  },

  async balance(_, values) {
    const network = await networkOf(edge())
    const { publicClient, wallet: own } = wallet(partyOf(values.of, 'buyer'), network.chainId)
    const { address } = own.account
    const [held, { reservedFor, earnings, stake, ...account }] = await Promise.all([
      readBalance({ publicClient, contracts: network, address }),
      edge().json<AccountJson>(`/v1/accounts/${address.toLowerCase()}`),
    ])
    const balance = {
      ...account,
      address,
      wallet: held.wallet,
      inbox: held.inbox,
      unsettled: reservedFor?.unsettled ?? null,
      leased: reservedFor?.leased ?? null,
      earnings: earnings.withdrawable,
      undivided: earnings.undivided,
      staked: stake?.amount ?? null,
      stakeRequested: stake?.requested ?? null,
      owedBySlashes: stake?.owedBySlashes ?? null,
    }
    return {
      result: balance,
      lines: Object.entries(balanceWords).map(
        ([name, text]) => `${text.padEnd(44)}${balance[name as keyof typeof balance] ?? '-'}`,
      ),
    }
  },

  async 'stake show'(text) {
    const runner = addressOf(text, 'stake show')
    const connection = edge()
    const { stake, token, chainId } = await networkOf(connection)
    if (!stake) throw new UsageError('Nobody can stake here: the edge names no contract of stakes.')
    const shown = await readStake({ publicClient: reader(chainId), contracts: { stake, token } }, runner)
    const keys = shown.provider ? await stakedKeys(connection, shown.provider) : []
    const others = keys.filter((key) => key.runner !== runner.toLowerCase())
    return { result: { ...shown, others }, lines: [...rowsOf(shown), ...others.flatMap(wordsOfOther)] }
  },

  async 'stake add'(text, values, second) {
    const runner = addressOf(text, 'stake add')
    const value = amount(second, 'stake add <runner> <amount>')
    const { access } = await stakesOf(partyOf(values.of, 'provider'))
    const transaction = await addStake(access, runner, value)
    return {
      result: { transaction, runner, amount: value.toString() },
      lines: [`staked ${value} on ${runner} in ${transaction}`],
    }
  },

  async 'stake request'(text, values, second) {
    const runner = addressOf(text, 'stake request')
    const value = amount(second, 'stake request <runner> <amount>')
    const { access } = await stakesOf(partyOf(values.of, 'provider'))
    const { withdrawableAt } = await requestStake(access, runner, value)
    const from = withdrawableAt?.toISOString() ?? null
    return {
      result: { runner, requested: value.toString(), withdrawableAt: from },
      lines: [
        from
          ? `asked ${value} back; \`assay stake withdraw ${runner}\` takes it out from ${from}`
          : 'nothing is asked back any more',
      ],
    }
  },

  async 'stake withdraw'(text, values) {
    const runner = addressOf(text, 'stake withdraw')
    const { access } = await stakesOf(partyOf(values.of, 'provider'))
    const taken = await withdrawStake(access, runner)
    return { result: { runner, amount: taken.toString() }, lines: [`withdrew ${taken}`] }
  },

  async 'stake collect'(_, values) {
    const { access } = await stakesOf(partyOf(values.of, 'buyer'))
    const taken = await collectSlashes(access)
    return {
      result: { amount: taken.toString() },
      lines: [taken > 0n ? `withdrew ${taken}` : 'no slash owes this address anything'],
    }
  },

  async slash(path, values, other) {
    const { chainId, escrow, stake, token } = await networkOf(edge())
    const domain = { chainId, escrow: escrow.toLowerCase() as Hex }
    const equivocation = await equivocationIn(path, other, domain)
    const judged = judgeEquivocation(domain, equivocation)
    if (!judged.proven) {
      const { reason, detail } = judged.refusal
      return { result: { proven: false, reason, detail }, lines: [`not proven: ${reason}: ${detail}`], exit: 1 }
    }
    const { runner, channel, job, differs } = judged
    const proof = { proven: true, runner, channel, job: job.toString(), differs }
    if (values.check) return { result: proof, lines: [wordsFor(equivocation)] }
    if (!stake) throw new UsageError('Nobody can stake here: the edge names no contract of stakes.')
    const access = { ...wallet(partyOf(values.of, 'buyer'), chainId), contracts: { stake, token } }
    const { transaction, toBuyer, toReporter, burned } = await slashRunner(access, equivocation)
    return {
      result: { ...proof, transaction, toBuyer: `${toBuyer}`, toReporter: `${toReporter}`, burned: `${burned}` },
      lines: [
        `${runner} answered job ${job} of channel ${channel} twice and is slashed in ${transaction}`,
        `${toBuyer} for buyer ${equivocation.terms.buyer}, ${toReporter} for ${access.wallet.account.address}, ${burned} to burn; \`assay stake collect\` withdraws`,
      ],
    }
  },

  async collect(_, values) {
    const network = await networkOf(edge())
    const amount = await collectEarnings({
      ...wallet(partyOf(values.of, 'provider'), network.chainId),
      contracts: network,
    })
    return {
      result: { amount: amount.toString() },
      lines: [amount > 0n ? `withdrew ${amount}` : 'nothing is earned and not withdrawn'],
    }
  },

  async settle(_, values) {
    const minimum = amount(values.minimum ?? '1', '--minimum')
    const runner = values.for?.toLowerCase()
    if (!runner || !/^0x[0-9a-f]{40}$/.test(runner)) throw new UsageError('Name the runner to settle for: --for 0x….')
    const { chainId, escrow } = await networkOf(edge())
    const done = await settleFor({
      edge: edge(),
      ...wallet('buyer', chainId),
      escrow,
      domain: { chainId, escrow: escrow.toLowerCase() as Hex },
      runner: runner as Hex,
      minimum,
    })
    const paid = done.reduce((sum, each) => sum + each.amount, 0n)
    return {
      result: {
        runner,
        paid: paid.toString(),
        channels: done.map((each) => ({ ...each, amount: each.amount.toString() })),
      },
      lines: [
        ...done.map(({ channel, status, amount }) => `${channel} ${status}${amount > 0n ? ` ${amount}` : ''}`),
        `${paid} claimed for the provider of ${runner}, from ${done.length} channels`,
      ],
    }
  },

  async withdraw(text) {
    const asked = text === undefined ? null : amount(text, 'withdraw')
    const network = await networkOf(edge())
    const access = { ...wallet('buyer', network.chainId), contracts: network }
    if (asked === null) {
      const taken = await withdrawDeposit(access)
      return { result: { amount: taken.toString() }, lines: [`withdrew ${taken}`] }
    }
    const { withdrawableAt } = await requestWithdrawal(access, asked)
    const from = withdrawableAt.toISOString()
    return {
      result: { requested: asked.toString(), withdrawableAt: from },
      lines: [`asked ${asked} back; \`assay withdraw\` takes it out from ${from}`],
    }
  },

  async mandate(text, values) {
    const key = addressOf(text, 'mandate')
    const network = await networkOf(edge())
    const access = { ...wallet('buyer', network.chainId), contracts: network }
    const cap = amount(values.cap, '--cap')
    const reader = buyerOf(edgeUrl(), network)
    const mandate = {
      key,
      cap,
      channelCap: values['channel-cap'] === undefined ? cap : amount(values['channel-cap'], '--channel-cap'),
      expiresAt: new Date(Date.now() + numberOf(values.days ?? '1', '--days', 36_500) * 86_400_000),
      models: await Promise.all((values.model ?? []).map(async (each) => (await reader.model(each)).digest)),
    }
    const transaction = await grantMandate(access, mandate)
    const { channelCap, models } = mandate
    const until = mandate.expiresAt.toISOString()
    return {
      result: { transaction, key, cap: cap.toString(), channelCap: channelCap.toString(), until, models },
      lines: [
        `${key} may spend ${cap} of the deposit of ${access.wallet.account.address}, ${channelCap} in one channel, until ${until}, on ${models.join(', ') || 'any model'}`,
      ],
    }
  },

  async 'mandate revoke'(text) {
    const key = addressOf(text, 'mandate revoke')
    const network = await networkOf(edge())
    const transaction = await revokeMandate({ ...wallet('buyer', network.chainId), contracts: network }, key)
    return { result: { transaction, key }, lines: [`${key} may spend nothing any more`] }
  },

  async 'deposit inbox'() {
    const network = await networkOf(edge())
    const amount = await depositFromInbox({ ...wallet('buyer', network.chainId), contracts: network })
    return {
      result: { amount: amount.toString() },
      lines: [amount > 0n ? `deposited ${amount} from the inbox` : 'nothing lies in the inbox'],
    }
  },

  async deposit(text) {
    const value = amount(text, 'deposit')
    const network = await networkOf(edge())
    const hash = await depositTokens({ ...wallet('buyer', network.chainId), contracts: network, amount: value })
    return { result: { transaction: hash, amount: value.toString() }, lines: [`deposited ${value} in ${hash}`] }
  },
}

/** Words the rows of a balance. */
const balanceWords = {
  address: 'address',
  wallet: 'in the wallet',
  deposit: 'deposited',
  available: 'of it, free to spend',
  reserved: 'of it, reserved for jobs',
  unsettled: '  done and not claimed yet',
  leased: '  lent to the mailboxes of runners',
  requested: 'of it, asked back',
  withdrawableAt: '  which can be withdrawn from',
  earnings: 'earned (`assay collect`)',
  undivided: 'earned, in pots to be divided first',
  staked: 'staked on own runners',
  stakeRequested: 'of it, asked back',
  owedBySlashes: 'owed by slashes (`assay stake collect`)',
  inbox: 'tokens sent here can be deposited',
} as const

/** Says what is staked on another key of the same provider, and how it comes away from one that is gone. */
function wordsOfOther({ runner, online, amount, requested }: StakedKey): string[] {
  const found = `also staked         ${amount} on ${runner}, ${online ? 'online' : 'offline'}`
  if (online) return [found]
  return requested === amount
    ? [found, `  asked back; once its date has come: assay stake withdraw ${runner}`]
    : [found, `  to move it to a new key: assay stake request ${runner} ${amount}; 14 days later withdraw, then add`]
}

const rowsOf = (fields: object) => Object.entries(fields).map(([name, value]) => `${name.padEnd(20)}${value ?? '-'}`)

/** Finds two answers to one job: in one file of proof, in two kept bundles, or in one bundle and what the edge shows of its channel. Throws UsageError where there are none. */
async function equivocationIn(
  path: string | undefined,
  other: string | undefined,
  domain: Domain,
): Promise<Equivocation> {
  const kept = json(path, 'a proof, or a kept bundle') as { format?: string } | null
  if (kept?.format === 'assay-equivocation-1')
    return readable(path!, () => equivocationFromJson(kept as EquivocationJson))
  const { terms, first } = receiptIn(kept, path!)
  if (other !== undefined) {
    const { first: second } = receiptIn(json(other, 'the other bundle'), other)
    return { terms, first, second }
  }
  const receipts = new Map([[first.receipt.job, first]])
  const [found] = await findEquivocations(edge(), domain, { terms, receipts })
  if (found) return found
  throw new UsageError(
    `The edge shows no other answer to job ${first.receipt.job} of this channel. If you have one, name its bundle too.`,
  )
}

function receiptIn(kept: unknown, path: string): { terms: Terms; first: SignedReceipt } {
  const { format, terms } = (kept ?? {}) as Partial<Bundle>
  if (format !== 'assay-bundle-1' || !terms)
    throw new UsageError(`${path} is neither a kept bundle (\`assay buy --bundle\`) nor a proof of two answers.`)
  return readable(path, () => ({
    terms: receiptTermsFromJson(terms),
    first: signedReceiptFromJson(kept as SignedReceiptJson),
  }))
}

/** Reads what a file should hold. Throws UsageError, naming the file, where it is malformed. */
function readable<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof EncodingError) throw new UsageError(`${what}: ${error.message}`)
    if (error instanceof OnnxError) throw new UsageError(`${what}: ${error.message} ${error.hint}`)
    throw error
  }
}

/** Gives the four registers that an event log explains, where a verdict has them. */
function measured({ measurement }: Verdict): Uint8Array[] | null {
  const registers = [0, 1, 2, 3].map((index) => measurement?.[`rtmr${index}`])
  return registers.every((value) => value !== undefined) ? registers.map((value) => fromHex(value!)) : null
}

/** Reads the key that signs tables from a file (JWK), or makes one there that only its owner may read. */
async function loadRimSigner(path: string) {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256' }
  if (!existsSync(path)) {
    const made = (await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as CryptoKeyPair
    writeFileSync(path, JSON.stringify(await crypto.subtle.exportKey('jwk', made.privateKey)), {
      mode: 0o600,
      flag: 'wx',
    })
  }
  const jwk = json(path, 'the key that signs tables') as JsonWebKey
  const { d: _, ...publicHalf } = jwk
  try {
    return await createRimSigner({
      privateKey: await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign']),
      publicKey: await crypto.subtle.importKey('jwk', { ...publicHalf, key_ops: ['verify'] }, algorithm, true, [
        'verify',
      ]),
    })
  } catch {
    throw new UsageError(`${path} is not a private P-256 key (JWK).`)
  }
}

function checkLine({ check, status, compared, with: against, from, detail }: Check): string {
  return `${marks[status]} ${check}: ${compared} with ${against} (from ${from})${detail && status !== 'passed' ? `: ${detail}` : ''}`
}

type Miss = { reason: string; wanted: unknown; has: unknown }
type NoMatch = { reasons?: { reason: string; count: number }[]; nearest?: { signer?: string; misses?: Miss[] } | null }

/** Words why no runner matched: how many miss what, and what the nearest one misses. */
function missesIn({ code, details }: EdgeError): string[] {
  if (code !== 'no_match') return []
  const { reasons = [], nearest } = details as NoMatch
  const counted = reasons.map(({ reason, count }) => `${count} refused for ${reason}`)
  const misses = nearest?.misses?.map(
    ({ reason, wanted, has }) => `the nearest, ${nearest.signer}, has ${reason} ${has}; ${wanted} was required`,
  )
  return [...counted, ...(misses ?? [])]
}

const reasonsIn = ({ code, details }: EdgeError) =>
  code === 'no_match' ? { reasons: details.reasons, nearest: details.nearest } : {}

type Told = {
  code: string
  message: string
  exit: number
  proof?: EquivocationJson
  reasons?: unknown
  nearest?: unknown
}

function explain(error: unknown): Told {
  if (error instanceof UsageError) return { code: 'usage', message: error.message, exit: 2 }
  if (error instanceof Refused) return { code: error.refusal.reason, message: error.message, exit: 1 }
  if (error instanceof VerificationError) return { code: error.reason, message: error.message, exit: 1 }
  if (error instanceof EquivocationError)
    return { code: error.reason, message: error.message, exit: 1, proof: error.proof }
  if (error instanceof EdgeError)
    return { code: error.code, message: [error.message, ...missesIn(error)].join('\n'), exit: 1, ...reasonsIn(error) }
  if (error instanceof JobFailedError)
    return { code: 'job_failed', message: `${error.message} Nothing was charged.`, exit: 1 }
  if (error instanceof ContractRefusedError) return { code: error.reason, message: error.message, exit: 1 }
  // What viem says in full names the address of the node, which may hold a key.
  if (error instanceof BaseError) return chainTrouble(error)
  if (error instanceof EncodingError || error instanceof Error)
    return { code: 'failed', message: error.message, exit: 1 }
  return { code: 'failed', message: String(error), exit: 1 }
}

/** Words what the chain's node did, or why the wallet cannot send. */
function chainTrouble(error: BaseError): { code: string; message: string; exit: number } {
  const away = error.walk((cause) => cause instanceof HttpRequestError || cause instanceof TimeoutError)
  if (away)
    return {
      code: 'chain_away',
      message: 'The node at ASSAY_RPC does not answer. Is it up, and the address right?',
      exit: 1,
    }
  if (error.walk((cause) => cause instanceof InsufficientFundsError))
    return { code: 'no_gas', message: "The wallet cannot pay for gas: send it some of the chain's own coin.", exit: 1 }
  if (error.walk((cause) => cause instanceof ContractFunctionZeroDataError))
    return {
      code: 'no_contract',
      message: 'There is no such contract at the node at ASSAY_RPC: it is of another chain than the edge, or behind.',
      exit: 1,
    }
  return { code: 'failed', message: error.shortMessage, exit: 1 }
}

let asJson = process.argv.includes('--json')
try {
  let parsed: { values: Values; positionals: string[] }
  try {
    parsed = parseArgs({ options, allowPositionals: true })
  } catch (error) {
    throw new UsageError(`${(error as Error).message.split('. ')[0]}. \`assay --help\` lists what there is.`)
  }
  const words = parsed.positionals
  const wordsOfCommand = words.length > 1 && `${words[0]} ${words[1]}` in commands ? 2 : 1
  const command = words.length === 0 ? undefined : words.slice(0, wordsOfCommand).join(' ')
  const [argument, second] = words.slice(wordsOfCommand)
  asJson = parsed.values.json ?? false
  if (parsed.values.help) {
    process.stdout.write(usage)
    process.exit(0)
  }
  const run = command === undefined ? undefined : commands[command]
  const most = takesTwo.has(command!) ? 2 : takesNone.has(command!) ? 0 : 1
  if (!run || words.length - wordsOfCommand > most)
    throw new UsageError(
      `${command ? `"${parsed.positionals.join(' ')}" is not a command.` : 'Name a command.'}\n\n${usage}`,
    )
  checkFlags(command!, parsed.values)
  const { result, lines, exit = 0 } = await run(argument, parsed.values, second)
  process.stdout.write(asJson ? `${JSON.stringify(result)}\n` : `${lines.join('\n')}\n`)
  process.exitCode = exit
} catch (error) {
  const { exit, ...told } = explain(error)
  const { message } = told
  if (asJson) process.stdout.write(`${JSON.stringify({ error: told })}\n`)
  process.stderr.write(`${message}\n`)
  process.exitCode = exit
}
