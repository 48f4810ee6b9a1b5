import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs'
import { type Account, type Address, keccak256, type LocalAccount, type PublicClient } from 'viem'
import type { Hex } from '../protocol/bytes.ts'

/** Holds a transaction whose outcome is not known yet: every form of it that was signed has the same nonce, so at most one can ever be mined. */
export type PendingTransaction = {
  from: Address
  nonce: number
  to: Address
  data: Hex
  gas: string
  /** Fees of the newest form, wei a unit of gas. */
  maxFeePerGas: string
  maxPriorityFeePerGas: string
  /** Signed forms, oldest first. */
  signed: { hash: Hex; raw: Hex }[]
  /** When the newest form was signed, unix milliseconds. */
  signedAt: number
}

/** Remembers the one transaction a key has under way, beyond the end of the process. */
export type Outbox = { load(): PendingTransaction | null; save(pending: PendingTransaction | null): void }

/** Reports a transaction that reverted. */
export class TransactionRevertedError extends Error {
  override name = 'TransactionRevertedError'
}

/** Reports that a transaction was sent and nobody has said yet what became of it. It is kept, and resolved before the next one leaves. */
export class TransactionPendingError extends Error {
  override name = 'TransactionPendingError'
}

/** Reports that another transaction of the same key took the nonce: this one never happens, and its sender must look anew at what is left to do. */
export class TransactionReplacedError extends Error {
  override name = 'TransactionReplacedError'
}

/** Keeps the outbox in a file, replaced as a whole: a crash leaves the old content or the new. Throws where the file holds something else. */
export function fileOutbox(path: string): Outbox {
  return {
    load() {
      if (!existsSync(path)) return null
      const pending = JSON.parse(readFileSync(path, 'utf8')) as PendingTransaction
      if (!Number.isSafeInteger(pending?.nonce) || !Array.isArray(pending.signed))
        throw new Error(`${path} does not hold a transaction. Look at what the key last sent, then remove the file.`)
      return pending
    },
    save(pending) {
      if (!pending) return rmSync(path, { force: true })
      const file = openSync(`${path}.new`, 'w', 0o600)
      try {
        writeSync(file, JSON.stringify(pending))
        fsyncSync(file)
      } finally {
        closeSync(file)
      }
      renameSync(`${path}.new`, path)
    },
  }
}

/** Keeps the outbox for the life of the process only. */
export function memoryOutbox(): Outbox {
  let kept: PendingTransaction | null = null
  return {
    load: () => kept,
    save(pending) {
      kept = pending
    },
  }
}

/** Says how patiently transactions are watched, in milliseconds. */
export type Patience = {
  /** How long to wait for a transaction before giving the word back. */
  waitMs: number
  pollMs: number
  /** After how long without being mined a transaction is signed again with higher fees. */
  raiseMs: number
}

const defaultPatience: Patience = { waitMs: 120_000, pollMs: 500, raiseMs: 30_000 }

/** Nodes take a replacement only with fees a tenth higher; an eighth leaves room for rounding. */
const raise = (fee: bigint) => (fee * 9n) / 8n + 1n

/** Fees are raised this often at most: about ten times the first. */
const maxForms = 20

/** A nonce is taken for used by another only after this many looks find none of our forms mined: a node may know the count before it knows the receipt. */
const looksBeforeReplaced = 4

type Sent = { hash: Hex; gasUsed: bigint }

/** Sends one transaction at a time from one key, never twice in effect: it is signed and written down before it leaves, sent again as it is while nobody answers, replaced under the same nonce where fees are too low, and known by its nonce after a crash. */
export class TransactionSender {
  readonly #client: PublicClient
  readonly #account: Account & Pick<LocalAccount, 'signTransaction'>
  readonly #chainId: number
  readonly #outbox: Outbox
  readonly #patience: Patience
  readonly #now: () => number
  readonly #sleep: (ms: number) => Promise<void>
  #last: Promise<unknown> = Promise.resolve()
  #sentAt = 0
  #word = ''

  constructor({
    client,
    account,
    chainId,
    outbox,
    patience = defaultPatience,
    now,
    sleep,
  }: {
    client: PublicClient
    account: Account & Pick<LocalAccount, 'signTransaction'>
    chainId: number
    outbox: Outbox
    patience?: Patience
    now: () => number
    sleep: (ms: number) => Promise<void>
  }) {
    this.#client = client
    this.#account = account
    this.#chainId = chainId
    this.#outbox = outbox
    this.#patience = patience
    this.#now = now
    this.#sleep = sleep
  }

