import { createCollateralSource } from '../../verifier/collateral.ts'

/** Collateral as a deployed verifier gets it, from a vendor that cannot be reached. */
export const { collateralFor } = createCollateralSource(
  {
    fetch: async () => {
      throw new Error('no network')
    },
    intelUrl: 'http://127.0.0.1:1',
    amdUrl: 'http://127.0.0.1:1',
  },
  () => 0,
)
