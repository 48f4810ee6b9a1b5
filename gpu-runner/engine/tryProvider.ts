import { createExecutor } from './executor.ts'
import type { Provider } from './providers.ts'

/** An ONNX graph that negates numbers: y = -x. */
const negation = Buffer.from(
  'CAgSBWFzc2F5OjQKCwoBeBIBeSIDTmVnEgFnWhAKAXgSCwoJCAESBQoDEgFuYhAKAXkSCwoJCAESBQoDEgFuQgQKABAN',
  'base64',
)

/** Finds out whether an execution provider works on this machine, or one of its devices by number, by running a graph of one operator with it. Gives null, or what the runtime says is missing. */
export async function tryProvider(
  provider: Provider,
  environment: Record<string, string> = {},
  device?: number,
): Promise<string | null> {
  const devices = device === undefined ? [] : [device]
  const executor = createExecutor({ threads: 1, provider, devices, environment, spare: false })
  try {
    await executor.load({ digest: 'negation', graph: negation, external: [] })
    const x = new Uint8Array(Float32Array.of(1, -2, 0.5).buffer)
    const [y] = await executor.run('negation', [{ name: 'x', datatype: 'FP32', shape: [3], data: x }], 60_000)
    const values = new Float32Array(y!.data.slice().buffer)
    return values.join() === '-1,2,-0.5' ? null : 'It runs, and gives wrong numbers.'
  } catch (error) {
    return error instanceof Error ? error.message : 'unknown'
  } finally {
    await executor.stop()
  }
}
