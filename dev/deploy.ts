import { type Account, type Address, getContractAddress, type Hex, type PublicClient, type WalletClient } from 'viem'
import { fromHex, toHex } from '../protocol/bytes.ts'
import { parseCertificate } from '../protocol/evidence/x509.ts'
import type { Artifact } from './contracts.ts'

/** Holds the addresses of a deployment. */
export type Contracts = {
  escrow: Address
  registry: Address
  policy: Address
  attestedInference: Address
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
  platformCaDer,
  qeSigner,
  workloads,
}: {
  artifacts: Record<string, Artifact>
  wallet: WalletClient & { account: Account }
  publicClient: PublicClient
  treasury: Address
  feeBps: number
  withdrawalDelaySeconds: number
  platformCaDer: Uint8Array
  qeSigner: Hex
  workloads: readonly Hex[]
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
  const policy = await deploy('MeasurementPolicy', [account.address])
  // Registry and escrow name each other for ever, so the escrow's address is computed before it exists.
  const escrowAddress = getContractAddress({ from: account.address, nonce: BigInt(nonce + 1) })
  const key = parseCertificate(platformCaDer).publicKey
  const registry = await deploy('RunnerRegistry', [
    policy,
    escrowAddress,
    true,
    toHex(key.slice(1, 33)),
    toHex(key.slice(33)),
    toHex(fromHex(qeSigner, 32)),
  ])
  const escrow = await deploy('Escrow', [token, registry, treasury, feeBps, withdrawalDelaySeconds])
  if (escrow.toLowerCase() !== escrowAddress.toLowerCase())
    throw new Error('The escrow is not where the registry expects it.')
  const attestedInference = await deploy('AttestedInference', [registry])
  for (const workload of workloads) {
    const hash = await wallet.writeContract({
      address: policy,
      abi: artifacts.MeasurementPolicy!.abi,
      functionName: 'approve',
      args: [workload],
      account,
      chain: wallet.chain ?? null,
      nonce: nonce++,
    })
    await publicClient.waitForTransactionReceipt({ hash })
  }
  return { escrow, registry, policy, attestedInference, token }
}
