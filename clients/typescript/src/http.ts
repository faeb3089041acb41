/** fetch: each request is a POST of its own, each stream server-sent events. One that breaks off is asked for alone. */

import { connectionError } from "./errors.js";
import type { Frame, Request, WireError } from "./frames.js";
import { type Endpoint, type Link, type Listener, Patience } from "./link.js";
import { frames } from "./sse.js";

/** Seconds without a sign of life, after which a stream is lost: the daemon says something each 15 s. */
const SILENCE_MAX = 50;
/** How often a request that is to be cancelled is looked for: it may be on its way, behind the word that cancels it. */
const MISSES_MAX = 3;
/** Seconds that one word of credit may take. */
const GRANT_TIMEOUT = 10;
/** What a proxy says, in words of its own, when there is no daemon behind it. */
const NOBODY_THERE = [502, 503, 504];

export class HttpEndpoint implements Endpoint {
  constructor(
    readonly url: string,
    readonly token: string | undefined,
    readonly reconnectTimeout: number,
  ) {}

  connect(listener: Listener): Promise<Link> {
    return Promise.resolve(new HttpLink(this, listener));
  }

  fetch(path: string, options: RequestInit): Promise<Response> {
    const headers = new Headers(options.headers);
    if (this.token !== undefined) headers.set("authorization", `Bearer ${this.token}`);
    return fetch(this.url + path, { ...options, headers });
  }
}

class HttpLink implements Link {
  #carried = new Map<number, Carried>();

  constructor(
    readonly endpoint: HttpEndpoint,
    readonly listener: Listener,
  ) {}

