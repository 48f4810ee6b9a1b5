import type { Datatype, Tensor } from './tensors.ts'

/** Holds what a tensor is but for its data: `length` is that of its data, in bytes. */
export type Part = { name: string; datatype: Datatype; shape: readonly number[]; length: number }

/** Gives the form of tensors, which nothing that happens to them changes; null where one is of BYTES, for what holds of one such tensor says nothing of the next. */
export function formOf(tensors: readonly Tensor[]): Part[] | null {
  if (tensors.some(({ datatype }) => datatype === 'BYTES')) return null
  return tensors.map(({ name, datatype, shape, data }) => ({ name, datatype, shape: [...shape], length: data.length }))
}

/** Forms remembered, and the most tensors and dimensions of one: a process serves or asks a few models at a time. */
const most = 8
const mostTensors = 16
const mostDimensions = 16

/**
 * Remembers what was made of tensors but for their data: of the last few forms, which are names, datatypes, shapes and lengths in their order.
 * Those of one model come again and again, and reading, checking and writing them anew costs many times what their data does. Tensors of BYTES
 * are not remembered.
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
    const form = small ? formOf(tensors) : null
    if (!form) return made
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
