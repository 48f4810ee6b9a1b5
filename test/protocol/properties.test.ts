import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { developmentKey } from '../../dev/keys.ts'
import { makeVectors } from '../../dev/vectors.ts'
import { EncodingError, fromHex, toHex } from '../../protocol/bytes.ts'
import { canonicalJson } from '../../protocol/canonicalJson.ts'
import { createEnvelope, direction } from '../../protocol/envelope.ts'
import { FrameSplitter } from '../../protocol/frameSplitter.ts'
import {
  decodeFrame,
  encodeCancel,
  encodeJobAnswer,
  encodeJobProblem,
  encodeJobRefusal,
  encodeJobRequest,
  joinFrames,
  refusalReasons,
  splitFrames,
} from '../../protocol/frames.ts'
import { type Manifest, modelDigest, parseManifest } from '../../protocol/manifest.ts'
import { checkTensors, decodeBody, encodeBody, TensorError, tensorFromJson, tensorToJson } from '../../protocol/oip.ts'
import { decodeDetail, decodeReceipt, encodeDetail, encodeReceipt } from '../../protocol/receipt.ts'
import { createSigner, recoverAddress } from '../../protocol/secp256k1.ts'
import { canonicalTensors, parseCanonicalTensors, type Tensor, tensorCommitment } from '../../protocol/tensors.ts'
import { decodeTerms, encodeTerms, splitAmount } from '../../protocol/terms.ts'

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const hex = (length: number) => bytes(length).map(toHex)
const uint = (bits: number) => fc.bigInt({ min: 0n, max: 2n ** BigInt(bits) - 1n })
const u16 = fc.integer({ min: 0, max: 0xffff })

const terms = fc.record({
  buyer: hex(20),
  runner: hex(20),
  model: hex(32),
  publisher: hex(20),
  price: uint(128),
  royaltyBps: u16,
  feeBps: u16,
  expiresAt: uint(64),
  salt: hex(32),
})
const receipt = fc.record({
  channel: bytes(32),
  job: uint(64),
  status: fc.integer({ min: 0, max: 255 }),
  cumulative: uint(128),
  finishedAt: uint(64),
  detail: bytes(32),
})
const detail = fc.record({ input: bytes(32), output: bytes(32), execution: bytes(32), price: uint(128) })
const name = fc.string({ minLength: 1, maxLength: 12, unit: 'grapheme' }).filter((text) => text.isWellFormed())
const tensor = (label: string): fc.Arbitrary<Tensor> =>
  fc
    .tuple(
      fc.constantFrom('FP32' as const, 'INT64' as const, 'BOOL' as const, 'FP16' as const),
      fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
    )
    .chain(([datatype, shape]) => {
      const size = { FP32: 4, INT64: 8, BOOL: 1, FP16: 2 }[datatype] * shape.reduce((a, b) => a * b, 1)
      return bytes(size).map((data) => ({ name: label, datatype, shape, data }))
    })
const tensors = fc.uniqueArray(name, { maxLength: 4 }).chain((names) => fc.tuple(...names.map(tensor)))
const jobRequest = fc.record({
  ticket: fc.integer({ min: 0, max: 0xffff_ffff }),
  channel: bytes(32),
  job: uint(64),
  context: bytes(8),
  deadlineMs: fc.integer({ min: 0, max: 0xffff_ffff }),
  opening: fc.option(fc.record({ terms, enc: bytes(32) }), { nil: undefined }),
  voucher: fc.option(fc.record({ cumulative: uint(128), signature: fc.uint8Array({ maxLength: 80 }) }), {
    nil: undefined,
  }),
  body: fc.uint8Array({ maxLength: 64 }),
})
const jobAnswer = fc.record({
  ticket: fc.integer({ min: 0, max: 0xffff_ffff }),
  receipt,
  detail,
  signature: bytes(65),
  proof: fc.record({
    index: fc.integer({ min: 0, max: 0xffff_ffff }),
    count: fc.integer({ min: 0, max: 0xffff_ffff }),
    path: fc.array(bytes(32), { maxLength: 5 }),
  }),
  body: fc.uint8Array({ maxLength: 64 }),
})

