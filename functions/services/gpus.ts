import { EncodingError, fromUtf8, type Hex } from '../../protocol/bytes.ts'
import { checkGpuLink } from '../../protocol/evidence/gpu.ts'
import {
  type Claim,
  type EvidenceOf,
  evidenceFromJson,
  type Refusal,
  verifyUnderRoots,
} from '../../protocol/evidence/index.ts'
import { parseStrictList } from '../../protocol/evidence/json.ts'
import { rimTableFromJson, type SignedRimTable } from '../../protocol/evidence/rim.ts'
import { gpuNonce, type Statement } from '../../protocol/evidence/statement.ts'
import type { Context } from '../context.ts'
import { UnavailableError } from '../errors.ts'

/** Names the object that holds the signed tables of reference measurements, one JSON list. */
export const rimTablesKey = 'rims/tables.json'

/** Says what is known of a machine's GPUs, or why they are refused. */
export type GpuJudgement = { ok: true; claims: Claim[] } | { ok: false; refusal: Refusal }

async function readTables({ artifacts }: Context): Promise<SignedRimTable[]> {
  const object = await artifacts.get(rimTablesKey)
  if (!object) return []
  try {
    return parseStrictList(fromUtf8(new Uint8Array(await object.arrayBuffer()))).map(rimTableFromJson)
  } catch (error) {
    throw new UnavailableError('list of reference measurements', error)
  }
}

function readGpus(gpus: readonly unknown[]): EvidenceOf<'gpu'>[] {
  return gpus.map((json) => {
    const evidence = evidenceFromJson(json)
    if (evidence.format !== 'gpu') throw new EncodingError(`Evidence: ${evidence.format} stands where a GPU belongs.`)
    return evidence
  })
}

/** Judges the GPUs a runner shows beside its quote: each by itself, answering the nonce that names the runner's keys, and all of them the ones the statement names. A GPU that is genuine but not measured against references leaves the claim `unknown`; a false one refuses the registration. */
export async function judgeGpus(
  context: Context,
  { statement, signer, gpus }: { statement: Statement; signer: Hex; gpus: readonly unknown[] },
): Promise<GpuJudgement> {
  let list: EvidenceOf<'gpu'>[]
  try {
    list = readGpus(gpus)
  } catch (error) {
    if (!(error instanceof EncodingError)) throw error
    return { ok: false, refusal: { reason: 'malformed_evidence', detail: error.message } }
  }
  const nonce = gpuNonce(statement.nonce, signer, statement.hpkeKey)
  const rims = list.length > 0 ? await readTables(context) : []
  const { roots, policy, now } = context
  const collateral = { format: 'gpu', rims, ocsp: null } as const
  const verdicts = await Promise.all(
    list.map((evidence) =>
      verifyUnderRoots(evidence, collateral, { now: Math.floor(now() / 1000), roots, policy, nonce }),
    ),
  )
  const refusal = verdicts.flatMap(({ refusals }) => refusals)[0] ?? checkGpuLink(statement.gpuEvidence, list, verdicts)
  if (refusal) return { ok: false, refusal }
  if (list.length === 0) return { ok: true, claims: [] }
  const open = verdicts.filter(({ verdict }) => verdict !== 'verified')
  const detail =
    open.length === 0
      ? `${list.length} genuine GPUs, measured against NVIDIA's references, answering this runner's nonce.`
      : `${open.length} of ${list.length} genuine GPUs could not be measured: ${open[0]!.claims.find(({ status, claim }) => status === 'unknown' && claim !== 'physically_untampered' && claim !== 'gpu_bound')?.detail}`
  return {
    ok: true,
    claims: [
      { claim: 'gpu_attested', status: open.length === 0 ? 'asserted' : 'unknown', source: 'hardware', detail },
      ...verdicts[0]!.claims.filter(({ claim }) => claim === 'gpu_bound'),
    ],
  }
}