  /** Resolves what is under way, then sends a call and waits until it is mined. Throws TransactionRevertedError, TransactionPendingError or TransactionReplacedError; whatever estimating throws; a node that does not answer before anything was signed throws its own error. */
  send(call: { to: Address; data: Hex; estimate: () => Promise<bigint> }): Promise<Sent> {
    return this.#inTurn(async () => {
      await this.#resolve().catch((error: unknown) => {
        // What became of an earlier transaction is told by the chain; only one still under way stands in the way.
        if (error instanceof TransactionPendingError) throw error
      })
      await this.#sign(call)
      return this.#follow()
    })
  }

  /** Finds out what became of a transaction left by an earlier process; null where there is none. Throws as `send` does. */
  resolve(): Promise<Sent | null> {
    return this.#inTurn(() => this.#resolve())
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#last.then(work)
    this.#last = next.catch(() => {})
    return next
  }

  async #resolve(): Promise<Sent | null> {
    return this.#outbox.load() ? this.#follow() : null
  }

  async #sign({ to, data, estimate }: { to: Address; data: Hex; estimate: () => Promise<bigint> }): Promise<void> {
    const [gas, nonce, fees] = await Promise.all([
      estimate(),
      this.#client.getTransactionCount({ address: this.#account.address, blockTag: 'pending' }),
      this.#client.estimateFeesPerGas(),
    ])
    const first = { from: this.#account.address, nonce, to, data, gas: String(gas), signed: [], signedAt: 0 }
    await this.#addForm(first, fees)
  }

  async #addForm(
    pending: Omit<PendingTransaction, 'maxFeePerGas' | 'maxPriorityFeePerGas'>,
    { maxFeePerGas, maxPriorityFeePerGas }: { maxFeePerGas: bigint; maxPriorityFeePerGas: bigint },
  ): Promise<PendingTransaction> {
    const { nonce, to, data, gas } = pending
    const raw = await this.#account.signTransaction({
      type: 'eip1559',
      chainId: this.#chainId,
      nonce,
      to,
      data,
      gas: BigInt(gas),
      maxFeePerGas,
      maxPriorityFeePerGas,
    })
    const next: PendingTransaction = {
      ...pending,
      maxFeePerGas: String(maxFeePerGas),
      maxPriorityFeePerGas: String(maxPriorityFeePerGas),
      signed: [...pending.signed, { hash: keccak256(raw), raw }],
      signedAt: this.#now(),
    }
    // Written before it leaves: what is on its way without being known could be sent twice.
    this.#outbox.save(next)
    return next
  }

  /** Watches the transaction under way until its outcome is known or patience ends. */
  async #follow(): Promise<Sent> {
    let pending = this.#outbox.load()!
    const until = this.#now() + this.#patience.waitMs
    let looks = 0
    await this.#broadcast(pending)
    for (;;) {
      const outcome = await this.#look(pending)
      if (outcome === 'used') looks++
      else if (outcome === 'unknown') looks = 0
      else return this.#close(outcome)
      if (looks >= looksBeforeReplaced) {
        this.#outbox.save(null)
        throw new TransactionReplacedError(
          `Another transaction took nonce ${pending.nonce}; look again at what is owed.`,
        )
      }
      if (this.#now() >= until)
        throw new TransactionPendingError(
          `Transaction ${pending.signed.at(-1)!.hash} was sent and is not mined yet; it is looked for again before the next.${this.#word}`,
        )
      await this.#sleep(this.#patience.pollMs)
      pending = await this.#press(pending)
    }
  }

  #close({ hash, gasUsed, status }: Sent & { status: 'success' | 'reverted' }): Sent {
    this.#outbox.save(null)
    if (status !== 'success') throw new TransactionRevertedError(`Transaction ${hash} reverted.`)
    return { hash, gasUsed }
  }

  /** Asks what became of any form; `used` where the nonce is gone and no form has a receipt. */
  async #look(pending: PendingTransaction): Promise<'unknown' | 'used' | (Sent & { status: 'success' | 'reverted' })> {
    try {
      // The count is asked first: a receipt looked for after it cannot be younger than the count.
      const count = await this.#client.getTransactionCount({ address: pending.from, blockTag: 'latest' })
      if (count <= pending.nonce) return 'unknown'
      for (const { hash } of pending.signed) {
        const receipt = await this.#client.getTransactionReceipt({ hash }).catch((error: Error) => {
          if (error.name === 'TransactionReceiptNotFoundError') return null
          throw error
        })
        if (receipt) return { hash, gasUsed: receipt.gasUsed, status: receipt.status }
      }
      return 'used'
    } catch {
      return 'unknown'
    }
  }

  /** Sends the newest form. What the node says is not the outcome, only a receipt or a used nonce is; it is kept to explain a transaction that stays pending. */
  async #broadcast(pending: PendingTransaction): Promise<void> {
    this.#sentAt = this.#now()
    try {
      const params: [Hex] = [pending.signed.at(-1)!.raw]
      await this.#client.request({ method: 'eth_sendRawTransaction', params }, { retryCount: 0 })
      this.#word = ''
    } catch (error) {
      // The whole message would repeat the transaction and the address of the node.
      const { details } = error as { details?: unknown }
      this.#word = typeof details === 'string' ? ` The node says: ${details.slice(0, 200)}` : ''
    }
  }

  /** Sends what is not mined again, with higher fees once it has waited long enough. */
  async #press(pending: PendingTransaction): Promise<PendingTransaction> {
    const now = this.#now()
    // What an earlier key of the provider sent can be watched and sent again, but not signed again.
    const own = pending.from === this.#account.address
    const fees =
      own && now - pending.signedAt >= this.#patience.raiseMs && pending.signed.length < maxForms
        ? await this.#client.estimateFeesPerGas().catch(() => null)
        : null
    if (!fees) {
      // A node may have dropped it; the same form again changes nothing where it has not.
      if (now - this.#sentAt >= this.#patience.raiseMs / 4) await this.#broadcast(pending)
      return pending
    }
    const higher = (asked: bigint, had: string) => (asked > raise(BigInt(had)) ? asked : raise(BigInt(had)))
    const raised = await this.#addForm(pending, {
      maxFeePerGas: higher(fees.maxFeePerGas, pending.maxFeePerGas),
      maxPriorityFeePerGas: higher(fees.maxPriorityFeePerGas, pending.maxPriorityFeePerGas),
    })
    await this.#broadcast(raised)
    return raised
  }
}
