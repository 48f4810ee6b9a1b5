import type { Roots } from '../protocol/evidence/index.ts'
import { readVerifierConfig, type VerifierConfig } from './config.ts'
import { serveVerifier } from './serve.ts'

/** Runs a verifier by the settings of the environment until it is told to stop; exits with 1 and a reason when it cannot begin. */
export async function runVerifier(rootsOf: (config: VerifierConfig) => Roots[]): Promise<void> {
  const log = (event: string, fields: Record<string, string | number | boolean> = {}) =>
    void process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), event, ...fields })}\n`)
  try {
    const config = readVerifierConfig(process.env)
    const verifier = await serveVerifier(config, rootsOf(config), log)
    log('ready', { url: verifier.url, address: verifier.address })
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.once(signal, () => void verifier.stop().then(() => process.exit(0)))
  } catch (error) {
    log('setup_failed', { message: error instanceof Error ? error.message : 'unknown' })
    process.exit(1)
  }
}
