/** Lists the execution providers a runner may be told to use. */
export const providers = ['cpu', 'webgpu', 'cuda'] as const

/** Names an execution provider of the runtime. */
export type Provider = (typeof providers)[number]

/** Lists the providers whose devices have numbers: each executor can be given one of its own. */
export const numbered: readonly Provider[] = ['cuda']