/** Checks that every cut is refused and every flipped bit is refused or means exactly what it says. */
function survives(encoded: Uint8Array, again: (bytes: Uint8Array) => Uint8Array, { refusesCuts = true } = {}): void {
  for (let length = 0; length < encoded.length; length++) {
    if (refusesCuts) expect(() => again(encoded.slice(0, length))).toThrow(EncodingError)
  }
  for (let bit = 0; bit < encoded.length * 8; bit++) {
    const changed = encoded.slice()
    changed[bit >> 3]! ^= 1 << (bit & 7)
    let result: Uint8Array
    try {
      result = again(changed)
    } catch (error) {
      expect(error).toBeInstanceOf(EncodingError)
      continue
    }
    expect(toHex(result)).toBe(toHex(changed))
  }
}

describe('encodings', () => {
  test('behavior: terms, receipts and details come back as they went', () => {
    fc.assert(
      fc.property(terms, receipt, detail, (someTerms, someReceipt, someDetail) => {
        expect(decodeTerms(encodeTerms(someTerms))).toEqual(someTerms)
        const receiptBytes = encodeReceipt(someReceipt)
        expect(encodeReceipt(decodeReceipt(receiptBytes))).toEqual(receiptBytes)
        const detailBytes = encodeDetail(someDetail)
        expect(encodeDetail(decodeDetail(detailBytes))).toEqual(detailBytes)
      }),
    )
  })

  test('refusal: cut or flipped terms, receipts, details', () => {
    fc.assert(
      fc.property(terms, (value) => survives(encodeTerms(value), (bytes) => encodeTerms(decodeTerms(bytes)))),
      { numRuns: 3 },
    )
    fc.assert(
      fc.property(receipt, (value) => survives(encodeReceipt(value), (bytes) => encodeReceipt(decodeReceipt(bytes)))),
      { numRuns: 3 },
    )
    fc.assert(
      fc.property(detail, (value) => survives(encodeDetail(value), (bytes) => encodeDetail(decodeDetail(bytes)))),
      { numRuns: 3 },
    )
  })

  test('behavior: tensors come back sorted, and no order of a set changes its bytes', () => {
    fc.assert(
      fc.property(tensors, (set) => {
        const encoded = canonicalTensors(set)
        expect(canonicalTensors([...set].reverse())).toEqual(encoded)
        expect(canonicalTensors(parseCanonicalTensors(encoded))).toEqual(encoded)
        expect(parseCanonicalTensors(encoded)).toHaveLength(set.length)
      }),
    )
  })

  test('refusal: cut or flipped canonical tensors, repeated names', () => {
    fc.assert(
      fc.property(tensors, (set) =>
        survives(canonicalTensors(set), (bytes) => canonicalTensors(parseCanonicalTensors(bytes))),
      ),
      { numRuns: 15 },
    )
    const one: Tensor = { name: 'x', datatype: 'BOOL', shape: [1], data: new Uint8Array(1) }
    expect(() => canonicalTensors([one, one])).toThrow('Two tensors')
    expect(() => tensorCommitment(new Uint8Array(31), [one])).toThrow('32 bytes')
  })

  test('behavior: two sets of tensors with one encoding are one set', () => {
    fc.assert(
      fc.property(tensors, tensors, (a, b) => {
        const key = (set: Tensor[]) => JSON.stringify(set.map(({ data, ...rest }) => [rest, toHex(data)]).sort())
        expect(toHex(canonicalTensors(a)) === toHex(canonicalTensors(b))).toBe(key(a) === key(b))
      }),
    )
  })

  test('behavior: frames come back as they went; cut or flipped ones are refused or say what they say', () => {
    fc.assert(
      fc.property(jobRequest, (request) => {
        const again = (bytes: Uint8Array) => {
          const frame = decodeFrame(bytes)
          if (frame.type === 'jobRequest') return encodeJobRequest(frame)
          if (frame.type === 'jobRefusal') return encodeJobRefusal(frame)
          throw new EncodingError('another kind of frame')
        }
        const encoded = encodeJobRequest(request)
        expect(again(encoded)).toEqual(encoded)
        // The body runs to the end, so a cut inside it is a shorter body, refused by its seal.
        survives(encoded, again, { refusesCuts: request.body.length === 0 && !request.voucher && !request.opening })
      }),
      { numRuns: 10 },
    )
    fc.assert(
      fc.property(jobAnswer, (answer) => {
        const encoded = encodeJobAnswer(answer)
        const frame = decodeFrame(encoded)
        expect(frame.type).toBe('jobAnswer')
        if (frame.type === 'jobAnswer') expect(encodeJobAnswer(frame)).toEqual(encoded)
      }),
    )
    for (const reason of refusalReasons)
      expect(decodeFrame(encodeJobRefusal({ ticket: 1, reason, detail: 'why' }))).toMatchObject({
        reason,
        detail: 'why',
      })
    const cancel = { channel: new Uint8Array(32).fill(7), job: 2n ** 64n - 1n }
    expect(decodeFrame(encodeCancel(cancel))).toEqual({ type: 'cancel', ...cancel })
    for (const wrong of [encodeCancel(cancel).subarray(0, 40), new Uint8Array([...encodeCancel(cancel), 0])])
      expect(() => decodeFrame(wrong)).toThrow(EncodingError)
    expect(() => encodeCancel({ ...cancel, channel: new Uint8Array(31) })).toThrow(EncodingError)
    expect(() => decodeFrame(new Uint8Array([9]))).toThrow(EncodingError)
    expect(() => decodeFrame(new Uint8Array())).toThrow(EncodingError)
    expect(splitFrames(joinFrames([new Uint8Array([1]), new Uint8Array([])]))).toHaveLength(2)
    expect(() => splitFrames(new Uint8Array([0, 0, 0, 9, 1]))).toThrow(EncodingError)
  })

  test('behavior: a problem comes back as it went; what carries no object is refused', () => {
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), fc.dictionary(fc.string(), fc.jsonValue()), (ticket, value) => {
        const problem = JSON.parse(JSON.stringify(value)) as Record<string, unknown>
        expect(decodeFrame(encodeJobProblem({ ticket, problem }))).toEqual({ type: 'problem', ticket, problem })
      }),
    )
    const head = [...encodeJobProblem({ ticket: 1, problem: {} }).subarray(0, 5)]
    for (const text of ['', '{', 'null', '[]', '"x"', '\ufffe'])
      expect(() => decodeFrame(new Uint8Array([...head, ...new TextEncoder().encode(text)]))).toThrow(EncodingError)
    expect(() => decodeFrame(new Uint8Array([...head, 0xff]))).toThrow(EncodingError)
    expect(() => decodeFrame(new Uint8Array(head.slice(0, 4)))).toThrow(EncodingError)
  })

  test('behavior: joined frames come apart however their bytes are cut, and a cut-off end is told', () => {
    const cutFrames = fc.record({
      frames: fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 6 }),
      cuts: fc.array(fc.nat(300), { maxLength: 12 }),
      lost: fc.nat(3),
    })
    fc.assert(
      fc.property(cutFrames, ({ frames, cuts, lost }) => {
        const whole = joinFrames(frames)
        // As Node's sockets give them, whose `slice` is a view.
        const joined = Buffer.from(whole.subarray(0, Math.max(0, whole.length - lost)))
        const splitter = new FrameSplitter()
        const found: Uint8Array[] = []
        let at = 0
        for (const cut of [...cuts.toSorted((a, b) => a - b), joined.length]) {
          found.push(...splitter.push(joined.subarray(at, Math.max(at, cut))))
          at = Math.max(at, Math.min(cut, joined.length))
        }
        const kept = splitFrames(whole).filter((frame) => frame.byteOffset + frame.length <= joined.length)
        expect(found).toEqual(kept.map((frame) => frame.slice()))
        for (const frame of found) expect(frame.byteLength).toBe(frame.buffer.byteLength)
        if (kept.length === frames.length) splitter.end()
        else if (joined.length > joinFrames(kept).length) expect(() => splitter.end()).toThrow(EncodingError)
      }),
    )
  })

  test('behavior: any split of an amount adds up', () => {
    fc.assert(
      fc.property(
        uint(128),
        fc.integer({ min: 0, max: 9_000 }),
        fc.integer({ min: 0, max: 1_000 }),
        (amount, royaltyBps, feeBps) => {
          const { provider, publisher, fee } = splitAmount({ royaltyBps, feeBps }, amount)
          expect(provider + publisher + fee).toBe(amount)
          expect(provider >= 0n).toBe(true)
        },
      ),
    )
  })
})

