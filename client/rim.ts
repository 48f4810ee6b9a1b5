import { createRequire } from 'node:module'
import { DOMParser, type Element as XmlElement, type Node as XmlNode } from '@xmldom/xmldom'
import type * as XmlCrypto from 'xml-crypto'
import { EncodingError, equalBytes, fromBase64, type Hex, toHex, utf8 } from '../protocol/bytes.ts'
import { type RimTable, rimTableBytes, type SignedRimTable } from '../protocol/evidence/rim.ts'
import { Refused, reading, require as refuseUnless } from '../protocol/evidence/verdict.ts'
import {
  type Certificate,
  checkIssued,
  checkWindow,
  p384Profile,
  parseCertificate,
  verifyEcdsa,
} from '../protocol/evidence/x509.ts'
import { sha256 } from '../protocol/hash.ts'

const { C14nCanonicalization, findAncestorNs } = createRequire(import.meta.url)('xml-crypto') as typeof XmlCrypto

/** SHA-256 of the DER of "NVIDIA CoRIM signing Root CA", valid to 2053. */
const nvidiaRimRoot: Hex = '0x12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1'

const dsig = 'http://www.w3.org/2000/09/xmldsig#'
const swid = 'http://standards.iso.org/iso/19770/-2/2015/schema.xsd'
const algorithms = {
  canonicalization: 'http://www.w3.org/2006/12/xml-c14n11',
  enveloped: 'http://www.w3.org/2000/09/xmldsig#enveloped-signature',
  signature: 'http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384',
  digest: 'http://www.w3.org/2001/04/xmldsig-more#sha384',
}

/** Holds what a reference integrity manifest says, once its signature and chain were verified. Times in unix seconds. */
export type VerifiedRim = { table: RimTable; signer: string }

function parseXml(text: string): XmlElement {
  if (/<!DOCTYPE|<!ENTITY/i.test(text)) throw new EncodingError('The RIM declares a document type.')
  let root: XmlElement | null
  try {
    const fail = (_: string, message: string) => {
      throw new EncodingError(`The RIM is not XML: ${message}`)
    }
    root = new DOMParser({ onError: fail }).parseFromString(text, 'application/xml').documentElement
  } catch (error) {
    if (error instanceof EncodingError) throw error
    throw new EncodingError('The RIM is not XML.')
  }
  if (root?.localName !== 'SoftwareIdentity' || root.namespaceURI !== swid)
    throw new EncodingError('The RIM is not a SWID tag.')
  return root
}

const isElement = (node: XmlNode): node is XmlElement => node.nodeType === 1

function children(parent: XmlElement, namespace: string, name: string): XmlElement[] {
  return [...(parent.childNodes as unknown as Iterable<XmlNode>)].filter(
    (node): node is XmlElement => isElement(node) && node.namespaceURI === namespace && node.localName === name,
  )
}

function only(parent: XmlElement, namespace: string, name: string): XmlElement {
  const found = children(parent, namespace, name)
  if (found.length !== 1) throw new EncodingError(`The RIM has ${found.length} of ${name}, not one.`)
  return found[0]!
}

function canonical(node: XmlElement, ancestors: { prefix: string; namespaceURI: string }[]): Uint8Array<ArrayBuffer> {
  // The two versions of inclusive canonicalization differ in xml: attributes alone, which are refused above.
  const text = new C14nCanonicalization().process(
    node as unknown as Parameters<InstanceType<typeof C14nCanonicalization>['process']>[0],
    {
      ancestorNamespaces: ancestors,
    },
  )
  return utf8(text)
}

const text = (element: XmlElement) => (element.textContent ?? '').replace(/\s/g, '')
const algorithmOf = (element: XmlElement) => element.getAttribute('Algorithm')

type Signature = {
  signedInfo: XmlElement
  value: Uint8Array
  digest: Uint8Array
  certificates: Uint8Array[]
  element: XmlElement
}

/** Reads the one signature a RIM may have: enveloped, over the whole document, by the one set of algorithms NVIDIA uses (XML Signature §4). Throws EncodingError. */
function readSignature(root: XmlElement): Signature {
  if (root.getElementsByTagNameNS(dsig, 'Signature').length !== 1)
    throw new EncodingError('The RIM does not have exactly one signature.')
  const element = only(root, dsig, 'Signature')
  const signedInfo = only(element, dsig, 'SignedInfo')
  const reference = only(signedInfo, dsig, 'Reference')
  const transforms = children(only(reference, dsig, 'Transforms'), dsig, 'Transform').map(algorithmOf)
  const named = {
    canonicalization: algorithmOf(only(signedInfo, dsig, 'CanonicalizationMethod')),
    signature: algorithmOf(only(signedInfo, dsig, 'SignatureMethod')),
    digest: algorithmOf(only(reference, dsig, 'DigestMethod')),
  }
  for (const [what, algorithm] of Object.entries(named)) {
    if (algorithm !== algorithms[what as keyof typeof named])
      throw new EncodingError(`The RIM's ${what} algorithm is ${algorithm}.`)
  }
  if (reference.getAttribute('URI') !== '') throw new EncodingError('The signature does not cover the whole RIM.')
  if (
    transforms.length !== 2 ||
    transforms[0] !== algorithms.enveloped ||
    transforms[1] !== algorithms.canonicalization
  )
    throw new EncodingError('The signature transforms the RIM in another way than NVIDIA does.')
  const data = only(only(element, dsig, 'KeyInfo'), dsig, 'X509Data')
  return {
    element,
    signedInfo,
    value: fromBase64(text(only(element, dsig, 'SignatureValue'))),
    digest: fromBase64(text(only(reference, dsig, 'DigestValue'))),
    certificates: children(data, dsig, 'X509Certificate').map((certificate) => fromBase64(text(certificate))),
  }
}

