import { describe, expect, test } from 'vitest'
import type { RunnerChain } from '../../gpu-runner/chain.ts'
import { registerRunner } from '../../gpu-runner/register.ts'
import { createDevelopmentTee, type TeeFault } from '../../gpu-runner/tee/development.ts'
import { createDevelopmentGpu } from '../../gpu-runner/tee/developmentGpu.ts'
import { createDevelopmentSnp } from '../../gpu-runner/tee/developmentSnp.ts'
import type { RegistrationJson } from '../../protocol/attestRegistration.ts'
import { fromHex, type Hex, toHex, utf8 } from '../../protocol/bytes.ts'
import { gpuEvidenceDigest } from '../../protocol/evidence/gpu.ts'
import { developmentRoots } from '../../protocol/evidence/roots.development.ts'
import { decodeStatement, gpuNonce } from '../../protocol/evidence/statement.ts'
import { sha256 } from '../../protocol/hash.ts'
import { createSigner } from '../../protocol/secp256k1.ts'

const now = () => Date.UTC(2026, 10, 21)
const seed = new Uint8Array(32).fill(7)
const tee = createDevelopmentTee({ seed, now: () => now() / 1000 })
const roots = developmentRoots({ chainId: 31_337, intel: tee.rootDer })
const signer = createSigner(sha256(utf8('test key: runner')))
const contract = `0x${'5e'.repeat(20)}` as Hex
const blockHash = new Uint8Array(32).fill(3)

async function register(
  postToEdge: (registration: RegistrationJson) => Promise<void>,
  more: Partial<Parameters<typeof registerRunner>[0]> = {},
) {
  const paid: object[] = []
  const waits: number[] = []
  const chain = {
    provider: contract,
    recentBlock: async () => ({ number: 1n, hash: `0x${'03'.repeat(32)}` as Hex }),
    register: async (registration: object) => {
      paid.push(registration)
      return '0x' as Hex
    },
  } as unknown as RunnerChain
  const done = registerRunner({
    tee: { root: 'development', evidence: async (data) => ({ format: 'tdx', quote: tee.quote(data) }) },
    chain,
    chainId: 31_337,
    registry: contract,
    domain: { chainId: 31_337, escrow: contract },
    signer,
    hpkeKey: new Uint8Array(32).fill(2),
    collateralFor: async () => tee.collateral(),
    roots: [roots],
    postToEdge,
    now,
    sleep: async (ms) => void waits.push(ms),
    ...more,
  })
  return { done, paid, waits }
}

describe('registerRunner', () => {
  test('behavior: while the edge does not answer, what was paid for is offered again and never paid again', async () => {
    let asked = 0
    const { done, paid, waits } = await register(async () => {
      if (++asked < 4) throw new Error('unavailable')
    })
    await done
    expect([asked, paid.length]).toEqual([4, 1])
    expect(waits).toEqual([1_000, 2_000, 4_000])
  })

  test('refusal: an edge that goes on refusing ends it, with its own words and one payment', async () => {
    const { done, paid } = await register(async () => {
      throw new Error('The edge answered 422 evidence_refuted.')
    })
    await expect(done).rejects.toThrow('evidence_refuted')
    expect(paid).toHaveLength(1)
  })

  test('behavior: GPUs answer a nonce that names the keys, and the statement names their answer', async () => {
    const gpu = await createDevelopmentGpu({ seed, now: () => now() / 1000 })
    const nonces: Uint8Array[] = []
    const posted: RegistrationJson[] = []
    const { done } = await register(async (registration) => void posted.push(registration), {
      roots: [{ ...roots, nvidia: gpu.root }],
      gpus: async (nonce) => {
        nonces.push(nonce)
        return [gpu.evidence(nonce)]
      },
    })
    await done
    expect(nonces).toEqual([gpuNonce(blockHash, signer.address, new Uint8Array(32).fill(2))])
    const named = decodeStatement(fromHex(posted[0]!.statement)).gpuEvidence
    expect(toHex(named)).toBe(toHex(gpuEvidenceDigest([gpu.evidence(nonces[0]!)])))
    expect(posted[0]!.gpus).toHaveLength(1)
  })

  test('refusal: SNP reports where no verifiers are known, whose word the chain would need', async () => {
    const machine = await createDevelopmentSnp({ seed, now: () => now() / 1000 })
    const snp = {
      root: 'development' as const,
      evidence: async (data: Uint8Array) => ({ format: 'snp' as const, report: machine.report(data) }),
    }
    const { done, paid } = await register(async () => {}, {
      tee: snp,
      roots: [{ ...roots, amd: machine.roots }],
      collateralFor: () => machine.collateral(),
    })
    await expect(done).rejects.toThrow('ASSAY_VERIFIERS')
    expect(paid).toHaveLength(0)
  })

  test.each<[TeeFault, RegExp]>([
    ['debug', /debug: .* Start the guest without debugging/],
    ['tcb_out_of_date', /tcb_status: .* Update firmware/],
  ])('refusal: a machine that the edge would refuse (%s) pays nothing, and is told what to do', async (fault, why) => {
    const fallen = createDevelopmentTee({ seed, now: () => now() / 1000, faults: [fault] })
    const { done, paid } = await register(async () => {}, {
      tee: { root: 'development', evidence: async (data) => ({ format: 'tdx', quote: fallen.quote(data) }) },
      collateralFor: async () => fallen.collateral(),
    })
    await expect(done).rejects.toThrow(why)
    expect(paid).toHaveLength(0)
  })
})