describe('signatures', () => {
  const signer = createSigner(fromHex(developmentKey('signer'), 32))

  test('behavior: a signature recovers to its signer, and a flipped bit to nobody or another', async () => {
    const digest = fromHex(developmentKey('digest'), 32)
    const signature = await signer.sign(digest)
    expect(recoverAddress(digest, signature)).toBe(signer.address)
    for (let bit = 0; bit < 65 * 8; bit += 5) {
      const changed = signature.slice()
      changed[bit >> 3]! ^= 1 << (bit & 7)
      expect(recoverAddress(digest, changed)).not.toBe(signer.address)
    }
  })

  test('refusal: high s, wrong v, wrong length', async () => {
    const digest = fromHex(developmentKey('digest'), 32)
    const signature = await signer.sign(digest)
    const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n
    const high = signature.slice()
    high.set(fromHex((order - BigInt(toHex(signature.slice(32, 64)))).toString(16).padStart(64, '0'), 32), 32)
    high[64] = high[64] === 27 ? 28 : 27
    expect(recoverAddress(digest, high)).toBeNull()
    expect(recoverAddress(digest, Uint8Array.from([...signature.slice(0, 64), 0]))).toBeNull()
    expect(recoverAddress(digest, signature.slice(0, 64))).toBeNull()
    expect(recoverAddress(digest, new Uint8Array(65))).toBeNull()
  })
})