  send(request: Request): void {
    const id = request.id as number;
    if (request.event !== undefined || request.resume !== undefined) {
      const carried = new Carried(this, id, request);
      this.#carried.set(id, carried);
      void carried.run().finally(() => this.#carried.delete(id));
    } else if (request.cancel) {
      void this.#carried.get(id)?.stop();
    } else {
      this.#carried.get(id)?.give(request.credit ?? 0);
    }
  }

  close(): void {
    for (const carried of this.#carried.values()) carried.hangUp();
  }
}

/** A request on its way. */
class Carried {
  #granted: number;
  #told: number;
  /** What the daemon calls it, where it takes credit. */
  #reader: string | null = null;
  #isTelling = false;
  #abort = new AbortController();
  #isStopped = false;
  #isHungUp = false;
  #isOver = false;
  #patience: Patience;

  constructor(
    readonly link: HttpLink,
    readonly id: number,
    readonly request: Request,
  ) {
    this.#granted = this.#told = request.credit ?? 0;
    this.#patience = new Patience(link.endpoint.reconnectTimeout);
  }

  async run(): Promise<void> {
    await this.#askUntilItIsWhole();
    this.#isOver = true;
  }

  /** Ask until nobody waits for more of it. */
  async #askUntilItIsWhole(): Promise<void> {
    let request: Request | undefined = this.request;
    while (request && (await this.#patience.wait())) {
      if (this.#isHungUp) return;
      await this.#ask(request);
      if (this.#isHungUp) return;
      request = this.link.listener.again(this.id);
      this.#granted = this.#told = request?.credit ?? 0;
    }
    if (request) this.link.listener.fail(this.id, connectionError(`no daemon answers at ${this.link.endpoint.url}`));
  }

  give(credit: number): void {
    this.#granted += credit;
    if (!this.#isTelling) void this.#tell();
  }

  /** Tell the daemon what was given; what is given meanwhile goes along with the next word. */
  async #tell(): Promise<void> {
    this.#isTelling = true;
    let patience = new Patience(this.link.endpoint.reconnectTimeout);
    while (this.#reader !== null && this.#granted > this.#told && (await patience.wait())) {
      const [reader, credit] = [this.#reader, this.#granted]; // in all: said again, it is the same
      if (reader === null || !(await this.#isTold(reader, credit)) || this.#reader !== reader) continue;
      this.#told = credit;
      patience = new Patience(this.link.endpoint.reconnectTimeout);
    }
    this.#isTelling = false;
  }

  async #isTold(reader: string, credit: number): Promise<boolean> {
    try {
      const signal = AbortSignal.timeout(GRANT_TIMEOUT * 1000);
      const options = { method: "PUT", body: JSON.stringify({ credit }), signal };
      const response = await this.link.endpoint.fetch(`/v1/readers/${reader}`, options);
      await response.text(); // one that is not read keeps its connection
      return response.ok;
    } catch {
      return false; // the network: again
    }
  }

  /** Cancel it at the daemon, whose end still comes; what does not run there under an id ends with its connection. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    const patience = new Patience(this.link.endpoint.reconnectTimeout);
    let missed = 0;
    while ((this.#cancelPath || this.request.resume) && missed < MISSES_MAX && (await patience.wait())) {
      const path = this.#cancelPath;
      if (this.#isOver) return;
      if (path === undefined) continue; // it is not told yet what it is called
      try {
        const response = await this.link.endpoint.fetch(path, { method: "DELETE" });
        await response.text(); // one that is not read keeps its connection
        if (response.ok || this.#isOver) return;
        missed += 1;
      } catch {
        continue; // the network: again
      }
    }
    this.hangUp();
    this.#handOn({ ok: false, end: true, error: { code: "cancelled", message: "it was cancelled" } });
  }

  /** What to delete: what the daemon calls its reader, else its request. */
  get #cancelPath(): string | undefined {
    if (this.#reader !== null) return `/v1/readers/${this.#reader}`;
    return this.request.event_id === undefined ? undefined : `/v1/requests/${this.request.event_id}`;
  }

  hangUp(): void {
    this.#isHungUp = true;
    this.#abort.abort();
  }

  /** Ask once, and hand on what comes before it is whole or breaks off. */
  async #ask(request: Request): Promise<void> {
    this.#abort = new AbortController();
    try {
      const response = await this.link.endpoint.fetch(...messageOf(request, this.#abort.signal));
      if (response.ok && response.body && isStream(request)) await this.#readStream(response, response.body);
      else await this.#readAnswer(response, isStream(request));
    } catch {
      return; // it broke off
    } finally {
      this.#abort.abort();
    }
  }

  async #readAnswer(response: Response, isStreamed: boolean): Promise<void> {
    const body = await response.text();
    if (response.ok) {
      this.#handOn({ ok: true, data: JSON.parse(body) });
      return;
    }
    const error = problemIn(response.status, body);
    if (error) this.#handOn({ ok: false, end: isStreamed, error });
  }

  async #readStream(response: Response, body: ReadableStream<Uint8Array>): Promise<void> {
    const abort = this.#abort;
    let silence: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE_MAX * 1000);
    };
    this.#reader = response.headers.get("ksi-reader");
    this.give(0); // what was given on the way here
    try {
      heard();
      for await (const frame of frames(body, abort.signal, heard)) this.#handOn(frame);
    } finally {
      clearTimeout(silence);
      this.#reader = null;
    }
  }

  #handOn(frame: Frame): void {
    if (!frame.error) this.#patience.renew(); // a daemon that stops refuses whoever goes on, again and again
    this.link.listener.received({ ...frame, id: this.id });
  }
}

function isStream(request: Request): boolean {
  return request.stream === true || request.resume !== undefined;
}

function messageOf(request: Request, signal: AbortSignal): [string, RequestInit] {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (isStream(request)) {
    headers["accept"] = "text/event-stream";
    headers["ksi-credit"] = String(request.credit ?? 0);
  }
  if (request.resume !== undefined) return [`/v1/stream/${encodeURI(request.resume)}`, { headers, signal }];
  if (request.event_id !== undefined) headers["idempotency-key"] = request.event_id;
  if (request.correlation_id !== undefined) headers["ksi-correlation-id"] = request.correlation_id;
  if (request.timeout !== undefined) headers["ksi-timeout"] = String(request.timeout);
  const kind = request.stream ? "stream" : "events";
  const path = `/v1/${kind}/${encodeURIComponent(request.event ?? "")}`;
  return [path, { method: "POST", headers, body: JSON.stringify(request.data ?? {}), signal }];
}

function problemIn(status: number, body: string): WireError | undefined {
  try {
    const problem = JSON.parse(body) as { code: string; detail: string; details?: Record<string, unknown> };
    return { code: problem.code, message: problem.detail, details: problem.details ?? {} };
  } catch {
    return NOBODY_THERE.includes(status) ? undefined : { code: "remote_error", message: `HTTP ${status}` };
  }
}
