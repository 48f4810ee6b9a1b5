import {
  type Account,
  type Address,
  getContractAddress,
  type Hex,
  keccak256,
  type PublicClient,
  type WalletClient,
} from 'viem'
import { toHex } from '../protocol/bytes.ts'
import { parseCertificate } from '../protocol/evidence/x509.ts'
import type { Artifact } from './contracts.ts'

/** Holds the addresses of a deployment. */
export type Contracts = {
  escrow: Address
  registry: Address
  /** Where the policy is kept: in the registry itself. */
  policy: Address
  verifierSet: Address
  attestedInference: Address
  stake: Address
  token: Address
}

/** Deploys the contracts to a local chain and approves the workloads. Throws when a transaction reverts. */
export async function deployContracts({
  artifacts,
  wallet,
  publicClient,
  treasury,
  feeBps,
  withdrawalDelaySeconds,
  rootDer,
  workloads,
  verifiers = { addresses: [wallet.account.address], threshold: 1 },
}: {
  artifacts: Record<string, Artifact>
  wallet: WalletClient & { account: Account }
  publicClient: PublicClient
  treasury: Address
  feeBps: number
  withdrawalDelaySeconds: number
  /** The development root's certificate. */
  rootDer: Uint8Array
  workloads: readonly Hex[]
  /** Who judges evidence that the chain cannot; ascending addresses. */
  verifiers?: { addresses: readonly Address[]; threshold: number }
}): Promise<Contracts> {
  const { account } = wallet
  let nonce = await publicClient.getTransactionCount({ address: account.address })
  const deploy = async (name: string, args: unknown[]): Promise<Address> => {
    const { abi, bytecode } = artifacts[name]!
    const hash = await wallet.deployContract({
      abi,
      bytecode,
      args,
      account,
      chain: wallet.chain ?? null,
      nonce: nonce++,
    })
    const { contractAddress, status } = await publicClient.waitForTransactionReceipt({ hash })
    if (status !== 'success' || !contractAddress) throw new Error(`Deploying ${name} reverted.`)
    return contractAddress
  }

  const token = await deploy('TestToken', [])
  // Registry, escrow and verifiers name each other for ever, so addresses are computed before they exist.
  const [escrowAddress, verifierSetAddress] = [1, 2].map((later) =>
    getContractAddress({ from: account.address, nonce: BigInt(nonce + later) }),
  ) as [Address, Address]
  const { publicKey, subject } = parseCertificate(rootDer)
  const registry = await deploy('RunnerRegistry', [
    account.address,
    escrowAddress,
    verifierSetAddress,
    true,
    toHex(publicKey.slice(1, 33)),
    toHex(publicKey.slice(33)),
    keccak256(subject),
  ])
  const escrow = await deploy('Escrow', [
    token,
    registry,
    treasury,
    wallet.account.address,
    feeBps,
    withdrawalDelaySeconds,
  ])
  if (escrow.toLowerCase() !== escrowAddress.toLowerCase())
    throw new Error('The escrow is not where the registry expects it.')
  const verifierSet = await deploy('VerifierSet', [account.address, registry, verifiers.addresses, verifiers.threshold])
  if (verifierSet.toLowerCase() !== verifierSetAddress.toLowerCase())
    throw new Error('The verifiers are not where the registry expects them.')
  const attestedInference = await deploy('AttestedInference', [registry])
  const stake = await deploy('Stake', [token, registry])
  for (const workload of workloads) {
    const hash = await wallet.writeContract({
      address: registry,
      abi: artifacts.RunnerRegistry!.abi,
      functionName: 'approve',
      args: [workload],
      account,
      chain: wallet.chain ?? null,
      nonce: nonce++,
    })
    await publicClient.waitForTransactionReceipt({ hash })
  }
  return { escrow, registry, policy: registry, verifierSet, attestedInference, stake, token }
}
