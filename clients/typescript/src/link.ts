/** The seam between what is asked and how it travels: a link takes requests and gives frames. */

import type { KsiError } from "./errors.js";
import type { Frame, Request } from "./frames.js";

export interface Link {
  /** Ask, or steer what was asked. Frames of it come until its last one, or until the link is lost. */
  send(request: Request): void;
  close(): void;
}

export interface Listener {
  received(frame: Frame): void;
  /** Nothing comes over the link any more. */
  lost(link: Link): void;
  /** One answer broke off, and the link still stands: how to ask for the rest, if anybody waits for it. */
  again(id: number): Request | undefined;
  /** No more frames of it come. */
  fail(id: number, error: KsiError): void;
}

export interface Endpoint {
  /** Rejects with a KsiError where nobody answers, or who answers refuses us. */
  connect(listener: Listener): Promise<Link>;
}

const BACKOFF_FIRST = 0.02;
const BACKOFF_MAX = 1;

/** When to try again, and until when: `timeout` seconds after it was renewed nothing is tried any more. */
export class Patience {
  #until: number | undefined;
  #delay = 0;

  constructor(readonly timeout: number) {}

  /** Something came: begin anew, should it be lost. */
  renew(): void {
    this.#until = undefined;
    this.#delay = 0;
  }

  /** Sleep until the next attempt; false: there is none. Jittered, so that clients do not come back all at once. */
  async wait(): Promise<boolean> {
    const now = performance.now() / 1000;
    this.#until ??= now + this.timeout;
    if (now >= this.#until) return false;
    const seconds = Math.min(this.#delay * (0.5 + Math.random() / 2), this.#until - now);
    if (seconds > 0) await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    this.#delay = Math.min(Math.max(this.#delay * 2, BACKOFF_FIRST), BACKOFF_MAX);
    return true;
  }
}
