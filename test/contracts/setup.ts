import { secp256k1 } from '@noble/curves/secp256k1.js'
import { type Account, type Address, decodeFunctionData, type PublicClient, type WalletClient } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { anvil } from 'viem/chains'
import { escrowAbi, runnerRegistryAbi, testTokenAbi } from '../../contracts/abi.ts'
import { type Chain, startChain } from '../../dev/chain.ts'
import { buildContracts } from '../../dev/contracts.ts'
import { type Contracts, deployContracts } from '../../dev/deploy.ts'
import { developmentKey } from '../../dev/keys.ts'
import { walletOf } from '../../dev/marketplace.ts'
import {
  claimForChain,
  collateralCall,
  crlCall,
  issuerCall,
  pckCall,
  quoteForChain,
} from '../../gpu-runner/registrar.ts'
import { createDevelopmentTee, type TeeFault } from '../../gpu-runner/tee/development.ts'
import { batchDigest } from '../../protocol/batch.ts'
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import { packClaims, type SettlementClaim } from '../../protocol/claims.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { encodeStatement, reportDataOf, type Statement } from '../../protocol/evidence/statement.ts'
import { parseCertificate, parsePem } from '../../protocol/evidence/x509.ts'
import { sha256 } from '../../protocol/hash.ts'
import { merkleTree } from '../../protocol/merkle.ts'
import { type Receipt, receiptLeaf } from '../../protocol/receipt.ts'
import { registrationDigest } from '../../protocol/registration.ts'
import { createSigner, type Signer } from '../../protocol/secp256k1.ts'
import { channelOf, type Terms } from '../../protocol/terms.ts'
import { voucherDigest } from '../../protocol/voucher.ts'

/** Makes a test key's signer. */
export const signerOf = (name: string): Signer => createSigner(fromHex(developmentKey(name), 32))

const seed = new Uint8Array(32).fill(9)

/** Names what a registration gets wrong on purpose. */
export type Twist = {
  faults?: TeeFault[]
  version?: 4 | 5
  statement?: Partial<Statement>
  provider?: Address
  signWith?: Signer
  change?: (attestation: Attestation) => Attestation
}

/** The arguments of RunnerRegistry.register. */
export type Attestation = {
  quote: ReturnType<typeof quoteForChain>
  claim: ReturnType<typeof claimForChain>
}

/** Flips the lowest bit of a byte in hexadecimal. */
export function flip(hex: Hex, at: number): Hex {
  const bytes = fromHex(hex)
  bytes[at]! ^= 1
  return toHex(bytes)
}

