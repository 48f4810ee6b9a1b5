import { type GpuJudgement, gpusFromJson, judgeGpus as judge } from '../../protocol/attestRegistration.ts'
import { EncodingError, fromUtf8, type Hex } from '../../protocol/bytes.ts'
import type { GpuCollateral } from '../../protocol/evidence/index.ts'
import { parseStrictList } from '../../protocol/evidence/json.ts'
import { rimTableFromJson, type SignedRimTable } from '../../protocol/evidence/rim.ts'
import type { Statement } from '../../protocol/evidence/statement.ts'
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

/** Gives what GPUs are measured against: the signed tables kept beside the artifacts, none where there are no GPUs to measure. */
export async function gpuCollateral(context: Context, gpus: readonly unknown[]): Promise<GpuCollateral> {
  return { rims: gpus.length > 0 ? await readTables(context) : [], ocsp: null }
}

/** Judges the GPUs of a registration as it is kept: what cannot be read is refused like what is false. */
export async function judgeGpus(
  context: Context,
  { statement, signer, gpus }: { statement: Statement; signer: Hex; gpus: readonly unknown[] },
): Promise<GpuJudgement> {
  const { roots, policy, now } = context
  try {
    return await judge(
      { statement, signer, gpus: gpusFromJson(gpus) },
      { now: Math.floor(now() / 1000), roots, policy, gpuCollateral: await gpuCollateral(context, gpus) },
    )
  } catch (error) {
    if (!(error instanceof EncodingError)) throw error
    return { ok: false, refusal: { reason: 'malformed_evidence', detail: error.message } }
  }
}
