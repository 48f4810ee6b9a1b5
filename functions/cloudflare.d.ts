/** Declares the one thing the edge imports from the runtime itself; its other types come by name through platform.ts. */
declare module 'cloudflare:workers' {
  export class DurableObject {
    constructor(state: unknown, bindings: unknown)
  }
}