/** Deploys everything to an anvil of its own. */
export async function openContracts(chainId?: number) {
  const chain: Chain = await startChain(chainId === undefined ? {} : { chainId })
  const { publicClient, testClient, rpcUrl } = chain
  const parties = ['deployer', 'treasury', 'provider', 'publisher', 'buyer', 'other provider']
  for (const party of parties)
    await testClient.setBalance({ address: privateKeyToAccount(developmentKey(party)).address, value: 10n ** 20n })
  const tee = createDevelopmentTee({ seed, now: () => Math.floor(Date.now() / 1000) })
  const workload = tdxWorkload(parseTdxQuote(tee.quote(new Uint8Array(64))).body)
  const artifacts = buildContracts()
  const contracts: Contracts = await deployContracts({
    artifacts,
    wallet: walletOf(developmentKey('deployer'), rpcUrl),
    publicClient,
    treasury: privateKeyToAccount(developmentKey('treasury')).address,
    feeBps: 100,
    withdrawalDelaySeconds: 60,
    rootDer: tee.rootDer,
    workloads: [workload],
  }).catch(async (error: unknown) => {
    await chain.stop()
    throw error
  })
  const domain = { chainId: chain.chainId, escrow: contracts.escrow.toLowerCase() as Hex }
  const wallet = (party: string): WalletClient & { account: Account } => walletOf(developmentKey(party), rpcUrl)
  const send = async (
    party: string,
    call: { address: Address; abi: readonly unknown[]; functionName: string; args: readonly unknown[] },
  ) => {
    // Simulating first gives the revert's own name.
    const account = wallet(party).account
    await publicClient.simulateContract({ ...call, account } as never)
    const hash = await wallet(party).writeContract({ ...call, account, chain: anvil } as never)
    return publicClient.waitForTransactionReceipt({ hash })
  }
  const teeWith = (faults: readonly TeeFault[]) =>
    createDevelopmentTee({ seed, now: () => Math.floor(Date.now() / 1000), faults })
  /** Sends an encoded call to the registry; a revert has the contract's own name. */
  const callRegistry = async (data: Hex, party = 'provider') => {
    const call = decodeFunctionData({ abi: runnerRegistryAbi, data })
    return send(party, { address: contracts.registry, abi: runnerRegistryAbi, ...call, args: call.args ?? [] })
  }
  /** Posts what registering rests on: intermediates, revocation lists, TCB info, the quoting enclave's identity. */
  const postCollateral = async (faults: readonly TeeFault[] = []) => {
    const made = teeWith(faults)
    const [, platformCa, root] = parseTdxQuote(made.quote(new Uint8Array(64))).chain.map((der) => parseCertificate(der))
    const collateral = made.collateral()
    await callRegistry(issuerCall(platformCa!))
    await callRegistry(issuerCall(parseCertificate(parsePem(collateral.tcbInfoChain)[0]!)))
    await callRegistry(crlCall(collateral.rootCaCrl, root!, 'all'))
    await callRegistry(crlCall(collateral.pckCrl, platformCa!, 'all'))
    await callRegistry(collateralCall('postTcbInfo', collateral))
    await callRegistry(collateralCall('postQeIdentity', collateral))
  }
  /** Posts the collateral, then the platform's certificate. */
  const registerPck = async (faults: TeeFault[] = [], spoil = false) => {
    await postCollateral()
    const [pck, platformCa] = parseTdxQuote(teeWith(faults).quote(new Uint8Array(64))).chain.map((der) =>
      parseCertificate(der),
    )
    const tbs = spoil ? fromHex(flip(toHex(pck!.tbs), 200)) : pck!.tbs
    return callRegistry(pckCall({ ...pck!, tbs }, platformCa!))
  }

  const attestation = async (runner: Signer, twist: Twist = {}): Promise<Attestation> => {
    const newest = await publicClient.getBlock()
    const block = await publicClient.getBlock({ blockNumber: newest.number - 1n })
    const faulty = teeWith(twist.faults ?? [])
    const version = twist.version ?? 4
    const statement: Statement = {
      root: 'development',
      chainId: BigInt(chain.chainId),
      registry: contracts.registry.toLowerCase() as Hex,
      signerKey: runner.publicKey,
      hpkeKey: sha256(runner.publicKey),
      nonce: fromHex(block.hash, 32),
      gpuEvidence: new Uint8Array(32),
      workload: tdxWorkload(parseTdxQuote(faulty.quote(new Uint8Array(64), { version })).body),
      notAfter: block.timestamp + 3_600n,
      ...twist.statement,
    }
    const bytes = encodeStatement(statement)
    const quote = quoteForChain(faulty.quote(reportDataOf(statement), { version }))
    const provider =
      twist.provider ?? (privateKeyToAccount(developmentKey('provider')).address.toLowerCase() as Address)
    const signature = await (twist.signWith ?? runner).sign(
      registrationDigest(domain, { runner: runner.address, provider, statement: toHex(sha256(bytes)) }),
    )
    const key = secp256k1.Point.fromBytes(runner.publicKey).toBytes(false)
    const claim = claimForChain({ statement: bytes, signerKey: key, nonceBlock: block.number, provider, signature })
    const made: Attestation = { quote, claim }
    return twist.change?.(made) ?? made
  }
  const register = async (runner: Signer, twist: Twist = {}) => {
    const { quote, claim } = await attestation(runner, twist)
    return send('provider', {
      address: contracts.registry,
      abi: runnerRegistryAbi,
      functionName: 'register',
      args: [quote, claim],
    })
  }

  const fund = async (buyer: string, amount: bigint) => {
    const { address } = wallet(buyer).account
    await testClient.setBalance({ address, value: 10n ** 20n })
    const token = { address: contracts.token, abi: testTokenAbi } as const
    await send(buyer, { ...token, functionName: 'mint', args: [address, amount] })
    await send(buyer, { ...token, functionName: 'approve', args: [contracts.escrow, amount] })
    await send(buyer, { address: contracts.escrow, abi: escrowAbi, functionName: 'deposit', args: [address, amount] })
  }

  const now = async () => (await publicClient.getBlock()).timestamp
  const terms = async (runner: Signer, change: Partial<Terms> = {}): Promise<Terms> => ({
    buyer: signerOf('buyer').address,
    runner: runner.address,
    model: toHex(sha256(new Uint8Array([1]))),
    publisher: signerOf('publisher').address,
    price: 100n,
    royaltyBps: 1_000,
    feeBps: 100,
    expiresAt: (await now()) + 3_600n,
    salt: toHex(crypto.getRandomValues(new Uint8Array(32))),
    ...change,
  })
  /** Makes a claim, and the receipt's leaf for its batch. */
  const claim = async (
    of: Terms,
    {
      cumulative,
      voucher,
      receipt: change = {},
      voucherSigner = signerOf('buyer'),
      inDomain = domain,
      kind = 'key',
    }: {
      cumulative: bigint
      voucher: bigint
      receipt?: Partial<Receipt>
      voucherSigner?: Signer
      inDomain?: typeof domain
      kind?: SettlementClaim['voucher']['kind']
    },
  ) => {
    const channel = channelOf(inDomain, of)
    const receipt: Receipt = {
      channel: fromHex(channel, 32),
      job: 1n,
      status: 0,
      cumulative,
      finishedAt: await now(),
      detail: sha256(new Uint8Array([2])),
      ...change,
    }
    const voucherSignature = toHex(await voucherSigner.sign(voucherDigest(inDomain, { channel, cumulative: voucher })))
    const { channel: _, ...onChain } = receipt
    return {
      leaf: receiptLeaf(receipt),
      channel,
      receipt,
      claim: {
        terms: of,
        receipt,
        voucher: { cumulative: voucher, signature: fromHex(voucherSignature, 65), kind },
      } as SettlementClaim,
      /** The same receipt as the third-party contract takes it. */
      onChain: { ...onChain, detail: toHex(receipt.detail) },
    }
  }
  type Made = Awaited<ReturnType<typeof claim>>
  const signBatch = async (runner: Signer, leaves: Uint8Array[], inDomain = domain) => {
    const tree = merkleTree(leaves)
    return {
      ...tree,
      signature: toHex(await runner.sign(batchDigest(inDomain, { root: tree.root, count: leaves.length }))),
    }
  }
  const settle = async (runner: Signer, made: Made[], inDomain = domain) => {
    const { signature } = await signBatch(
      runner,
      made.map(({ leaf }) => leaf),
      inDomain,
    )
    const call = {
      address: contracts.escrow,
      abi: escrowAbi,
      functionName: 'settleChannels',
      args: [toHex(packClaims({ claims: made.map((each) => each.claim), signature: fromHex(signature, 65) }))],
    } as const
    const { result } = await publicClient.simulateContract({ ...call, account: wallet('provider').account } as never)
    const receipt = await send('provider', call)
    return { statuses: result as unknown as number[], gasUsed: receipt.gasUsed }
  }
  const read = <T>(functionName: string, args: readonly unknown[]) =>
    publicClient.readContract({ address: contracts.escrow, abi: escrowAbi, functionName, args } as never) as Promise<T>
  const policyCall = (
    functionName: 'approve' | 'revoke' | 'kill' | 'denyPlatform' | 'setTcbRules',
    args: readonly unknown[],
    party = 'deployer',
  ) => send(party, { address: contracts.registry, abi: runnerRegistryAbi, functionName, args })

  return {
    chain,
    publicClient: publicClient as PublicClient,
    testClient,
    contracts,
    domain,
    wallet,
    send,
    callRegistry,
    postCollateral,
    registerPck,
    attestation,
    register,
    fund,
    terms,
    claim,
    signBatch,
    settle,
    read,
    policyCall,
    workload,
    now,
    artifacts,
  }
}