describe('envelope', () => {
  const keys = {
    request: new Uint8Array(32).fill(1),
    answer: new Uint8Array(32).fill(2),
    salt: new Uint8Array(32).fill(3),
  }

  test('refusal: another job, direction, channel, or one flipped bit', async () => {
    const channel = new Uint8Array(32).fill(4)
    const envelope = await createEnvelope(channel, keys)
    const sealed = await envelope.seal(7n, direction.request, new Uint8Array([1, 2, 3]))
    expect(await envelope.open(7n, direction.request, sealed)).toEqual(new Uint8Array([1, 2, 3]))
    await expect(envelope.open(8n, direction.request, sealed)).rejects.toThrow(EncodingError)
    await expect(envelope.open(7n, direction.answer, sealed)).rejects.toThrow(EncodingError)
    await expect((await createEnvelope(new Uint8Array(32), keys)).open(7n, direction.request, sealed)).rejects.toThrow(
      EncodingError,
    )
    for (let at = 0; at < sealed.length; at++) {
      const changed = sealed.slice()
      changed[at]! ^= 1
      await expect(envelope.open(7n, direction.request, changed)).rejects.toThrow(EncodingError)
    }
  })
})

describe('manifest', () => {
  const { manifest } = makeVectors().manifest as { manifest: Manifest }

  test('behavior: the digest does not depend on the order of keys', () => {
    const reversed = Object.fromEntries(Object.entries(manifest).reverse())
    expect(modelDigest(parseManifest(reversed))).toBe(modelDigest(manifest))
    expect(canonicalJson({ b: [1, 'é'], a: null })).toBe('{"a":null,"b":[1,"é"]}')
    expect(canonicalJson([JSON.parse('333333333.33333329'), 1e30, 4.5, 2e-3, 1e-27])).toBe(
      '[333333333.3333333,1e+30,4.5,0.002,1e-27]',
    )
  })

  test.each([
    ['a field nobody knows', { ...manifest, hidden: 1 }],
    ['no files', { ...manifest, files: [] }],
    ['a path that climbs', { ...manifest, files: [{ ...manifest.files[0], path: '../model.onnx' }] }],
    ['an absolute path', { ...manifest, files: [{ ...manifest.files[0], path: '/etc/passwd' }] }],
    ['an upper-case digest', { ...manifest, files: [{ ...manifest.files[0], sha256: 'A'.repeat(64) }] }],
    [
      'a fixed input without its file',
      { ...manifest, fixedInputs: [{ name: 'w', path: 'w.bin', datatype: 'FP32', shape: [1] }] },
    ],
    ['two inputs of one name', { ...manifest, inputs: [manifest.inputs[0], manifest.inputs[0]] }],
    ['an unknown datatype', { ...manifest, inputs: [{ ...manifest.inputs[0], datatype: 'BF16' }] }],
    ['a tolerance that is no number', { ...manifest, execution: { class: 'tolerant', atol: Number.NaN, rtol: 0 } }],
    ['an exactness nobody defined', { ...manifest, execution: { class: 'roughly' } }],
  ])('refusal: %s', (_, json) => {
    expect(() => parseManifest(json)).toThrow(EncodingError)
  })
})

