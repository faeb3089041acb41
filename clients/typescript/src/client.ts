/** The client: `call`, `stream`, `resume`, `subscribe`. */

import { KsiError } from "./errors.js";
import { type Call, Exchange } from "./exchange.js";
import type { Frame, Request } from "./frames.js";
import { HttpEndpoint } from "./http.js";
import { uuid7 } from "./ids.js";
import type { Endpoint } from "./link.js";
import { Stream, Subscription } from "./stream.js";
import { type WebSocketConstructor, WebSocketEndpoint } from "./websocket.js";

export interface ClientOptions {
  /** Where the daemon listens, as in `http://127.0.0.1:7474`. */
  url: string;
  /** What `ksi token` prints. */
  token?: string;
  /** Becomes the source of the requests, over a WebSocket. */
  name?: string;
  /** The constructor, where there is no global one; null: fetch and server-sent events. */
  WebSocket?: WebSocketConstructor | null;
  /** Seconds that a lost connection is made again for. */
  reconnectTimeout?: number;
}

/** What is not payload. `timeout` is in seconds; a request sent again under the same `eventId` is not done again. */
export interface Options {
  eventId?: string;
  correlationId?: string;
  timeout?: number;
  signal?: AbortSignal;
}

export interface StreamOptions extends Options {
  /** Chunks that may be under way to a reader who does not take them. */
  bufferSize?: number;
}

export interface SubscribeOptions {
  /** `start`, `end`, `checkpoint` (of the subscriber) or an address such as `@1234`. */
  after?: string;
  /** Name under which the daemon remembers the place. */
  subscriber?: string;
  kinds?: Array<"fact" | "request" | "outcome">;
  /** Only events that have all of these. */
  tags?: string[];
  /** Only events of one run. */
  correlationId?: string;
  overflow?: "wait" | "drop" | "disconnect";
  bufferSize?: number;
  signal?: AbortSignal;
}

/** What is said of one event. */
export interface EventShape {
  kind: string;
  request: unknown;
  answer: unknown;
  chunk: unknown;
}

/** Where no types of events are given, anything goes. */
export type AnyEvents = Record<string, { kind: "stream"; request: any; answer: any; chunk: any }>;

/** A recorded event, as a subscription gives it. */
export interface RecordedEvent {
  name: string;
  position: number;
  /** Null where no frame holds it: then `data_bytes` says how large it is. */
  data: unknown;
  data_bytes?: number;
  [field: string]: unknown;
}

/** The payload; it may be left out where none of its fields is required. */
export type Payload<Request, Options> = {} extends Request
  ? [data?: Request, options?: Options]
  : [data: Request, options?: Options];

type StreamName<Events extends Shapes<Events>> = {
  [Name in keyof Events]: Events[Name]["kind"] extends "stream" ? Name : never;
}[keyof Events];

type Shapes<Events> = { [Name in keyof Events]: EventShape };

const BUFFER_SIZE = 16;
const RECONNECT_TIMEOUT = 10;

/** A client; `new Client<KsiEvents>(…)` checks names and payloads against what `ksi describe typescript` wrote. */
export class Client<Events extends Shapes<Events> = AnyEvents> {
  #exchange: Exchange;

  constructor(options: ClientOptions) {
    const timeout = options.reconnectTimeout ?? RECONNECT_TIMEOUT;
    this.#exchange = new Exchange(endpointOf(options, timeout), timeout);
  }

  /** Ask and wait for the answer. Aborted, it is cancelled at the daemon. */
  call<Name extends keyof Events & string>(
    event: Name,
    ...payload: Payload<Events[Name]["request"], Options>
  ): Promise<Events[Name]["answer"]> {
    const [data, options = {}] = payload;
    const { signal } = options;
    const { promise, answer } = waiting<Events[Name]["answer"]>(requestOf(event, data, options));
    if (signal?.aborted) return Promise.reject(signal.reason);
    const id = this.#exchange.start(answer);
    const leave = () => {
      this.#exchange.abandon(id);
      answer.reject(signal?.reason);
    };
    signal?.addEventListener("abort", leave, { once: true });
    return promise.finally(() => signal?.removeEventListener("abort", leave));
  }

  /** The answer in chunks; the request leaves with the first step of the loop. */
  stream<Name extends StreamName<Events> & string>(
    event: Name,
    ...payload: Payload<Events[Name]["request"], StreamOptions>
  ): Stream<Events[Name]["chunk"], Events[Name]["answer"]> {
    const [data, options = {}] = payload;
    const request: Request = { ...requestOf(event, data, options), stream: true };
    return new Stream(this.#exchange, request, options.bufferSize ?? BUFFER_SIZE, options.signal);
  }

  /** The chunks after an address, then what comes, then the end; never a second run. */
  resume<Data = unknown, End = unknown>(at: string, options: StreamOptions = {}): Stream<Data, End> {
    return new Stream(this.#exchange, { resume: at }, options.bufferSize ?? BUFFER_SIZE, options.signal);
  }

  /** Recorded events that match, from `after` on (the end, where it is not said), then live. */
  subscribe(pattern: string, options: SubscribeOptions = {}): Subscription<RecordedEvent> {
    const { signal, bufferSize, correlationId, ...fields } = options;
    const run = correlationId === undefined ? {} : { correlation_id: correlationId };
    const request: Request = { ...requestOf("event:subscribe", { pattern, ...fields, ...run }, {}), stream: true };
    // One at a time where a checkpoint counts it as done when the next one is asked for.
    const size = fields.subscriber === undefined ? (bufferSize ?? BUFFER_SIZE) : 1;
    return new Subscription(this.#exchange, request, size, signal);
  }

  /** Whatever still waits fails. */
  close(): void {
    this.#exchange.close();
  }
}

/** One answer. */
class Answer implements Call {
  readonly isRepeatable = true;

  constructor(
    readonly request: Request,
    readonly resolve: (answer: never) => void,
    readonly reject: (error: unknown) => void,
  ) {}

  opening(): Request {
    return this.request;
  }

  received(frame: Frame): boolean {
    if (frame.error) this.reject(new KsiError(frame.error));
    else this.resolve(frame.data as never);
    return true;
  }

  failed(error: KsiError): void {
    this.reject(error);
  }
}

function waiting<Value>(request: Request): { promise: Promise<Value>; answer: Answer } {
  let answer!: Answer;
  const promise = new Promise<Value>((resolve, reject) => (answer = new Answer(request, resolve, reject)));
  return { promise, answer };
}

function endpointOf(options: ClientOptions, timeout: number): Endpoint {
  const url = options.url.replace(/\/+$/, "");
  const constructor =
    options.WebSocket === undefined
      ? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket
      : options.WebSocket;
  if (!constructor) return new HttpEndpoint(url, options.token, timeout);
  const socket = `${url.replace(/^http/, "ws")}/v1/ws`;
  return new WebSocketEndpoint(socket, options.token, options.name ?? "typescript", constructor);
}

function requestOf(event: string, data: unknown, options: Options): Request {
  const request: Request = { event, data: data ?? {}, event_id: options.eventId ?? uuid7() };
  if (options.correlationId !== undefined) request.correlation_id = options.correlationId;
  if (options.timeout !== undefined) request.timeout = options.timeout;
  return request;
}
