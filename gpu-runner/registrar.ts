import { type Address, encodeFunctionData, keccak256, type PublicClient } from 'viem'
import { runnerRegistryAbi } from '../contracts/abi.ts'
import { concat, fromHex, type Hex, toHex, uint } from '../protocol/bytes.ts'
import { crlEntries } from '../protocol/evidence/crlEntries.ts'
import type { CollateralOf } from '../protocol/evidence/index.ts'
import { readPckExtension } from '../protocol/evidence/pck.ts'
import { parseTdxQuote } from '../protocol/evidence/quote.ts'
import { decodeStatement } from '../protocol/evidence/statement.ts'
import { type Certificate, parseCertificate, parseCrl, parsePem } from '../protocol/evidence/x509.ts'
import { pack, packText } from './packedText.ts'

/** Collateral is posted anew when what the chain holds lapses within this many seconds. */
const renewBeforeSeconds = 2 * 86_400

/** Sends a call to the registry and waits until it is mined; rejects with the contract's reason when it would revert. */
export type Send = (data: Hex) => Promise<{ hash: Hex; gasUsed: bigint }>

const half = (bytes: Uint8Array, index: 0 | 1): Hex => toHex(bytes.subarray(index * 32, index * 32 + 32))

const pointOf = (publicKey: Uint8Array) => ({ x: half(publicKey.subarray(1), 0), y: half(publicKey.subarray(1), 1) })

/** Names an issuer as the registry does: by its key and the Keccak-256 of its name. */
export function issuerIdOf(certificate: Certificate): Hex {
  const { publicKey, subject } = certificate
  return keccak256(concat(publicKey.subarray(1), fromHex(keccak256(subject), 32)))
}

/** Holds what names a platform on chain. */
export type PlatformKey = { issuer: Hex; serial: bigint; x: Hex; y: Hex }

/** Names a platform by its certificate: issuer, serial number and key. */
export function platformKeyOf(pck: Certificate, issuer: Certificate): PlatformKey {
  return { issuer: issuerIdOf(issuer), serial: BigInt(pck.serial), ...pointOf(pck.publicKey) }
}

/** Computes a platform's id in the registry. */
export function platformIdOf({ issuer, serial, x, y }: PlatformKey): Hex {
  return keccak256(concat(fromHex(issuer, 32), uint(serial, 32), fromHex(x, 32), fromHex(y, 32)))
}

/** Cuts a quote into the parts the registry takes. Throws EncodingError on a malformed quote. */
export function quoteForChain(quote: Uint8Array) {
  const parts = parseTdxQuote(quote)
  const [pck, issuer] = parts.chain.map((der) => parseCertificate(der)) as [Certificate, Certificate]
  return {
    signed: toHex(parts.signed),
    r: half(parts.signature, 0),
    s: half(parts.signature, 1),
    attestationX: half(parts.attestationKey, 0),
    attestationY: half(parts.attestationKey, 1),
    qeReport: toHex(parts.qeReport),
    qeR: half(parts.qeReportSignature, 0),
    qeS: half(parts.qeReportSignature, 1),
    qeAuthData: toHex(parts.qeAuthData),
    platform: platformKeyOf(pck, issuer),
  }
}

/** Writes a 65-byte signature in its compact form (EIP-2098): the parity takes the top bit of s. */
function compactSignature(signature: Uint8Array): { r: Hex; yParityAndS: Hex } {
  const yParityAndS = signature.slice(32, 64)
  if (signature[64] === 28) yParityAndS[0]! |= 0x80
  return { r: half(signature, 0), yParityAndS: toHex(yParityAndS) }
}

/** Writes the registry's claim about a statement: what the chain cannot know by itself. `signerKey` is uncompressed, 65 bytes. Throws EncodingError on a malformed statement. */
export function claimForChain(registration: {
  statement: Uint8Array
  signerKey: Uint8Array
  nonceBlock: bigint
  provider: Hex
  signature: Uint8Array
}) {
  const { hpkeKey, gpuEvidence, notAfter } = decodeStatement(registration.statement)
  return {
    signerX: half(registration.signerKey.subarray(1), 0),
    signerY: half(registration.signerKey.subarray(1), 1),
    hpkeKey: toHex(hpkeKey),
    gpuEvidence: toHex(gpuEvidence),
    nonceBlock: registration.nonceBlock,
    notAfter,
    provider: registration.provider,
    ...compactSignature(registration.signature),
  }
}

/** Encodes the posting of TCB info or of the quoting enclave's identity. */
export function collateralCall(functionName: 'postTcbInfo' | 'postQeIdentity', collateral: CollateralOf<'tdx'>): Hex {
  const [text, signature, chain] =
    functionName === 'postTcbInfo'
      ? [collateral.tcbInfo, collateral.tcbInfoSignature, collateral.tcbInfoChain]
      : [collateral.qeIdentity, collateral.qeIdentitySignature, collateral.qeIdentityChain]
  const bytes = fromHex(signature, 64)
  const { publicKey, subject } = parseCertificate(parsePem(chain)[0]!)
  const signer = { ...pointOf(publicKey), name: keccak256(subject) }
  const args = [signer, toHex(packText(text)), half(bytes, 0), half(bytes, 1)] as const
  return encodeFunctionData({ abi: runnerRegistryAbi, functionName, args })
}

/** Encodes the addition of an intermediate that the root has signed. */
export function issuerCall({ tbs, signature }: Certificate): Hex {
  const args = [toHex(tbs), half(signature, 0), half(signature, 1)] as const
  return encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'addIssuer', args })
}

