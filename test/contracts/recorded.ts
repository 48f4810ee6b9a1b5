import { secp256k1 } from '@noble/curves/secp256k1.js'
import { type Address, decodeFunctionData, encodeDeployData, encodeFunctionData, keccak256 } from 'viem'
import { anvil } from 'viem/chains'
import { runnerRegistryAbi } from '../../contracts/abi.ts'
import { startChain } from '../../dev/chain.ts'
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
import { fromHex, type Hex, toHex } from '../../protocol/bytes.ts'
import type { CollateralOf } from '../../protocol/evidence/index.ts'
import { readPckExtension } from '../../protocol/evidence/pck.ts'
import { parseTdxQuote, tdxWorkload } from '../../protocol/evidence/quote.ts'
import { encodeStatement } from '../../protocol/evidence/statement.ts'
import { parseCertificate, parsePem } from '../../protocol/evidence/x509.ts'
import { sha256 } from '../../protocol/hash.ts'
import { registrationDigest } from '../../protocol/registration.ts'
import { testContracts } from './compiled.ts'
import { signerOf } from './setup.ts'

/** Opens a chain whose clock stands where a recorded quote's does, and a registry that trusts `rootDer` and takes quotes with this report data. */
export async function openRecorded({
  now,
  rootDer,
  reportData,
}: {
  now: number
  rootDer: Uint8Array
  reportData: Hex
}) {
  const { abi, bytecode } = testContracts().RecordedQuotes!
  // The chain's clock runs while collateral is posted, and quotes are judged at `now` or seconds after.
  const chain = await startChain({ genesisTime: now })
  const { publicClient, testClient, rpcUrl } = chain
  const wallet = walletOf(developmentKey('deployer'), rpcUrl)
  const { account } = wallet
  await testClient.setBalance({ address: account.address, value: 10n ** 20n })
  const root = parseCertificate(rootDer)
  const escrow = toHex(new Uint8Array(20).fill(0xe5)) as Address
  const args = [
    account.address,
    escrow,
    toHex(root.publicKey.slice(1, 33)),
    toHex(root.publicKey.slice(33)),
    keccak256(root.subject),
    reportData,
  ]
  const deployed = await wallet.sendTransaction({
    account,
    chain: anvil,
    data: encodeDeployData({ abi, bytecode, args }),
  })
  const registry = (await publicClient.waitForTransactionReceipt({ hash: deployed })).contractAddress!

  /** Sends an encoded call; a revert has the contract's own name. */
  const call = async (data: Hex) => {
    const { functionName, args } = decodeFunctionData({ abi: runnerRegistryAbi, data }) as {
      functionName: 'register'
      args: never
    }
    const request = { account, address: registry, abi: runnerRegistryAbi, functionName, args } as const
    await publicClient.simulateContract(request)
    const hash = await wallet.writeContract({ ...request, chain: anvil })
    return publicClient.waitForTransactionReceipt({ hash })
  }
  /** Posts everything a quote's registration rests on and gives what each step cost. Throws with the contract's reason at the first that is refused. */
  const post = async (quote: Uint8Array, collateral: CollateralOf<'tdx'>) => {
    const [pck, platformCa, chainRoot] = parseTdxQuote(quote).chain.map((der) => parseCertificate(der))
    const signers = [collateral.tcbInfoChain, collateral.qeIdentityChain].map((pem) => parsePem(pem)[0]!)
    const gas = async (data: Hex) => (await call(data)).gasUsed
    return {
      platformCa: await gas(issuerCall(platformCa!)),
      signer: await gas(issuerCall(parseCertificate(signers[0]!))),
      qeSigner: await gas(issuerCall(parseCertificate(signers[1]!))),
      rootCrl: await gas(crlCall(collateral.rootCaCrl, chainRoot!, 'all')),
      pckCrl: await gas(crlCall(collateral.pckCrl, platformCa!, new Set([BigInt(pck!.serial)]))),
      tcbInfo: await gas(collateralCall('postTcbInfo', collateral)),
      qeIdentity: await gas(collateralCall('postQeIdentity', collateral)),
      pck: await gas(pckCall(pck!, platformCa!)),
    }
  }
  /** Posts TCB info once more and gives its cost. */
  const repost = async (collateral: CollateralOf<'tdx'>) =>
    (await call(collateralCall('postTcbInfo', collateral))).gasUsed
  /** Reads the levels of a quote's platform, as the registry keeps them. */
  const table = async (quote: Uint8Array): Promise<Hex> => {
    const { fmspc, pceId } = readPckExtension(parseCertificate(parseTdxQuote(quote).chain[0]!))
    const [account] = await publicClient.readContract({
      address: registry,
      abi: runnerRegistryAbi,
      functionName: 'tcbInfos',
      args: [`0x${fmspc}${pceId}`],
    })
    // One byte stands before them, which stops whoever runs the code.
    return `0x${(await publicClient.getCode({ address: account }))!.slice(4)}`
  }
  const appraise = (quote: Uint8Array) =>
    publicClient.readContract({
      address: registry,
      abi: runnerRegistryAbi,
      functionName: 'appraise',
      args: [quoteForChain(quote)],
    })
  /** Registers a recorded quote under a statement of its own. */
  const register = async (quote: Uint8Array) => {
    const runner = signerOf('runner')
    const newest = await publicClient.getBlock()
    const block = await publicClient.getBlock({ blockNumber: newest.number - 1n })
    const statement = encodeStatement({
      root: 'vendor',
      chainId: BigInt(chain.chainId),
      registry: registry.toLowerCase() as Hex,
      signerKey: runner.publicKey,
      hpkeKey: sha256(runner.publicKey),
      nonce: fromHex(block.hash, 32),
      gpuEvidence: new Uint8Array(32),
      workload: tdxWorkload(parseTdxQuote(quote).body),
      notAfter: newest.timestamp + 3_600n,
    })
    const provider = account.address.toLowerCase() as Address
    const claim = claimForChain({
      statement,
      signerKey: secp256k1.Point.fromBytes(runner.publicKey).toBytes(false),
      nonceBlock: block.number,
      provider,
      signature: await runner.sign(
        registrationDigest(
          { chainId: chain.chainId, escrow },
          { runner: runner.address, provider, statement: toHex(sha256(statement)) },
        ),
      ),
    })
    const args = [quoteForChain(quote), claim] as const
    return call(encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'register', args }))
  }
  const approve = (workload: Hex) =>
    call(encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'approve', args: [workload] }))
  /** Sets which TCB statuses may register (bit n is the n-th, best first), the lowest evaluation and the oldest collateral, in hours. */
  const setTcbRules = (statuses: number, minEvaluation: number, maxAgeHours: number) =>
    call(
      encodeFunctionData({
        abi: runnerRegistryAbi,
        functionName: 'setTcbRules',
        args: [statuses, minEvaluation, maxAgeHours, true],
      }),
    )
  return {
    chain,
    publicClient,
    testClient,
    registry,
    call,
    post,
    repost,
    table,
    appraise,
    register,
    approve,
    setTcbRules,
  }
}
