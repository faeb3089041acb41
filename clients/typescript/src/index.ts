export { Client } from "./client.js";
export type { AnyEvents, ClientOptions, EventShape, Options, RecordedEvent, StreamOptions, SubscribeOptions } from "./client.js";
export { KsiError } from "./errors.js";
export type { Chunk, Stream, Subscription } from "./stream.js";
export type { WebSocketConstructor, WebSocketLike } from "./websocket.js";
