import type { Datatype, Tensor } from './tensors.ts'

type Part = { name: string; datatype: Datatype; shape: readonly number[]; length: number }

/** Forms remembered, and the most tensors and dimensions of one: a process serves or asks a few models at a time. */
const most = 8
const mostTensors = 16
const mostDimensions = 16

/**
 * Remembers what was made of tensors but for their data: of the last few forms, which are names, datatypes, shapes and lengths in their order.
 * Those of one model come again and again, and reading, checking and writing them anew costs many times what their data does. Tensors of BYTES
 * are not remembered: what holds of one says nothing of the next.
 */
export class ByForm<T> {
  readonly #known: { form: readonly Part[]; made: T }[] = []

  /** Finds what was made of tensors of the same form. */
  find(tensors: readonly Tensor[]): T | undefined {
    for (let at = 0; at < this.#known.length; at++) {
      const known = this.#known[at]!
      if (!isOf(known.form, tensors)) continue
      if (at > 0) this.#known.unshift(...this.#known.splice(at, 1))
      return known.made
    }
    return undefined
  }

  /** Remembers what was made of tensors, in place of what was not looked for the longest; gives it back. */
  remember(tensors: readonly Tensor[], made: T): T {
    const small = tensors.length <= mostTensors && tensors.every(({ shape }) => shape.length <= mostDimensions)
    if (!small || tensors.some(({ datatype }) => datatype === 'BYTES')) return made
    const form = tensors.map(({ name, datatype, shape, data }) => ({
      name,
      datatype,
      shape: [...shape],
      length: data.length,
    }))
    this.#known.unshift({ form, made })
    if (this.#known.length > most) this.#known.pop()
    return made
  }
}

function isOf(form: readonly Part[], tensors: readonly Tensor[]): boolean {
  if (form.length !== tensors.length) return false
  for (let at = 0; at < form.length; at++) {
    const part = form[at]!
    const { name, datatype, shape, data } = tensors[at]!
    if (data.length !== part.length || shape.length !== part.shape.length) return false
    if (name !== part.name || datatype !== part.datatype) return false
    for (let axis = 0; axis < shape.length; axis++) if (shape[axis] !== part.shape[axis]) return false
  }
  return true
}
