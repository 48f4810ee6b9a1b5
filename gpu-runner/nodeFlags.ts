/** Lists what a runner's Node is started with. Nearly nothing a job allocates outlives it, so a small young generation (in MiB) loses nothing and leaves less garbage lying about. */
export const nodeFlags = ['--no-warnings', '--max-semi-space-size=8'] as const
