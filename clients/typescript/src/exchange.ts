/** What is asked and not yet answered, kept over a lost connection. */

import { connectionError, KsiError } from "./errors.js";
import type { Frame, Request } from "./frames.js";
import { type Endpoint, type Link, type Listener, Patience } from "./link.js";

/** Somebody who waits for frames. */
export interface Call {
  /** Whether it can go on over a new connection. */
  readonly isRepeatable: boolean;
  opening(again: boolean): Request;
  /** Takes a frame; true: it was the last. */
  received(frame: Frame): boolean;
  failed(error: KsiError): void;
}

/** Stands in for a call whose caller went away, until its last frame has come. */
const ABANDONED: Call = {
  isRepeatable: false,
  opening: () => ({}),
  received: (frame) => frame.ok !== undefined || frame.end === true,
  failed: () => undefined,
};

export class Exchange implements Listener {
  #ids = 0;
  #calls = new Map<number, Call>();
  #sent = new Set<number>();
  #link: Link | undefined;
  #isConnecting = false;
  #isClosed = false;
  #patience: Patience;

  constructor(
    readonly endpoint: Endpoint,
    reconnectTimeout: number,
  ) {
    this.#patience = new Patience(reconnectTimeout);
  }

  /** Ask as soon as there is a connection; the id by which to steer. */
  start(call: Call): number {
    if (this.#isClosed) throw connectionError("the client was closed");
    const id = ++this.#ids;
    this.#calls.set(id, call);
    if (this.#link) this.#ask(this.#link, id, call, false);
    else void this.#connect();
    return id;
  }

  /** Send credit or a cancel; void where the call has ended or is not on the wire: it will ask again. */
  steer(request: Request & { id: number }): void {
    if (this.#sent.has(request.id)) this.#link?.send(request);
  }

  /** The caller went away: cancel at the daemon, or never ask. */
  abandon(id: number): void {
    if (!this.#calls.has(id)) return;
    if (this.#link && this.#sent.has(id)) {
      this.#calls.set(id, ABANDONED);
      this.steer({ id, cancel: true });
    } else {
      this.#forget(id);
    }
  }

  close(): void {
    this.#isClosed = true;
    const link = this.#link;
    this.#link = undefined;
    this.#failAll(connectionError("the client was closed"));
    link?.close();
  }

  // ── what a link calls ───────────────────────────────────────────────────────────────────────────────────────────────
  received(frame: Frame): void {
    this.#patience.renew();
    const id = frame.id ?? frame.error?.details?.["id"];
    if (typeof id !== "number") return;
    if (this.#calls.get(id)?.received(frame)) this.#forget(id);
  }

  lost(link: Link): void {
    if (link !== this.#link) return;
    this.#link = undefined;
    for (const id of [...this.#sent]) {
      if (!this.#calls.get(id)?.isRepeatable) this.fail(id, connectionError("the connection was lost"));
    }
    if (this.#calls.size > 0) void this.#connect();
  }

  again(id: number): Request | undefined {
    const call = this.#calls.get(id);
    if (!call) return undefined;
    if (!call.isRepeatable) {
      this.fail(id, connectionError("the connection was lost"));
      return undefined;
    }
    return { ...call.opening(true), id };
  }

  fail(id: number, error: KsiError): void {
    const call = this.#calls.get(id);
    this.#forget(id);
    call?.failed(error);
  }

  // ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────────
  #forget(id: number): void {
    this.#calls.delete(id);
    this.#sent.delete(id);
  }

  #failAll(error: KsiError): void {
    for (const id of [...this.#calls.keys()]) this.fail(id, error);
  }

  #ask(link: Link, id: number, call: Call, again: boolean): void {
    this.#sent.add(id);
    link.send({ ...call.opening(again), id });
  }

  async #connect(): Promise<void> {
    if (this.#isConnecting) return;
    this.#isConnecting = true;
    try {
      await this.#connected();
    } finally {
      this.#isConnecting = false;
    }
  }

  async #connected(): Promise<void> {
    let problem = connectionError("no daemon answers");
    while (await this.#patience.wait()) {
      if (this.#isClosed) return;
      try {
        this.#enter(await this.endpoint.connect(this));
        return;
      } catch (error) {
        if (!(error instanceof KsiError)) throw error;
        problem = error;
        if (error.code !== "connection_error") break; // who answers will not have us: to wait changes nothing
      }
    }
    this.#patience.renew(); // whoever asks later waits as long
    this.#failAll(problem);
  }

  #enter(link: Link): void {
    if (this.#isClosed) {
      link.close();
      return;
    }
    this.#link = link;
    for (const [id, call] of this.#calls) this.#ask(link, id, call, this.#sent.has(id));
  }
}
