import { readFileSync } from 'node:fs'
import { privateKeyToAddress } from 'viem/accounts'
import { examine, reachable, showFindings } from './doctor.ts'
import { providers } from './engine/providers.ts'
import { tryProvider } from './engine/tryProvider.ts'
import { readRunnerFile } from './runnerFile.ts'
import { hasNativeSigner } from './signer.ts'

const librariesOf = ({ ASSAY_LIBRARY_PATH: path }: Record<string, string | undefined>): Record<string, string> =>
  path ? { LD_LIBRARY_PATH: path } : {}

/** Lists the execution providers that work here: the runtime names some whose libraries it does not have. */
async function workingProviders(environment: Record<string, string>): Promise<string[]> {
  const complaints = await Promise.all(providers.map((provider) => tryProvider(provider, environment)))
  return providers.filter((_, index) => complaints[index] === null)
}

/** Adds what the settings' file says to the environment, as a runner does. */
function settingsOf(environment: Record<string, string | undefined>): Record<string, string | undefined> {
  const { ASSAY_CONFIG: path } = environment
  return path ? { ...readRunnerFile(readFileSync(path, 'utf8')).settings, ...environment } : environment
}

/** Examines this machine and prints what was found, as a table or as JSON. Gives the exit code: 1 when something does not work. */
export async function runDoctor(asJson: boolean): Promise<number> {
  const settings = settingsOf(process.env)
  const libraries = librariesOf(settings)
  const findings = await examine({
    environment: settings,
    fetch,
    now: Date.now,
    nodeVersion: process.version,
    providers: () => workingProviders(libraries),
    tryDevice: (provider, device) => tryProvider(provider, libraries, device),
    nativeSigner: hasNativeSigner(),
    addressOf: (key) => privateKeyToAddress(key as `0x${string}`),
    exists: reachable,
  })
  process.stdout.write(`${asJson ? JSON.stringify({ findings }) : showFindings(findings)}\n`)
  return findings.some(({ health }) => health === 'bad') ? 1 : 0
}
