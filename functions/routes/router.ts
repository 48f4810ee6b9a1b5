import { OpenAPIHono, type z } from '@hono/zod-openapi'
import { AssayError } from '../errors.ts'
import { Problem } from './schemas.ts'

/** Holds what the app leaves on a request for its doors. */
export type App = { Variables: { requestId: string } }

/** Opens a set of doors that word a malformed request as `invalid_request`. */
export function createRouter(): OpenAPIHono<App> {
  return new OpenAPIHono<App>({
    defaultHook: (result) => {
      if (result.success) return
      const text = result.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ')
      throw new AssayError('invalid_request', text)
    },
  })
}

/** Describes a JSON body that must be there. */
export const json = <T extends z.ZodType>(schema: T) => ({
  required: true as const,
  content: { 'application/json': { schema } },
})

/** Describes any answer: the good ones are worded in docs/http.md, the others are problems. */
export const responses = {
  default: { description: 'A problem', content: { 'application/problem+json': { schema: Problem } } },
} as const

/** Passes an answer that is not JSON through as it is. */
export const passed = (response: unknown) => response as never

/** Bytes of a refused body that are read and thrown away. A client that is still writing when its connection closes never sees why. */
const heardOut = 16 * 1024 * 1024

/** Reads what is left of a refused request, as far as it is not beyond all measure, so that its sender comes to read the answer. */
export async function hearOut(request: Request): Promise<void> {
  if (!request.body || request.bodyUsed || request.body.locked) return
  const reader = request.body.getReader()
  let left = heardOut
  for (let read = await reader.read(); !read.done && left > 0; read = await reader.read()) left -= read.value.length
}

/** Reads a body of at most `limit` bytes. Throws `payload_too_large` for a longer one, of which it keeps nothing. */
export async function readBody(request: Request, limit: number): Promise<ArrayBuffer> {
  const tooLarge = () => new AssayError('payload_too_large', `A body here has at most ${limit} bytes.`)
  const length = request.headers.get('content-length')
  if (length !== null) {
    // The runtime holds a body to its stated length.
    if (Number(length) > limit) throw tooLarge()
    return request.arrayBuffer()
  }
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  const reader = request.body?.getReader()
  for (let read = await reader?.read(); read && !read.done; read = await reader!.read()) {
    size += read.value.length
    if (size > limit + heardOut) throw tooLarge()
    if (size <= limit) chunks.push(read.value as Uint8Array<ArrayBuffer>)
  }
  if (size > limit) throw tooLarge()
  return new Blob(chunks).arrayBuffer()
}
