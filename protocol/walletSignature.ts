import type { PublicClient } from 'viem'
import { type Hex, toHex } from './bytes.ts'

/** What a contract wallet says to a signature it stands by (ERC-1271). */
const magic = '0x1626ba7e'
const walletAbi = [
  {
    type: 'function',
    name: 'isValidSignature',
    stateMutability: 'view',
    inputs: [{ type: 'bytes32' }, { type: 'bytes' }],
    outputs: [{ type: 'bytes4' }],
  },
] as const

/** Asks a contract wallet whether it stands by a signature (ERC-1271); null where there is no contract. Throws when the chain does not answer. */
export async function walletStandsBy(
  chain: PublicClient,
  wallet: Hex,
  digest: Uint8Array,
  signature: Uint8Array,
): Promise<boolean | null> {
  if (!(await chain.getCode({ address: wallet }))) return null
  const args = [toHex(digest), toHex(signature)] as const
  return chain.readContract({ address: wallet, abi: walletAbi, functionName: 'isValidSignature', args }).then(
    (answer) => answer === magic,
    // A wallet that reverts does not stand by it; a chain that is away has answered for the code above.
    () => false,
  )
}
