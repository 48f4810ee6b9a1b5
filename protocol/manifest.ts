import { concat, EncodingError, type Hex, toHex, utf8 } from './bytes.ts'
import { canonicalJson } from './canonicalJson.ts'
import { sha256 } from './hash.ts'
import { type Datatype, isDatatype } from './tensors.ts'

/** Describes one tensor of a model; -1 is a free dimension. */
export type TensorSpec = { name: string; datatype: Datatype; shape: readonly number[] }

/** Names one file of a model by its bytes; `sha256` is 64 lower-case hex digits, `size` bytes. */
export type ManifestFile = { path: string; size: number; sha256: string }

/** Says whether two honest runs give the same bits, or how far they may differ. */
export type ExecutionClass = { class: 'exact' } | { class: 'tolerant'; atol: number; rtol: number }

/** Names everything a model is: its files by digest, its tensors, what the publisher feeds, how exact it is. */
export type Manifest = {
  name: string
  version: string
  licence: string
  /** The first is the graph. */
  files: readonly ManifestFile[]
  inputs: readonly TensorSpec[]
  outputs: readonly TensorSpec[]
  /** Tensors the publisher feeds besides the buyer's; `path` names an entry of `files`. */
  fixedInputs: readonly (TensorSpec & { path: string })[]
  execution: ExecutionClass
  opsets: readonly { domain: string; version: number }[]
}

const tag = utf8('ASY1modl')

/** Computes the model digest of a manifest. Throws EncodingError when the manifest is not JSON. */
export function modelDigest(manifest: Manifest): Hex {
  return toHex(sha256(concat(tag, utf8(canonicalJson(manifest)))))
}

function refuse(where: string, expected: string): never {
  throw new EncodingError(`Manifest ${where}: expected ${expected}.`)
}

function object(value: unknown, where: string, keys: readonly string[]): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse(where, 'an object')
  const record = value as Record<string, unknown>
  for (const key of Object.keys(record)) if (!keys.includes(key)) refuse(`${where}.${key}`, 'no such field')
  for (const key of keys) if (!(key in record)) refuse(`${where}.${key}`, 'a value')
  return record
}

function text(value: unknown, where: string, pattern = /^[^\p{Cc}]{1,256}$/u): string {
  if (typeof value !== 'string' || !value.isWellFormed() || !pattern.test(value))
    refuse(where, `text matching ${pattern}`)
  return value as string
}

function whole(value: unknown, where: string, minimum = 0): number {
  if (!Number.isSafeInteger(value) || (value as number) < minimum)
    refuse(where, `a whole number of at least ${minimum}`)
  return value as number
}

function list<T>(value: unknown, where: string, maximum: number, read: (entry: unknown, where: string) => T): T[] {
  if (!Array.isArray(value) || value.length > maximum) refuse(where, `a list of at most ${maximum}`)
  return (value as unknown[]).map((entry, index) => read(entry, `${where}[${index}]`))
}

const pathPattern = /^(?!.*(^|\/)\.\.?(\/|$))[A-Za-z0-9_.-]+(\/[A-Za-z0-9_.-]+)*$/

function readSpec(record: Record<string, unknown>, where: string): TensorSpec {
  const datatype = text(record.datatype, `${where}.datatype`)
  if (!isDatatype(datatype)) refuse(`${where}.datatype`, 'an Open Inference Protocol v2 datatype')
  return {
    name: text(record.name, `${where}.name`),
    datatype: datatype as Datatype,
    shape: list(record.shape, `${where}.shape`, 255, (dimension, at) => whole(dimension, at, -1)),
  }
}

function unique(names: readonly string[], where: string): void {
  if (new Set(names).size !== names.length) refuse(where, 'every name once')
}

/** Reads a manifest from parsed JSON. Throws EncodingError naming the field and what it should be; unknown fields are refused, so nothing is hidden in the digest. */
export function parseManifest(json: unknown): Manifest {
  const record = object(json, 'root', [
    'name',
    'version',
    'licence',
    'files',
    'inputs',
    'outputs',
    'fixedInputs',
    'execution',
    'opsets',
  ])
  const files = list(record.files, 'files', 1_024, (entry, where) => {
    const file = object(entry, where, ['path', 'size', 'sha256'])
    return {
      path: text(file.path, `${where}.path`, pathPattern),
      size: whole(file.size, `${where}.size`),
      sha256: text(file.sha256, `${where}.sha256`, /^[0-9a-f]{64}$/),
    }
  })
  if (files.length === 0) refuse('files', 'the graph as its first entry')
  unique(
    files.map((file) => file.path),
    'files',
  )
  const spec = (entry: unknown, where: string) => readSpec(object(entry, where, ['name', 'datatype', 'shape']), where)
  const inputs = list(record.inputs, 'inputs', 1_024, spec)
  const outputs = list(record.outputs, 'outputs', 1_024, spec)
  const fixedInputs = list(record.fixedInputs, 'fixedInputs', 1_024, (entry, where) => {
    const fixed = object(entry, where, ['name', 'path', 'datatype', 'shape'])
    const path = text(fixed.path, `${where}.path`, pathPattern)
    if (!files.some((file) => file.path === path)) refuse(`${where}.path`, 'the path of one of files')
    const { name, datatype, shape } = readSpec(fixed, where)
    if (shape.some((dimension) => dimension < 0)) refuse(`${where}.shape`, 'no free dimension')
    return { name, path, datatype, shape }
  })
  unique(
    [...inputs, ...fixedInputs].map((input) => input.name),
    'inputs and fixedInputs',
  )
  unique(
    outputs.map((output) => output.name),
    'outputs',
  )
  if (outputs.length === 0) refuse('outputs', 'at least one output')
  const execution = record.execution as Record<string, unknown> | null
  let executionClass: ExecutionClass
  if (execution?.class === 'exact') {
    object(execution, 'execution', ['class'])
    executionClass = { class: 'exact' }
  } else if (execution?.class === 'tolerant') {
    const { atol, rtol } = object(execution, 'execution', ['class', 'atol', 'rtol'])
    for (const [name, bound] of [
      ['atol', atol],
      ['rtol', rtol],
    ] as const) {
      if (typeof bound !== 'number' || !(bound >= 0 && bound < 1)) refuse(`execution.${name}`, 'a number in [0, 1)')
    }
    executionClass = { class: 'tolerant', atol: atol as number, rtol: rtol as number }
  } else {
    refuse('execution', '{ class: "exact" } or { class: "tolerant", atol, rtol }')
  }
  return {
    name: text(record.name, 'name', /^[a-z0-9][a-z0-9._-]{0,95}$/),
    version: text(record.version, 'version', /^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$/),
    licence: text(record.licence, 'licence', /^[\x20-\x7e]{1,64}$/),
    files,
    inputs,
    outputs,
    fixedInputs,
    execution: executionClass,
    opsets: list(record.opsets, 'opsets', 64, (entry, where) => {
      const opset = object(entry, where, ['domain', 'version'])
      return {
        domain: text(opset.domain, `${where}.domain`, /^[\x21-\x7e]{0,128}$/),
        version: whole(opset.version, `${where}.version`, 1),
      }
    }),
  }
}
