import { concat, EncodingError } from './bytes.ts'

/** Takes joined frames apart as their bytes come, however they are cut. */
export class FrameSplitter {
  #chunks: Uint8Array[] = []
  #size = 0
  /** How many bytes have to be there before another frame can be whole. */
  #needed = 4

  /** Takes the next bytes and gives the frames that are whole now, as copies: a view would keep its neighbours. */
  push(chunk: Uint8Array): Uint8Array<ArrayBuffer>[] {
    this.#chunks.push(chunk)
    this.#size += chunk.length
    if (this.#size < this.#needed) return []
    const bytes = this.#chunks.length === 1 ? chunk : concat(...this.#chunks)
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const frames: Uint8Array<ArrayBuffer>[] = []
    let offset = 0
    this.#needed = 4
    while (bytes.length - offset >= 4) {
      const length = view.getUint32(offset)
      if (bytes.length - offset - 4 < length) {
        this.#needed = 4 + length
        break
      }
      // Not `slice`, which gives a view where the bytes are Node's.
      frames.push(new Uint8Array(bytes.subarray(offset + 4, offset + 4 + length)))
      offset += 4 + length
    }
    this.#size = bytes.length - offset
    this.#chunks = this.#size > 0 ? [bytes.subarray(offset)] : []
    return frames
  }

  /** Throws EncodingError when the bytes ended inside a frame. */
  end(): void {
    if (this.#size > 0) throw new EncodingError('The last frame is cut off.')
  }
}
