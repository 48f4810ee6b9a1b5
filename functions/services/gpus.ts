import { type GpuJudgement, gpusFromJson, judgeGpus as judge } from '../../protocol/attestRegistration.ts'
import { EncodingError, fromUtf8, type Hex } from '../../protocol/bytes.ts'
import { createEvidenceCache, type GpuCollateral, type GpuEvidence } from '../../protocol/evidence/index.ts'
import { parseStrictList } from '../../protocol/evidence/json.ts'
import { askAboutGpus, unanswered } from '../../protocol/evidence/ocsp.ts'
import { rimTableFromJson, type SignedRimTable } from '../../protocol/evidence/rim.ts'
import type { Statement } from '../../protocol/evidence/statement.ts'
import type { Claim } from '../../protocol/evidence/verdict.ts'
import type { Context } from '../context.ts'
import { UnavailableError } from '../errors.ts'

/** Names the object that holds the signed tables of reference measurements, one JSON list. */
export const rimTablesKey = 'rims/tables.json'

async function readTables({ artifacts }: Context): Promise<SignedRimTable[]> {
  const object = await artifacts.get(rimTablesKey)
  if (!object) return []
  try {
    return parseStrictList(fromUtf8(new Uint8Array(await object.arrayBuffer()))).map(rimTableFromJson)
  } catch (error) {
    throw new UnavailableError('list of reference measurements', error)
  }
}

// A certificate that was answered for is not asked about again within the hour.
const answers = createEvidenceCache()

/** Gives what GPUs are judged by: the signed tables kept beside the artifacts, and what NVIDIA answers about their certificates; nothing where there are no GPUs. Throws EncodingError on a malformed chain. */
export async function gpuCollateral(context: Context, gpus: readonly GpuEvidence[]): Promise<GpuCollateral> {
  if (gpus.length === 0) return { rims: [], ocsp: null }
  const { fetch, settings, now } = context
  const source = { fetch, url: settings.OCSP_URL, nonce: () => crypto.getRandomValues(new Uint8Array(32)) }
  const ocsp = await askAboutGpus(gpus, source, Math.floor(now() / 1000), answers)
  return { rims: await readTables(context), ocsp }
}

/** Says to a provider what of its GPUs could not be judged, and what comes of it; nothing where all was, or there are none. */
export function noticesOf(
  claims: readonly Claim[],
  gpus: readonly GpuEvidence[],
  { ocsp }: Pick<GpuCollateral, 'ocsp'>,
): string[] {
  const open = claims.find(({ claim, status }) => claim === 'gpu_attested' && status === 'unknown')
  const silent = unanswered(gpus, ocsp ?? {})
  const notices = open ? [`Buyers who ask for an attested GPU do not find this runner: ${open.detail}`] : []
  if (silent.length > 0)
    notices.push(
      `NVIDIA's OCSP responder did not answer for ${silent.join(', ')}. It is asked again every hour; nothing need be done.`,
    )
  return notices
}

/** Judges the GPUs of a registration as it is kept: what cannot be read is refused like what is false. */
export async function judgeGpus(
  context: Context,
  { statement, signer, gpus }: { statement: Statement; signer: Hex; gpus: readonly unknown[] },
): Promise<GpuJudgement> {
  const { roots, policy, now } = context
  try {
    const list = gpusFromJson(gpus)
    return await judge(
      { statement, signer, gpus: list },
      { now: Math.floor(now() / 1000), roots, policy, gpuCollateral: await gpuCollateral(context, list) },
    )
  } catch (error) {
    if (!(error instanceof EncodingError)) throw error
    return { ok: false, refusal: { reason: 'malformed_evidence', detail: error.message } }
  }
}