describe('Open Inference Protocol', () => {
  test('behavior: a body comes back as it went, tensors on eight bytes; cuts are refused', () => {
    fc.assert(
      fc.property(tensors, (set) => {
        const body = encodeBody('inputs', set, { salt: '00' })
        const decoded = decodeBody('inputs', body)
        expect(canonicalTensors(decoded.tensors)).toEqual(canonicalTensors(set))
        expect(new DataView(body.buffer).getUint32(0, true) % 8).toBe(0)
        for (let length = 0; length < body.length; length += 3)
          expect(() => decodeBody('inputs', body.slice(0, length))).toThrow(TensorError)
      }),
      { numRuns: 50 },
    )
  })

  test('behavior: JSON and binary forms of a tensor are the same bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { maxLength: 5 }), (values) => {
        const whole: Tensor = {
          name: 'x',
          datatype: 'INT64',
          shape: [values.length],
          data: new Uint8Array(BigInt64Array.from(values).buffer),
        }
        expect(tensorFromJson(JSON.parse(JSON.stringify(tensorToJson(whole))))).toEqual(whole)
      }),
    )
    const words = tensorFromJson({ name: 'w', shape: [2], datatype: 'BYTES', data: ['a', 'é'] })
    expect(tensorToJson(words).data).toEqual(['a', 'é'])
    expect(tensorFromJson({ name: 'x', shape: [2, 1], datatype: 'FP32', data: [[1], [2]] }).data).toHaveLength(8)
  })

  test.each([
    [{ name: 'x', shape: [2], datatype: 'FP32', data: [1] }, 'takes 2 elements'],
    [{ name: 'x', shape: [1], datatype: 'BF16', data: [1] }, 'BF16'],
    [{ name: 'x', shape: [1], datatype: 'FP16', data: [1] }, 'FP16 has no JSON form'],
    [{ name: 'x', shape: [1], datatype: 'INT8', data: [300] }, 'INT8'],
    [{ name: 'x', shape: [1], datatype: 'INT64', data: [2 ** 60] }, '2^53'],
    [{ name: 'x', shape: [-1], datatype: 'FP32', data: [] }, 'not a whole number'],
    [{ name: 'x', shape: [2 ** 40, 2 ** 40], datatype: 'FP32', data: [] }, 'more elements'],
    [{ shape: [1], datatype: 'FP32', data: [1] }, 'no name'],
  ])('refusal: %j', (json, message) => {
    expect(() => tensorFromJson(json)).toThrow(message)
  })

  test('refusal: a tensor too many, one missing, one twice', () => {
    const x: Tensor = { name: 'x', datatype: 'BOOL', shape: [1], data: new Uint8Array(1) }
    const spec = [{ name: 'x', datatype: 'BOOL' as const, shape: [-1] }]
    expect(() => checkTensors([x], spec)).not.toThrow()
    expect(() => checkTensors([], spec)).toThrow('missing')
    expect(() => checkTensors([x, x], spec)).toThrow('twice')
    expect(() => checkTensors([x, { ...x, name: 'y' }], spec)).toThrow('not one of')
  })
})
