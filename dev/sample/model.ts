import type { Tensor } from '../../protocol/tensors.ts'
import { createRandom, drawDigit } from './glyphs.ts'
import { type Node, writeModel } from './onnxWriter.ts'

type Layer = { inputs: number; outputs: number; weights: Float32Array; bias: Float32Array }

function createLayer(inputs: number, outputs: number, random: () => number): Layer {
  const scale = Math.sqrt(6 / inputs)
  return {
    inputs,
    outputs,
    weights: Float32Array.from({ length: inputs * outputs }, () => (random() * 2 - 1) * scale),
    bias: new Float32Array(outputs),
  }
}

function forward(layer: Layer, input: Float32Array, relu: boolean): Float32Array {
  const output = layer.bias.slice()
  for (let i = 0; i < layer.inputs; i++) {
    const value = input[i]!
    if (value === 0) continue
    const row = i * layer.outputs
    for (let o = 0; o < layer.outputs; o++) output[o]! += value * layer.weights[row + o]!
  }
  if (relu) for (let o = 0; o < output.length; o++) if (output[o]! < 0) output[o] = 0
  return output
}

/** Takes one step of gradient descent in a layer and gives the gradient of its input. */
function backward(layer: Layer, input: Float32Array, gradient: Float32Array, rate: number): Float32Array {
  const below = new Float32Array(layer.inputs)
  for (let i = 0; i < layer.inputs; i++) {
    const row = i * layer.outputs
    let sum = 0
    for (let o = 0; o < layer.outputs; o++) {
      sum += gradient[o]! * layer.weights[row + o]!
      layer.weights[row + o]! -= rate * gradient[o]! * input[i]!
    }
    below[i] = input[i]! > 0 ? sum : 0
  }
  for (let o = 0; o < layer.outputs; o++) layer.bias[o]! -= rate * gradient[o]!
  return below
}

function softmax(logits: Float32Array): Float32Array {
  const top = Math.max(...logits)
  const powers = logits.map((logit) => Math.exp(logit - top))
  const sum = powers.reduce((a, b) => a + b)
  return powers.map((power) => power / sum)
}

/** Trains a 64-128-64-10 classifier of drawn digits by stochastic gradient descent, from a fixed seed. */
function trainDigits({ steps = 12_000, seed = 20_261_121 } = {}): Layer[] {
  const random = createRandom(seed)
  const layers = [createLayer(64, 128, random), createLayer(128, 64, random), createLayer(64, 10, random)]
  for (let step = 0; step < steps; step++) {
    const digit = Math.floor(random() * 10)
    const activations = [drawDigit(digit, random)]
    layers.forEach((layer, index) => {
      activations.push(forward(layer, activations[index]!, index < 2))
    })
    let gradient = softmax(activations[3]!)
    gradient[digit]! -= 1
    const rate = 0.02 * (1 - step / steps) + 0.001
    for (let index = 2; index >= 0; index--)
      gradient = backward(layers[index]!, activations[index]!, gradient, rate) as Float32Array<ArrayBuffer>
  }
  return layers
}

/** Gives the share of freshly drawn digits that layers classify rightly. */
export function accuracy(layers: Layer[], { samples = 2_000, seed = 7 } = {}): number {
  const random = createRandom(seed)
  let right = 0
  for (let i = 0; i < samples; i++) {
    const digit = i % 10
    const logits = layers.reduce((input, layer, index) => forward(layer, input, index < 2), drawDigit(digit, random))
    if (logits.indexOf(Math.max(...logits)) === digit) right++
  }
  return right / samples
}

/** Writes fully connected layers as ONNX: ReLU between, softmax at the end, a free batch dimension. */
export function writeMlp(
  name: string,
  layers: Layer[],
  input = 'pixels',
  output = 'probabilities',
): Uint8Array<ArrayBuffer> {
  const nodes: Node[] = layers.flatMap((_, index) => {
    const from = index === 0 ? input : `relu${index - 1}`
    const gemm: Node = { op: 'Gemm', inputs: [from, `w${index}`, `b${index}`], outputs: [`gemm${index}`] }
    const after: Node =
      index === layers.length - 1
        ? { op: 'Softmax', inputs: [`gemm${index}`], outputs: [output], attributes: { axis: 1 } }
        : { op: 'Relu', inputs: [`gemm${index}`], outputs: [`relu${index}`] }
    return [gemm, after]
  })
  return writeModel({
    name,
    inputs: [{ name: input, elementType: 1, shape: ['batch', layers[0]!.inputs] }],
    outputs: [{ name: output, elementType: 1, shape: ['batch', layers.at(-1)!.outputs] }],
    weights: layers.flatMap((layer, index) => [
      { name: `w${index}`, shape: [layer.inputs, layer.outputs], data: layer.weights },
      { name: `b${index}`, shape: [layer.outputs], data: layer.bias },
    ]),
    nodes,
  })
}

/** Makes fully connected layers of random weights, for tests and measurements. */
export function randomMlp(widths: readonly number[], seed = 1): Layer[] {
  const random = createRandom(seed)
  return widths.slice(1).map((outputs, index) => createLayer(widths[index]!, outputs, random))
}

/** Builds the sample model, and one drawn digit to ask it about. */
export function sampleModel(): {
  graph: Uint8Array<ArrayBuffer>
  layers: Layer[]
  example: { digit: number; pixels: Float32Array }
} {
  const layers = trainDigits()
  const digit = 7
  return {
    graph: writeMlp('assay-digits', layers),
    layers,
    example: { digit, pixels: drawDigit(digit, createRandom(42)) },
  }
}

/** Draws a digit as the tensor the sample model takes; the same for the same seed. */
export function digitTensor(digit: number, seed = 1): Tensor {
  const pixels = drawDigit(digit, createRandom(seed))
  return { name: 'pixels', datatype: 'FP32', shape: [1, 64], data: new Uint8Array(pixels.buffer) }
}
