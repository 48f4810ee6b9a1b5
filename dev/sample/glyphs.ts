/** Draws the ten digits on an 8×8 grid, one byte a row, and varies them: a small, fully known data set. */

const digits = [
  '3c 66 6e 76 66 66 3c 00',
  '18 38 18 18 18 18 7e 00',
  '3c 66 06 0c 30 60 7e 00',
  '3c 66 06 1c 06 66 3c 00',
  '0c 1c 3c 6c 7e 0c 0c 00',
  '7e 60 7c 06 06 66 3c 00',
  '3c 60 60 7c 66 66 3c 00',
  '7e 06 0c 18 30 30 30 00',
  '3c 66 66 3c 66 66 3c 00',
  '3c 66 66 3e 06 0c 38 00',
].map((rows) => rows.split(' ').map((row) => Number.parseInt(row, 16)))

/** Makes a repeatable source of numbers in [0, 1) (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Draws a digit: 64 pixels in [0, 1], shifted by up to one pixel and with noise. */
export function drawDigit(digit: number, random: () => number): Float32Array {
  const shiftX = Math.floor(random() * 3) - 1
  const shiftY = Math.floor(random() * 3) - 1
  const pixels = new Float32Array(64)
  for (let y = 0; y < 8; y++) {
    for (let x = 0; x < 8; x++) {
      const row = digits[digit]![y - shiftY] ?? 0
      const column = x - shiftX
      const ink = column >= 0 && column < 8 ? (row >> (7 - column)) & 1 : 0
      pixels[y * 8 + x] = Math.min(1, Math.max(0, ink * (0.6 + 0.4 * random()) + 0.3 * (random() - 0.5)))
    }
  }
  return pixels
}
