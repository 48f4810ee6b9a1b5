import { fromBase64, type Hex } from '../bytes.ts'

/** Names AMD's processors that attest guests, each with a root key of its own. */
export type AmdProduct = 'Milan' | 'Genoa' | 'Turin'

/** Holds what the vendors' chains must end in, and whose roots these are: Intel's as DER, the others as SHA-256 of the DER. A vendor that is absent is not trusted. */
export type Roots = {
  readonly kind: 'vendor' | 'development'
  readonly intel: Uint8Array
  readonly amd?: Readonly<Partial<Record<AmdProduct, Hex>>>
  readonly aws?: Hex
  readonly nvidia?: Hex
  /** Keys (uncompressed P-256) of those who verify NVIDIA's reference measurements and sign tables of them. */
  readonly rimSigners?: readonly Hex[]
}

// Intel SGX Root CA, valid to 2049-12-31; SHA-256 of the DER 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
const intelSgxRootCa =
  'MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUlu' +
  'dGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIz' +
  'NTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkG' +
  'A1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL' +
  '0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2Nl' +
  'cnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYD' +
  'VR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0l' +
  'rHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI='

/** Trusts the vendors' own roots and nothing else. */
export const vendorRoots: Roots = {
  kind: 'vendor',
  intel: fromBase64(intelSgxRootCa),
  // AMD root keys: ARK-Milan, ARK-Genoa, ARK-Turin.
  amd: {
    Milan: '0x69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd',
    Genoa: '0x4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1',
    Turin: '0x1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a',
  },
  // AWS Nitro Enclaves root, valid to 2049-10-28.
  aws: '0x641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b',
  // NVIDIA Device Identity CA.
  nvidia: '0x102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48',
}
