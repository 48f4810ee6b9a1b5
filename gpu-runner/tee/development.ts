import type { CollateralOf } from '../../protocol/evidence/index.ts'
import { issueTdxCertificates, issueTdxRoot, p256Key } from './developmentTdxCertificates.ts'
import { writeTdxCollateral } from './developmentTdxCollateral.ts'
import { developmentFmspc, type TdxMachine, type TeeFault } from './developmentTdxMachine.ts'
import { writeTdxQuote } from './developmentTdxQuote.ts'

export type { TeeFault } from './developmentTdxMachine.ts'

/**
 * A development TEE: production-format TDX quotes, certificates, CRLs and collateral from a seed. It stands in for hardware and for Intel's
 * provisioning service, under a root of its own that verifiers refuse unless they are told to accept it on a local chain.
 */

/** Holds a development TEE made from a seed. */
export type DevelopmentTee = {
  /** DER of the root certificate, for `developmentRoots`. */
  rootDer: Uint8Array
  /** DER of the CA that issues PCK certificates. */
  platformCaDer: Uint8Array
  fmspc: string
  /** Makes a quote with these 64 bytes of report data. */
  quote(reportData: Uint8Array, options?: { version?: 4 | 5 }): Uint8Array<ArrayBuffer>
  /** Makes the collateral as of now. */
  collateral(): CollateralOf<'tdx'>
}

/** Makes a development TEE. Deterministic in the seed (32 bytes), the clock (`now`, unix seconds, at each call) and the faults. */
export function createDevelopmentTee({
  seed,
  now,
  faults = [],
  workload = 'assay-runner',
}: {
  seed: Uint8Array
  now: () => number
  faults?: readonly TeeFault[]
  workload?: string
}): DevelopmentTee {
  const machine: TdxMachine = { seed, now, workload, has: (fault) => faults.includes(fault) }
  const certificates = issueTdxCertificates(machine)
  const attestation = p256Key(machine, 'attestation')
  return {
    rootDer: issueTdxRoot(machine).der,
    platformCaDer: certificates.platformCa.der,
    fmspc: developmentFmspc,
    quote: (reportData, { version = 4 } = {}) =>
      writeTdxQuote({ machine, certificates, attestation }, reportData, version),
    collateral: () => writeTdxCollateral(machine, certificates),
  }
}

/** Serves a development TEE's collateral in the shape of Intel's provisioning service; there is nothing to sign here, so nothing to steal. */
export function developmentPccs(tee: DevelopmentTee): (request: Request) => Response {
  return (request) => {
    const url = new URL(request.url)
    const collateral = tee.collateral()
    const signed = (member: string, text: string, signature: string, chainHeader: string, chain: string) =>
      new Response(`{"${member}":${text},"signature":"${signature}"}`, {
        headers: { 'content-type': 'application/json', [chainHeader]: encodeURIComponent(chain) },
      })
    switch (url.pathname) {
      case '/tdx/certification/v4/tcb':
        if (url.searchParams.get('fmspc')?.toLowerCase() !== tee.fmspc)
          return new Response('unknown fmspc', { status: 404 })
        return signed(
          'tcbInfo',
          collateral.tcbInfo,
          collateral.tcbInfoSignature,
          'TCB-Info-Issuer-Chain',
          collateral.tcbInfoChain,
        )
      case '/tdx/certification/v4/qe/identity':
        return signed(
          'enclaveIdentity',
          collateral.qeIdentity,
          collateral.qeIdentitySignature,
          'SGX-Enclave-Identity-Issuer-Chain',
          collateral.qeIdentityChain,
        )
      case '/sgx/certification/v4/pckcrl':
        return new Response(collateral.pckCrl as Uint8Array<ArrayBuffer>, {
          headers: { 'SGX-PCK-CRL-Issuer-Chain': encodeURIComponent(collateral.pckCrlChain) },
        })
      case '/sgx/certification/v4/rootcacrl':
        return new Response(collateral.rootCaCrl as Uint8Array<ArrayBuffer>)
      default:
        return new Response('not found', { status: 404 })
    }
  }
}
