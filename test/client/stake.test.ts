import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stakeAbi, testTokenAbi } from '../../contracts/abi.ts'
import { developmentKey } from '../../dev/keys.ts'
import { booksReader } from '../../functions/services/chainReader.ts'
import { reconcile } from '../../functions/services/reconcile.ts'
import { type Database, openDatabase } from '../../functions/store/database.ts'
import { toHex } from '../../protocol/bytes.ts'
import {
  type Equivocation,
  equivocationToJson,
  judgeEquivocation,
  type SignedReceipt,
  signedReceiptToJson,
} from '../../protocol/equivocation.ts'
import { sha256 } from '../../protocol/hash.ts'
import type { Receipt } from '../../protocol/receipt.ts'
import type { Signer } from '../../protocol/secp256k1.ts'
import { type Terms, termsToJson } from '../../protocol/terms.ts'
import { openContracts, signerOf } from '../contracts/setup.ts'
import { indexAll } from '../fixtures/indexed.ts'
import { openEdge, type TestEdge } from '../functions/edgeSetup.ts'

/** The commands of stakes as one types them, over a real chain and a real edge. */
describe('assay stake and assay slash', () => {
  let it: Awaited<ReturnType<typeof openContracts>>
  let edge: TestEdge
  let database: Database
  const folder = mkdtempSync(join(tmpdir(), 'assay-stake-'))
  const runners = ['runner', 'second runner', 'third runner'].map(signerOf) as [Signer, Signer, Signer]
  const [runner, second, third] = runners

  beforeAll(async () => {
    it = await openContracts()
    await it.registerPck()
    for (const each of runners) await it.register(each)
    for (const party of ['provider', 'publisher']) {
      const { address } = it.wallet(party).account
      const token = { address: it.contracts.token, abi: testTokenAbi } as const
      await it.send(party, { ...token, functionName: 'mint', args: [address, 10_000n] })
    }
    await it.fund('buyer', 5_000n)
    edge = await openEdge({
      RPC_URL: it.chain.rpcUrl,
      ESCROW: it.contracts.escrow,
      REGISTRY: it.contracts.registry,
      TOKEN: it.contracts.token,
      STAKE: it.contracts.stake,
    })
    database = openDatabase(edge.databaseUrl, edge.neonUrl)
    for (const { address } of runners) {
      await edge.addRunner(address, { verdict: 'verified', tee: 'tdx', root: 'development', tcbStatus: 'UpToDate' })
      await edge.sql('UPDATE runners SET provider = $1 WHERE signer = $2', [signerOf('provider').address, address])
    }
  }, 180_000)
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true })
    await edge?.dispose()
    await it?.chain.stop()
  })

  const assayWith = async (environment: Record<string, string>, args: string[]) => {
    const cli = join(import.meta.dirname, '../../client/cli.ts')
    const child = spawn(process.execPath, ['--no-warnings', cli, ...args, '--json'], {
      env: { PATH: process.env.PATH ?? '', ASSAY_EDGE: edge.url, ASSAY_RPC: it.chain.rpcUrl, ...environment },
      cwd: folder,
    })
    const said = { out: '', errors: '' }
    child.stdout.on('data', (chunk) => {
      said.out += chunk
    })
    child.stderr.on('data', (chunk) => {
      said.errors += chunk
    })
    const exit = await new Promise<number | null>((resolve) => child.on('close', resolve))
    return { exit, errors: said.errors, result: JSON.parse(said.out) }
  }
  const assay = (party: string, ...args: string[]) => assayWith({ ASSAY_KEY: developmentKey(party) }, args)
  const shown = async (of: Signer) => (await assay('buyer', 'stake', 'show', of.address)).result

  const index = () => indexAll(database, it)
  const drifts = async () => {
    await index()
    const { drifts } = await reconcile({
      database,
      books: booksReader(it.publicClient, it.contracts),
      treasury: signerOf('treasury').address,
      now: Math.floor(Date.now() / 1000),
      log: () => {},
    })
    return drifts
  }
  const listed = async (of: Signer) => {
    const response = await fetch(`${edge.url}/v1/runners/${of.address}`)
    return ((await response.json()) as { stake: object }).stake
  }

  /** Signs a receipt alone in its batch, as a runner does. */
  const signed = async (terms: Terms, change: Partial<Receipt>, by: Signer): Promise<SignedReceipt> => {
    const { receipt, leaf } = await it.claim(terms, {
      cumulative: 100n,
      voucher: 100n,
      receipt: { job: 7n, ...change },
    })
    const { proofs, signature } = await it.signBatch(by, [leaf, sha256(new Uint8Array([3]))])
    return { receipt, proof: proofs[0]!, signature: Uint8Array.from(Buffer.from(signature.slice(2), 'hex')) }
  }
  const otherDetail = sha256(new Uint8Array([9]))
  const twice = async (by: Signer, change: Partial<Receipt> = { detail: otherDetail }): Promise<Equivocation> => {
    const terms = await it.terms(by)
    return { terms, first: await signed(terms, {}, by), second: await signed(terms, change, by) }
  }
  const keep = (name: string, json: object) => {
    writeFileSync(join(folder, name), JSON.stringify(json))
    return name
  }
  const bundle = (terms: Terms, receipt: SignedReceipt) => ({
    format: 'assay-bundle-1',
    terms: termsToJson(terms),
    ...signedReceiptToJson(receipt),
  })

  test('behavior: a stake added, asked back, taken back and withdrawn; directory and balance show it; books agree', async () => {
    const added = await assay('provider', 'stake', 'add', runner.address, '3000')
    expect(added).toMatchObject({ exit: 0, result: { amount: '3000' } })
    expect((await assay('publisher', 'stake', 'add', runner.address, '500')).exit).toBe(0)
    expect(await shown(runner)).toMatchObject({ amount: '3500', requested: '0', cover: '3500', slashed: false })
    expect(await drifts()).toEqual([])
    expect(await listed(runner)).toEqual({
      amount: '3500',
      exiting: '0',
      withdrawableAt: null,
      cover: '3500',
      slashed: false,
    })
    expect(await listed(second)).toMatchObject({ amount: '0', cover: '0' })
    // A key asked about that has no stake of its own: where the stake of its provider is.
    expect(await shown(second)).toMatchObject({ amount: '0', others: [{ runner: runner.address, amount: '3500' }] })
    expect(await shown(runner)).toMatchObject({ others: [] })
    expect((await assay('provider', 'balance', '--of', 'provider')).result).toMatchObject({
      wallet: '7000',
      staked: '3500',
      stakeRequested: '0',
      owedBySlashes: '0',
    })

    const none = await assay('provider', 'stake', 'withdraw', runner.address)
    expect([none.exit, none.result.error.code]).toEqual([1, 'NotRequested'])
    expect((await assay('provider', 'stake', 'request', runner.address, '0')).result.withdrawableAt).toBeNull()
    const asked = await assay('provider', 'stake', 'request', runner.address, '1500')
    expect(asked).toMatchObject({ exit: 0, result: { requested: '1500' } })
    const early = await assay('provider', 'stake', 'withdraw', runner.address)
    expect(early.result.error).toMatchObject({ code: 'TooEarly', message: expect.stringContaining('withdrawn from') })
    // Fourteen days away, it still vouches for what is bought today; a week later it does not.
    expect((await shown(runner)).cover).toBe('3500')
    await it.testClient.increaseTime({ seconds: 7 * 86_400 })
    await it.testClient.mine({ blocks: 1 })
    expect((await shown(runner)).cover).toBe('2000')
    await it.testClient.increaseTime({ seconds: 7 * 86_400 })
    await it.testClient.mine({ blocks: 1 })
    expect(await assay('provider', 'stake', 'withdraw', runner.address)).toMatchObject({
      exit: 0,
      result: { amount: '1500' },
    })
    expect(await drifts()).toEqual([])
    expect((await assay('provider', 'balance')).result).toMatchObject({ wallet: '8500', staked: '2000' })

    const shift = (by: number) =>
      edge.sql('UPDATE stakes SET amount = amount + $1 WHERE runner = $2', [by, runner.address])
    await shift(1)
    expect(await drifts()).toMatchObject([
      { kind: 'stake', subject: runner.address, expected: expect.stringContaining('2001'), cause: expect.any(String) },
    ])
    await shift(-1)
  }, 180_000)

  test('attack: two bundles with two answers to one job cost the key its stake, once; the books still agree', async () => {
    const { terms, first, second: other } = await twice(runner)
    const files = [keep('first.json', bundle(terms, first)), keep('second.json', bundle(terms, other))]
    const checked = await assay('other provider', 'slash', ...files, '--check')
    expect(checked).toMatchObject({ exit: 0, result: { proven: true, job: '7', differs: ['detail'] } })
    expect((await shown(runner)).slashed).toBe(false)
    const slashed = await assay('other provider', 'slash', ...files)
    expect(slashed).toMatchObject({
      exit: 0,
      result: { runner: runner.address, toBuyer: '800', toReporter: '200', burned: '1000' },
    })
    expect(await shown(runner)).toMatchObject({ amount: '0', cover: '0', slashed: true })
    expect(await drifts()).toEqual([])
    expect(await listed(runner)).toMatchObject({ amount: '0', slashed: true })
    const again = await assay('buyer', 'slash', ...files)
    expect([again.exit, again.result.error.code]).toEqual([1, 'RunnerWasSlashed'])
    const more = await assay('provider', 'stake', 'add', runner.address, '1')
    expect(more.result.error.code).toBe('RunnerWasSlashed')

    expect((await assay('buyer', 'balance')).result).toMatchObject({ deposit: '5000', owedBySlashes: '800' })
    expect(await assay('buyer', 'stake', 'collect')).toMatchObject({ exit: 0, result: { amount: '800' } })
    expect((await assay('other provider', 'stake', 'collect')).result.amount).toBe('200')
    expect((await assay('buyer', 'stake', 'collect')).result.amount).toBe('0')
    expect(await drifts()).toEqual([])
  }, 180_000)

  test("attack: one bundle is enough where the edge's record has the other answer; a proof file where somebody made one", async () => {
    const { terms, first, second: other } = await twice(second)
    const mine = keep('mine.json', bundle(terms, first))
    const nothing = await assay('buyer', 'slash', mine)
    expect([nothing.exit, nothing.errors]).toEqual([2, expect.stringContaining('shows no other answer')])
    const { receipt, proof, signature } = signedReceiptToJson(other)
    await edge.sql(
      `INSERT INTO receipts (channel, job, runner, receipt, detail, proof, signature) VALUES ($1, '7', $2, $3, '{}', $4, $5)`,
      [receipt.channel, second.address, JSON.stringify(receipt), JSON.stringify(proof), signature],
    )
    expect(await assay('buyer', 'slash', mine)).toMatchObject({ exit: 0, result: { runner: second.address } })

    const proven = await twice(third, { status: 1, cumulative: 0n })
    const file = keep('proof.json', equivocationToJson(it.domain, proven))
    expect(await assay('buyer', 'slash', file)).toMatchObject({
      exit: 0,
      result: { runner: third.address, differs: ['status', 'cumulative'], toBuyer: '0' },
    })
    await edge.sql('DELETE FROM receipts')
    expect(await drifts()).toEqual([])
  }, 120_000)

  test('refusal: what proves nothing is told so, and here as by the contract', async () => {
    const judge = async (equivocation: Equivocation) => {
      const judged = judgeEquivocation(it.domain, equivocation)
      const view = ({ receipt, proof, signature }: SignedReceipt) => ({
        receipt: { ...receipt, detail: toHex(receipt.detail) },
        proof: { ...proof, path: proof.path.map(toHex) },
        batchSignature: toHex(signature),
      })
      const { terms, first, second: other } = equivocation
      const args = [terms, view(first), view(other)]
      const call = { address: it.contracts.stake, abi: stakeAbi, functionName: 'slash', args }
      const onChain = await it.publicClient
        .simulateContract({ ...call, account: it.wallet('buyer').account } as never)
        .then(
          () => 'slashed',
          (error: Error) => /(?:Error|reason): ([A-Z]\w+)\(/.exec(error.message)?.[1],
        )
      return [judged.proven ? 'proven' : judged.refusal.reason, onChain]
    }
    const fresh = signerOf('fourth runner')
    const sound = await twice(fresh)
    const { terms, first } = sound
    expect(await judge(sound)).toEqual(['proven', 'slashed'])
    const of = (other: SignedReceipt) => judge({ terms, first, second: other })
    expect(await of(await signed(terms, { job: 8n, detail: otherDetail }, fresh))).toEqual([
      'different_jobs',
      'DifferentJobs',
    ])
    expect(await of(await signed(terms, { finishedAt: 1n }, fresh))).toEqual(['nothing_differs', 'NothingDiffers'])
    expect(await of(await signed(terms, { detail: otherDetail }, runner))).toEqual(['wrong_signer', 'WrongSigner'])
    const long = { ...sound.second, proof: { ...sound.second.proof, path: [otherDetail, otherDetail] } }
    expect(await of(long)).toEqual(['not_in_batch', 'NotInBatch'])
    const changed = { ...sound.second, receipt: { ...sound.second.receipt, status: 2 } }
    expect(await of(changed)).toEqual(['wrong_signer', 'WrongSigner'])
    const foreign = await twice(fresh)
    // The contract makes the channel of the terms itself, so there the signature does not fit.
    expect(await of(foreign.second)).toEqual(['other_channel', 'WrongSigner'])

    const same = keep('same.json', equivocationToJson(it.domain, { ...sound, second: first }))
    expect(await assay('buyer', 'slash', same)).toMatchObject({ exit: 1, result: { reason: 'nothing_differs' } })
  }, 60_000)

  test('usage: what is typed wrong is told with what to type, and nothing is sent', async () => {
    const nobody = signerOf('nobody registered').address
    const before = await it.publicClient.getTransactionCount({ address: it.wallet('provider').account.address })
    const cases: [string[], number, string][] = [
      [['stake'], 2, 'not a command'],
      [['stake', 'show'], 2, 'takes an address'],
      [['stake', 'show', 'runner'], 2, 'takes an address'],
      [['stake', 'add', runner.address], 2, 'whole number'],
      [['stake', 'add', runner.address, '1.5'], 2, 'whole number'],
      [['stake', 'add', runner.address, '1', '2'], 2, 'not a command'],
      [['stake', 'add', nobody, '10'], 1, 'Start it once'],
      [['stake', 'request', third.address, '1'], 1, 'more than is staked'],
      [['slash'], 2, 'Name a proof'],
      [['slash', 'missing.json'], 2, 'cannot be read'],
      [['slash', keep('list.json', [])], 2, 'neither a kept bundle'],
      [['slash', keep('null.json', { format: 'assay-equivocation-1' })], 2, 'null.json: It holds no terms'],
      [['slash', keep('half.json', { format: 'assay-bundle-1', terms: {} })], 2, 'half.json: It holds no terms'],
    ]
    for (const [args, code, message] of cases) {
      const { exit, errors } = await assay('provider', ...args)
      expect([args, exit, errors]).toEqual([args, code, expect.stringContaining(message)])
    }
    const poor = await assay('buyer', 'stake', 'add', third.address, '999999')
    expect(poor.errors).toContain('less than 999999')
    const stranger = await assay('buyer', 'stake', 'request', third.address, '0')
    expect(stranger.errors).toContain(`belongs to ${it.wallet('provider').account.address}`)
    expect(await it.publicClient.getTransactionCount({ address: it.wallet('provider').account.address })).toBe(before)
  }, 180_000)

  test('usage: a node that is away, another chain, a wallet without gas: told without the address of the node', async () => {
    const secret = 'test-key-in-a-path'
    const at = (environment: Record<string, string>) =>
      assayWith({ ASSAY_KEY: developmentKey('buyer'), ...environment }, ['stake', 'show', runner.address])
    const away = await at({ ASSAY_RPC: `http://127.0.0.1:1/${secret}` })
    expect([away.exit, away.result.error.code]).toEqual([1, 'chain_away'])
    expect(away.errors).not.toContain(secret)
    const odd = await at({ ASSAY_RPC: 'localhost' })
    expect([odd.exit, odd.errors]).toEqual([2, expect.stringContaining('ASSAY_RPC')])
    const noEdge = await at({ ASSAY_EDGE: 'http://127.0.0.1:1' })
    expect([noEdge.exit, noEdge.result.error.code]).toEqual([1, 'network'])
    const gasless = await assayWith({ ASSAY_KEY: developmentKey('poor') }, ['deposit', '1'])
    expect([gasless.exit, gasless.errors]).toEqual([1, expect.stringContaining('holds 0 of the token')])
  }, 120_000)
})