/** Encodes the registration of a platform's PCK certificate. */
export function pckCall({ tbs, signature }: Certificate, issuer: Certificate): Hex {
  const { x, y } = pointOf(issuer.publicKey)
  const args = [toHex(tbs), half(signature, 0), half(signature, 1), x, y] as const
  return encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'registerPck', args })
}

/** Encodes the posting of a revocation list that marks the entries of `serials` which stand on it. */
export function crlCall(crl: Uint8Array, issuer: Certificate, serials: 'all' | ReadonlySet<bigint>): Hex {
  const { tbs, signature } = parseCrl(crl)
  const offsets = crlEntries(crl)
    .filter(({ serial }) => serials === 'all' || serials.has(serial))
    .map(({ offset }) => BigInt(offset))
  const { x, y } = pointOf(issuer.publicKey)
  const args = [toHex(pack(tbs)), half(signature, 0), half(signature, 1), x, y, offsets] as const
  return encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'postCrl', args })
}

/** Posts a CA's revocation list, marking every platform registered under that CA which stands on it, and strikes those. Gives how many were struck; null when the node does not give the events that tell who is registered, and the list was posted without marks. */
export async function postRevocations({
  publicClient,
  registry,
  send,
  crl,
  issuer,
}: {
  publicClient: PublicClient
  registry: Address
  send: Send
  crl: Uint8Array
  issuer: Certificate
}): Promise<number | null> {
  const listed = new Set(crlEntries(crl).map(({ serial }) => serial))
  // Many nodes refuse events of long ago; the list's dates matter to every runner, so it is posted all the same.
  const registered = await publicClient
    .getContractEvents({
      address: registry,
      abi: runnerRegistryAbi,
      eventName: 'PckRegistered',
      args: { issuer: issuerIdOf(issuer) },
      fromBlock: 0n,
      strict: true,
    })
    .catch(() => null)
  const struck = (registered ?? []).map(({ args }) => args).filter(({ serial }) => listed.has(serial))
  await send(crlCall(crl, issuer, new Set(struck.map(({ serial }) => serial))))
  for (const { issuer: id, serial, x, y } of struck) {
    const args = [{ issuer: id, serial, x, y }] as const
    await send(encodeFunctionData({ abi: runnerRegistryAbi, functionName: 'strike', args }))
  }
  return registered && struck.length
}

/** Posts what the registry lacks before a quote can register: intermediates, revocation lists, the platform's certificate, TCB info, the quoting enclave's identity. Anyone may post any of it, so what another has posted is not posted again. `now` in unix seconds. Throws EncodingError on malformed evidence or collateral. */
export async function postWhatIsMissing({
  publicClient,
  registry,
  send,
  quote,
  collateral,
  now,
}: {
  publicClient: PublicClient
  registry: Address
  send: Send
  quote: Uint8Array
  collateral: CollateralOf<'tdx'>
  now: number
}): Promise<void> {
  const at = { address: registry, abi: runnerRegistryAbi } as const
  const [pck, platformCa, root] = parseTdxQuote(quote).chain.map((der) => parseCertificate(der)) as [
    Certificate,
    Certificate,
    Certificate,
  ]
  const lapses = (until: number) => until < now + renewBeforeSeconds

  const signers = [collateral.tcbInfoChain, collateral.qeIdentityChain].map((pem) =>
    parseCertificate(parsePem(pem)[0]!),
  )
  for (const certificate of [platformCa, ...signers]) {
    const [role] = await publicClient.readContract({ ...at, functionName: 'issuers', args: [issuerIdOf(certificate)] })
    if (role === 0) await send(issuerCall(certificate))
  }

  const key = platformKeyOf(pck, platformCa)
  const lists = [
    { der: collateral.rootCaCrl, issuer: root, post: (der: Uint8Array) => send(crlCall(der, root, 'all')) },
    {
      der: collateral.pckCrl,
      issuer: platformCa,
      post: (crl: Uint8Array) => postRevocations({ publicClient, registry, send, crl, issuer: platformCa }),
    },
  ]
  for (const { der, issuer, post } of lists) {
    const id = issuerIdOf(issuer)
    const [, , , thisUpdate, nextUpdate] = await publicClient.readContract({
      ...at,
      functionName: 'issuers',
      args: [id],
    })
    if (lapses(nextUpdate) && parseCrl(der).thisUpdate > thisUpdate) await post(der)
  }

  const [, , , , notAfter] = await publicClient.readContract({
    ...at,
    functionName: 'platforms',
    args: [platformIdOf(key)],
  })
  if (notAfter === 0) await send(pckCall(pck, platformCa))

  const { fmspc, pceId } = readPckExtension(pck)
  const [, , , maxAgeHours, , collateralEpoch] = await publicClient.readContract({ ...at, functionName: 'tcbRules' })
  const stale = (issueDate: number, nextUpdate: number, epoch: number) =>
    lapses(Math.min(nextUpdate, issueDate + maxAgeHours * 3_600)) || epoch !== collateralEpoch
  const tcb = await publicClient.readContract({ ...at, functionName: 'tcbInfos', args: [`0x${fmspc}${pceId}`] })
  if (stale(tcb[1], tcb[2], tcb[4])) await send(collateralCall('postTcbInfo', collateral))
  const qe = await publicClient.readContract({ ...at, functionName: 'qeIdentity' })
  if (stale(qe.issueDate, qe.nextUpdate, qe.collateralEpoch)) await send(collateralCall('postQeIdentity', collateral))
}
