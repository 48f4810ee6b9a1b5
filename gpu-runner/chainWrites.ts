import { type Address, encodeFunctionData } from 'viem'
import { escrowAbi, runnerRegistryAbi, verifierSetAbi } from '../contracts/abi.ts'
import { type Hex, toHex } from '../protocol/bytes.ts'
import { packClaims } from '../protocol/claims.ts'
import type { CollateralOf } from '../protocol/evidence/index.ts'
import { type Contracts, verifiersOf } from './chainReads.ts'
import { type Claimable, claimOf } from './claimable.ts'
import { type SendCall, sendAnyway } from './contractCalls.ts'
import { claimForChain, postWhatIsMissing, quoteForChain } from './registrar.ts'
import type { AgreedVerdict } from './verdicts.ts'

/** Registers a runner on its chain. */
export type Registering = {
  /** Posts what the registry lacks, then registers; `now` in unix seconds. */
  register(registration: {
    quote: Uint8Array
    collateral: CollateralOf<'tdx'>
    statement: Uint8Array
    nonceBlock: bigint
    signerKey: Uint8Array
    signature: Uint8Array
    now: number
  }): Promise<Hex>
  /** Registers on a verdict that enough verifiers signed. */
  registerVerdict(agreed: AgreedVerdict): Promise<Hex>
}

/** Claims what a runner has earned. */
export type Settling = {
  /** Claims many channels with one signature over a batch of their latest receipts, in the order given. */
  settle(claims: Claimable[], signature: Uint8Array): Promise<{ hash: Hex; gasUsed: bigint }>
  /** Claims one channel with the proof its receipt already has, as anyone may. */
  settleOne(claim: Claimable): Promise<{ hash: Hex; gasUsed: bigint }>
}

/** Makes a runner's registrations, which name `provider` as who is paid. */
export function registrations(contracts: Contracts, provider: Address, sendOnce: SendCall): Registering {
  const { client: publicClient, registry } = contracts
  const send = sendAnyway(sendOnce)
  return {
    async register({ quote, collateral, statement, nonceBlock, signerKey, signature, now }) {
      const sendToRegistry = (data: Hex) => send(registry, runnerRegistryAbi, data)
      await postWhatIsMissing({ publicClient, registry, send: sendToRegistry, quote, collateral, now })
      const claim = claimForChain({ statement, signerKey, nonceBlock, provider, signature })
      const args = [quoteForChain(quote), claim] as const
      const { hash } = await sendToRegistry(
        encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'register', args }),
      )
      return hash
    },
    async registerVerdict({ verdict, signatures }) {
      const to = await verifiersOf(contracts)
      const abi = [...verifierSetAbi, ...runnerRegistryAbi]
      const data = encodeFunctionData({
        abi: verifierSetAbi,
        functionName: 'register',
        args: [verdict, signatures],
      })
      return (await send(to, abi, data)).hash
    },
  }
}

/** Makes a runner's claims. */
export function settlements(contracts: Contracts, send: SendCall): Settling {
  const settlePacked = (packed: Uint8Array) =>
    send(
      contracts.escrow,
      escrowAbi,
      encodeFunctionData({ abi: escrowAbi, functionName: 'settleChannels', args: [toHex(packed)] }),
    )
  return {
    async settle(claims, signature) {
      const all = await Promise.all(claims.map((claim) => claimOf(contracts, claim)))
      return settlePacked(packClaims({ claims: all, signature }))
    },
    async settleOne(claim) {
      const { signature, proof } = claim.entry
      return settlePacked(packClaims({ claims: [await claimOf(contracts, claim)], signature, proof }))
    },
  }
}
