import { type CollateralSource, fetchCollateral, platformOf } from '../protocol/evidence/collateral.ts'
import type { Collateral } from '../protocol/evidence/index.ts'
import type { CollateralKeeper } from './verify.ts'

/** Collateral older than this is fetched again, so that a revocation is seen within hours. */
const freshMs = 6 * 3_600_000

/** Most platforms kept. */
const maxPlatforms = 4_096

/** Fetches collateral by platform and keeps it for hours. It is verified with the evidence each time, and let go of when that fails. */
export function createCollateralSource(source: CollateralSource, now: () => number): CollateralKeeper {
  const kept = new Map<string, { collateral: Collateral; fetchedAt: number }>()
  return {
    async collateralFor(evidence) {
      const platform = platformOf(evidence)
      if (platform === null) return null
      const known = kept.get(platform)
      if (known && now() - known.fetchedAt < freshMs) return known.collateral
      const collateral = (await fetchCollateral(evidence, source))!
      kept.delete(platform)
      kept.set(platform, { collateral, fetchedAt: now() })
      if (kept.size > maxPlatforms) kept.delete(kept.keys().next().value!)
      return collateral
    },
    forget(evidence) {
      const platform = platformOf(evidence)
      if (platform !== null) kept.delete(platform)
    },
  }
}
