/** Answers in chunks, taken at the reader's own pace. */

import { KsiError } from "./errors.js";
import type { Call, Exchange } from "./exchange.js";
import type { Frame, Request } from "./frames.js";

const GAPS_MAX = 100;

/** A part of a streamed answer; `at` is its address: a stream can be resumed after it. */
export interface Chunk<Data> {
  data: Data;
  at: string | null;
}

/**
 * `for await (const chunk of stream)`, once. A slow loop makes a slow producer; leaving it cancels at the daemon.
 */
export class Stream<Data, End> implements Call, AsyncIterable<Chunk<Data>> {
  /** The end value; rejects with the error that ended the stream, where one did. */
  readonly end: Promise<End>;
  /** Address of the last chunk that has arrived, or the one behind which it began. */
  at: string | null = null;
  /** What the daemon said of chunks that it dropped, because the subscriber chose that; the last hundred. */
  readonly gaps: Record<string, unknown>[] = [];

  #chunks: Chunk<Data>[] = [];
  #taken = 0;
  #isAnyHere = false;
  #id: number | undefined;
  #isEnded = false;
  #isCancelled = false;
  #failure: unknown;
  #news: (() => void) | undefined;
  #settle!: { resolve: (end: End) => void; reject: (error: unknown) => void };

  constructor(
    readonly exchange: Exchange,
    readonly request: Request,
    readonly bufferSize: number,
    signal?: AbortSignal,
  ) {
    this.end = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.end.catch(() => undefined); // whoever only reads the chunks has the error there
    if (request.resume !== undefined) this.at = request.resume;
    if (signal?.aborted) this.#leave(signal.reason);
    else signal?.addEventListener("abort", () => this.#leave(signal.reason), { once: true });
  }

  /** Ask now, not only when the first chunk is wanted. */
  open(): this {
    if (!this.#isEnded) this.#id ??= this.exchange.start(this);
    return this;
  }

  /** Stop it at the daemon. The loop ends when the end frame has come; `end` rejects with what there was. */
  cancel(): void {
    this.#isCancelled = true;
    if (this.#id === undefined) this.#leave(new KsiError({ code: "cancelled", message: "it was cancelled" }));
    else if (!this.#isEnded) this.exchange.steer({ id: this.#id, cancel: true });
  }

  [Symbol.asyncIterator](): AsyncIterator<Chunk<Data>> {
    return {
      next: () => this.#next(),
      return: () => {
        this.#leave(new KsiError({ code: "cancelled", message: "the loop was left" }));
        return Promise.resolve({ done: true, value: undefined });
      },
    };
  }

  async #next(): Promise<IteratorResult<Chunk<Data>>> {
    this.open();
    this.#giveCredit();
    while (this.#chunks.length === 0) {
      if (this.#isEnded) return this.#finished();
      await new Promise<void>((resolve) => (this.#news = resolve));
    }
    this.#taken += 1;
    return { done: false, value: this.#chunks.shift() as Chunk<Data> };
  }

  #finished(): IteratorResult<Chunk<Data>> {
    if (this.#failure !== undefined && !this.#isCancelled) throw this.#failure;
    return { done: true, value: undefined };
  }

  #giveCredit(): void {
    if (this.#taken * 2 < this.bufferSize || this.#isEnded || this.#id === undefined) return;
    this.exchange.steer({ id: this.#id, credit: this.#taken });
    this.#taken = 0;
  }

  /** Stop it at the daemon and wait for nothing. */
  #leave(reason: unknown): void {
    if (this.#isEnded) return;
    if (this.#id !== undefined) this.exchange.abandon(this.#id);
    this.#chunks = [];
    this.#finish(reason);
  }

  #finish(failure?: unknown): void {
    this.#isEnded = true;
    this.#failure = failure;
    if (failure !== undefined) this.#settle.reject(failure);
    this.#news?.();
  }

  // ── what the exchange calls ─────────────────────────────────────────────────────────────────────────────────────────
  /** After a chunk without an address nobody knows where to go on. */
  get isRepeatable(): boolean {
    return this.at !== null || (!this.#isAnyHere && this.request.event_id !== undefined);
  }

  opening(again: boolean): Request {
    const credit = Math.max(0, this.bufferSize - this.#chunks.length);
    this.#taken = 0;
    if (again && this.at !== null) return { ...this.onward(this.at), credit };
    return { ...this.request, credit };
  }

  /** How to go on after an address. */
  protected onward(at: string): Request {
    return { resume: at };
  }

  received(frame: Frame): boolean {
    if (frame.error) this.#finish(new KsiError(frame.error));
    else if (frame.end) {
      this.#settle.resolve(frame.data as End);
      this.#finish();
    } else this.#goOn(frame);
    return this.#isEnded;
  }

  failed(error: KsiError): void {
    this.#finish(error);
  }

  #goOn(frame: Frame): void {
    if (frame.gap) {
      this.gaps.push(frame.gap);
      if (this.gaps.length > GAPS_MAX) this.gaps.shift();
      return;
    }
    this.at = frame.at ?? null;
    if (frame.seq === undefined) return; // it says only where the stream begins
    this.#isAnyHere = true;
    this.#chunks.push({ data: frame.data as Data, at: this.at });
    this.#news?.();
  }
}

/** Recorded events. The end of the daemon is not its end: the next one, on the same home, goes on with it. */
export class Subscription<Data> extends Stream<Data, never> {
  override get isRepeatable(): boolean {
    return true;
  }

  override received(frame: Frame): boolean {
    return frame.error?.code === "shutting_down" ? false : super.received(frame);
  }

  protected override onward(at: string): Request {
    const { event_id: _, ...request } = this.request;
    return { ...request, data: { ...(request.data as object), after: at } };
  }
}
