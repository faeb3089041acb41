/** Server-sent events as frames. */

import type { Frame, WireError } from "./frames.js";

/** The frames of a body, as they come, until its end or the signal; a heartbeat is none. */
export async function* frames(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
  heard: () => void,
): AsyncGenerator<Frame> {
  const reader = body.getReader();
  // To abort the fetch is not enough: Node leaves a read that waits for ever where the body was about to end.
  const stop = () => void reader.cancel().catch(() => undefined);
  signal.addEventListener("abort", stop, { once: true });
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // what is not complete is not given
      heard();
      const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = events.pop() ?? "";
      for (const event of events) {
        const frame = frameOf(event);
        if (frame) yield frame;
      }
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}

function frameOf(event: string): Frame | undefined {
  const fields = new Map<string, string>();
  for (const line of event.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1).trimStart());
  }
  const text = fields.get("data");
  if (text === undefined) return undefined;
  const data: unknown = JSON.parse(text);
  switch (fields.get("event")) {
    case "open":
      return data as Frame;
    case "end":
      return { end: true, data };
    case "failure":
      return { end: true, error: data as WireError };
    case "gap":
      return { gap: data as Record<string, unknown> };
    default: {
      const at = fields.get("id");
      return at === undefined ? { seq: 1, data } : { seq: 1, at, data };
    }
  }
}
