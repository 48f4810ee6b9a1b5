import { describe, expect, test } from 'vitest'
import { readConfig, settingNames } from '../../gpu-runner/config.ts'
import { readRunnerFile, ruleFor } from '../../gpu-runner/runnerFile.ts'
import type { Hex } from '../../protocol/bytes.ts'

const digest: Hex = `0x${'ab'.repeat(32)}`
const other: Hex = `0x${'cd'.repeat(32)}`
const text = `
edge = "https://edge.example"
rpc = "https://node.example"
state = "/var/lib/assay"
threads = 2
models_unused = 1
`

describe('readRunnerFile', () => {
  test('behavior: settings go by the names of their variables, and rules by model', () => {
    const file = readRunnerFile(`
      edge = "https://edge.example"
      threads = 2
      verifiers = ["https://one.example", "https://two.example"]
      [models.others]
      minimum_price = 5
      [models."${digest}"]
      capacity = 8
      minimum_price = "340282366920938463463374607431768211455"
    `)
    expect(file.settings).toEqual({
      ASSAY_EDGE: 'https://edge.example',
      ASSAY_THREADS: '2',
      ASSAY_VERIFIERS: 'https://one.example,https://two.example',
    })
    expect(ruleFor(file, digest)).toEqual({ capacity: 8, minimumPrice: 2n ** 128n - 1n })
    expect(ruleFor(file, other)).toEqual({ minimumPrice: 5n })
  })

  test('behavior: what the file says and the environment adds makes a whole configuration', () => {
    const { settings } = readRunnerFile('edge = "https://edge.example"\nrpc = "https://node.example"\nstate = "/s"')
    const config = readConfig({
      ...settings,
      ASSAY_RPC: 'https://mine.example',
      ASSAY_PROVIDER_KEY: `0x${'01'.repeat(32)}`,
    })
    expect([config.ASSAY_EDGE, config.ASSAY_RPC]).toEqual(['https://edge.example', 'https://mine.example'])
    expect(settingNames).toContain('ASSAY_EDGE')
  })

  const configOf = (toml: string) =>
    readConfig({
      ...readRunnerFile(`edge = "https://edge.example"\nrpc = "https://node.example"\nstate = "/s"\n${toml}`).settings,
      ASSAY_PROVIDER_KEY: `0x${'01'.repeat(32)}`,
    })

  test('behavior: devices are a list of numbers, an executor for each', () => {
    expect(configOf('provider = "cuda"\ndevices = [0, 2]').ASSAY_DEVICES).toEqual([0, 2])
    expect(configOf('provider = "cuda"\ndevices = 1\nexecutors = 1').ASSAY_DEVICES).toEqual([1])
    expect(configOf('provider = "cuda"').ASSAY_DEVICES).toBeUndefined()
  })

  test.each([
    ['a fraction', 'provider = "cuda"\ndevices = [0.5]', 'ASSAY_DEVICES.0: must be whole numbers'],
    ['a number below nothing', 'provider = "cuda"\ndevices = [-1]', 'must be whole numbers'],
    ['a word', 'provider = "cuda"\ndevices = ["gpu0"]', 'must be whole numbers'],
    ['none', 'provider = "cuda"\ndevices = []', 'must be whole numbers'],
    ['one twice', 'provider = "cuda"\ndevices = [1, 1]', 'names a device twice'],
    ['one twice, written in two ways', 'provider = "cuda"\ndevices = ["1", "01"]', 'names a device twice'],
    ['of the processor', 'devices = [0]', 'the devices of "cpu" have no numbers'],
    ['of WebGPU', 'provider = "webgpu"\ndevices = [0]', 'the devices of "webgpu" have no numbers'],
    ['fewer than executors', 'provider = "cuda"\ndevices = [0]\nexecutors = 2', 'each device has one executor'],
  ])('refusal: devices: %s', (_, wrong, message) => {
    expect(() => configOf(wrong)).toThrow(message)
  })

  test.each([
    ['no TOML', 'edge = ', 'is not TOML (line 1)'],
    ['a setting there is not', text, 'no setting "models_unused"'],
    ['a key', `provider_key = "0x${'01'.repeat(32)}"`, 'set ASSAY_PROVIDER_KEY in the environment'],
    ['a seed', 'development_seed = "x"', 'set ASSAY_DEVELOPMENT_SEED in the environment'],
    ['a table for a value', '[edge]\nurl = "x"', 'edge takes one value'],
    ['a model by name', '[models.digits]\ncapacity = 1', 'must be a digest'],
    ['a rule there is not', '[models.others]\nprice = 1', 'models.others'],
    ['a capacity of nothing', '[models.others]\ncapacity = 0', 'models.others.capacity'],
    ['a price below nothing', '[models.others]\nminimum_price = -1', 'models.others.minimum_price'],
  ])('refusal: %s', (_, wrong, message) => {
    expect(() => readRunnerFile(wrong)).toThrow(
      expect.objectContaining({ name: 'RunnerFileError', message: expect.stringContaining(message) }),
    )
  })

  test('attack: no value of the file stands in an error', () => {
    for (const wrong of [`provider_key = "0x${'77'.repeat(32)}"`, `[models.others]\ncapacity = "${'77'.repeat(32)}"`]) {
      let message = ''
      try {
        readRunnerFile(wrong)
      } catch (error) {
        message = (error as Error).message
      }
      expect(message).not.toBe('')
      expect(message).not.toContain('7777')
    }
  })
})