async function checkChain(ders: Uint8Array[], root: Hex, now: number): Promise<Certificate[]> {
  const chain = reading('certificate_invalid', () => ders.map((der) => parseCertificate(der, p384Profile)))
  const last = chain.at(-1)
  refuseUnless(
    last !== undefined && toHex(sha256(last.der)) === root,
    'untrusted_root',
    'The RIM is not signed under the pinned root.',
  )
  for (const certificate of chain) checkWindow(certificate, now)
  for (const [index, certificate] of chain.entries()) await checkIssued(certificate, chain[index + 1] ?? certificate)
  const signer = chain[0]!
  refuseUnless(
    !signer.isCa && /RIM|Reference Value/.test(signer.commonName),
    'certificate_role',
    `"${signer.commonName}" does not sign reference measurements.`,
  )
  return chain
}

async function checkDigest(root: XmlElement, { element, digest }: Signature): Promise<void> {
  if ([...root.getElementsByTagName('*')].some((each) => [...each.attributes].some(({ prefix }) => prefix === 'xml')))
    throw new EncodingError('The RIM has xml: attributes, which versions of canonicalization treat differently.')
  root.removeChild(element)
  const actual = new Uint8Array(await crypto.subtle.digest('SHA-384', canonical(root, [])))
  refuseUnless(equalBytes(actual, digest), 'rim_invalid', 'The RIM was changed after it was signed.')
}

/** Reads what the measurements may be: every active resource of the payload, with its alternatives (NVIDIA RIM, TCG RIM information model §3.2). Throws EncodingError. */
function readMeasurements(root: XmlElement): Record<string, Hex[]> {
  const measurements: Record<string, Hex[]> = {}
  for (const resource of children(only(root, swid, 'Payload'), swid, 'Resource')) {
    if (resource.getAttribute('type') !== 'Measurement' || resource.getAttribute('active') !== 'True') continue
    const index = resource.getAttribute('index') ?? ''
    if (!/^([0-9]|[1-5][0-9]|6[0-3])$/.test(index)) throw new EncodingError(`The RIM has a measurement ${index}.`)
    if (measurements[index]) throw new EncodingError(`The RIM has measurement ${index} twice.`)
    const count = Number(resource.getAttribute('alternatives'))
    const values = [...resource.attributes]
      .filter(({ localName }) => /^Hash\d+$/.test(localName ?? ''))
      .map(({ value }) => `0x${value.toLowerCase()}` as Hex)
    if (values.length !== count || count < 1 || !values.every((value) => /^0x[0-9a-f]{96}$/.test(value)))
      throw new EncodingError(`Measurement ${index} of the RIM does not have ${count} SHA-384 values.`)
    measurements[index] = values
  }
  return measurements
}

/** Verifies one of NVIDIA's reference integrity manifests, as its service hands them out: XML signature over the whole of it, chain to the pinned root as of `now` (unix seconds); and gives its measurements as a table. Node only, because browsers and Workers have no XML parser: others take the table, signed. Throws Refused. */
export async function verifyRim(
  xml: string,
  { now, root = nvidiaRimRoot }: { now: number; root?: Hex },
): Promise<VerifiedRim> {
  try {
    const document = parseXml(xml)
    const signature = readSignature(document)
    const chain = await checkChain(signature.certificates, root, now)
    const ancestors = findAncestorNs(document.ownerDocument as never, "//*[local-name()='SignedInfo']")
    const signedInfo = canonical(signature.signedInfo, ancestors as { prefix: string; namespaceURI: string }[])
    refuseUnless(
      signature.value.length === 96 && (await verifyEcdsa('P-384', chain[0]!.publicKey, signature.value, signedInfo)),
      'rim_invalid',
      'The signature of the RIM does not verify.',
    )
    await checkDigest(document, signature)
    const meta = only(document, swid, 'Meta')
    const version = meta.getAttribute('colloquialVersion') ?? ''
    const product = meta.getAttribute('product') ?? ''
    if (meta.getAttribute('edition') !== 'GPU')
      throw new EncodingError(`The RIM is for a ${meta.getAttribute('edition') ?? 'nameless part'}, not for a GPU.`)
    const kind = /^[0-9A-F]{2}(\.[0-9A-F]{2}){4}$/i.test(version) ? 'vbios' : 'driver'
    return {
      signer: chain[0]!.commonName,
      table: {
        format: 'assay-rim-1',
        id: `${product} ${kind} ${version}`,
        kind,
        version,
        chip: product,
        measurements: readMeasurements(document),
        signerNotAfter: Math.min(...chain.map(({ notAfter }) => notAfter)),
        verifiedAt: now,
      },
    }
  } catch (error) {
    if (error instanceof EncodingError) throw new Refused('rim_invalid', error.message)
    throw error
  }
}

/** Creates a key that signs tables (ECDSA P-256), or takes one (a private CryptoKey and its public half) that verifiers already trust. */
export async function createRimSigner(
  pair?: CryptoKeyPair,
): Promise<{ key: Hex; sign: (table: RimTable) => Promise<SignedRimTable> }> {
  const { privateKey, publicKey } =
    pair ?? (await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']))
  const key = toHex(new Uint8Array(await crypto.subtle.exportKey('raw', publicKey)))
  return {
    key,
    async sign(table) {
      const algorithm = { name: 'ECDSA', hash: 'SHA-256' }
      const signature = await crypto.subtle.sign(algorithm, privateKey, rimTableBytes(table))
      return { table, signer: key, signature: toHex(new Uint8Array(signature)) }
    },
  }
}
