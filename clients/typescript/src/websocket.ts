/** WebSocket: a frame a message, many requests and streams on one connection. */

import { connectionError, KsiError } from "./errors.js";
import type { Frame, Request } from "./frames.js";
import type { Endpoint, Link, Listener } from "./link.js";

/** What is used of a WebSocket: those of browsers, of Deno, of Bun, of Node 22 and of the package `ws` fit. */
export interface WebSocketLike {
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: { data: unknown }) => unknown) | null;
  onclose: ((event: never) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
  send(data: string): void;
  close(): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

type Greeting = Frame & { hello?: 1 };

export class WebSocketEndpoint implements Endpoint {
  constructor(
    readonly url: string,
    readonly token: string | undefined,
    readonly name: string,
    readonly WebSocket: WebSocketConstructor,
  ) {}

  /** Connects, and says hello with the token: a browser can not send a header with it. */
  connect(listener: Listener): Promise<Link> {
    return new Promise((resolve, reject) => {
      const socket = new this.WebSocket(this.url);
      const link: Link = {
        send: (request: Request) => socket.send(JSON.stringify(request)),
        close: () => socket.close(),
      };
      socket.onopen = () => socket.send(JSON.stringify({ hello: 1, token: this.token, client: this.name }));
      socket.onmessage = ({ data }) => {
        const greeting = JSON.parse(String(data)) as Greeting;
        if (greeting.hello !== 1) {
          reject(greeting.error ? new KsiError(greeting.error) : connectionError(`no daemon at ${this.url}`));
          socket.close();
          return;
        }
        socket.onmessage = (message) => listener.received(JSON.parse(String(message.data)) as Frame);
        socket.onclose = () => listener.lost(link);
        resolve(link);
      };
      socket.onclose = socket.onerror = () => reject(connectionError(`no daemon answers at ${this.url}`));
    });
  }
}
