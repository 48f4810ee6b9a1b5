/** Lists the execution providers a runner may be told to use. */
export const providers = ['cpu', 'webgpu', 'cuda'] as const

/** Names an execution provider of the runtime. */
export type Provider = (typeof providers)[number]
