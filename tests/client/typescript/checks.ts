/** Asks a daemon in every way that the client has, and prints what came: `node checks.js WAY URL TOKEN WHAT`. */

import { Client, KsiError } from "./ksi-client/index.js";
import type { KsiClient, KsiEvents } from "./types.js";

const [way, url, token, what] = process.argv.slice(2) as [string, string, string, keyof typeof CHECKS];

const CHECKS = {
  async call(ksi: Client<KsiEvents>) {
    const { version } = await ksi.call("state:set", { key: "colour", value: "blau, ü" });
    const { value } = await ksi.call("state:get", { key: "colour" });
    const wrong = (await (ksi as unknown as Client).call("work:od").catch((error: unknown) => error)) as KsiError;
    return { version, value, code: wrong.code, name: wrong.details["event_name"] };
  },

  async retry(ksi: Client<KsiEvents>) {
    const eventId = "01975f0c-3b1a-7c7e-9c55-6f8a54f0a8a3";
    for (let tries = 0; tries < 2; tries++) await ksi.call("work:do", { number: 7 }, { eventId });
    return numbers(ksi, 1);
  },

  async stream(ksi: Client<KsiEvents>) {
    const stream = ksi.stream("work:count", { to: 20 });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const resumed = ksi.resume<number, string>(chunks[9]?.at ?? "");
    const rest = [];
    for await (const chunk of resumed) rest.push(chunk.data);
    return { seen: chunks.map((chunk) => chunk.data), end: await stream.end, rest, restEnd: await resumed.end };
  },

  async unread(ksi: Client<KsiEvents>) {
    const unread = [1, 2, 3].map(() => ksi.stream("work:talk", {}, { bufferSize: 1 }).open());
    const answer = await ksi.call("work:do", { number: 1 });
    for (const stream of unread) stream.cancel();
    return answer;
  },

  async leave(ksi: Client<KsiEvents>) {
    for await (const _ of ksi.stream("work:talk")) break;
    return said(ksi, 1);
  },

  async cancel(ksi: Client<KsiEvents>) {
    const stream = ksi.stream("work:talk");
    for await (const _ of stream) stream.cancel();
    const end = (await stream.end.catch((error: unknown) => error)) as KsiError;
    return { code: end.code, partial: end.details["partial"] };
  },

  async abort(ksi: Client<KsiEvents>) {
    const names: string[] = [];
    for (const event of ["work:hold", "work:wait"] as const) {
      const aborting = new AbortController();
      const asked = ksi.call(event, {}, { signal: aborting.signal }).catch((error: Error) => names.push(error.name));
      setTimeout(() => aborting.abort(), 300);
      await asked;
    }
    const streaming = new AbortController();
    try {
      for await (const _ of ksi.stream("work:talk", {}, { signal: streaming.signal })) streaming.abort();
    } catch (error) {
      names.push((error as Error).name);
    }
    return { names, said: (await said(ksi, 3)).sort() };
  },

  async through(ksi: Client<KsiEvents>) {
    const streams = [1, 2].map(async () => {
      const seen = [];
      for await (const chunk of ksi.stream("work:count", { to: 100 }, { bufferSize: 4 })) seen.push(chunk.data);
      return seen;
    });
    const followed = numbers(ksi, 50);
    for (let number = 0; number < 50; number++) await ksi.call("work:do", { number });
    return { streams: await Promise.all(streams), followed: await followed };
  },

  async follow(ksi: Client<KsiEvents>) {
    for await (const { data } of ksi.subscribe("work:", { after: "start" })) {
      console.log(JSON.stringify((data.data as { number: number }).number));
    }
  },
};

async function numbers(ksi: Client<KsiEvents>, count: number): Promise<number[]> {
  const seen: number[] = [];
  for await (const { data } of ksi.subscribe("work:", { after: "start" })) {
    seen.push((data.data as { number: number }).number);
    if (seen.length === count) break;
  }
  return seen;
}

/** What the plugin has said, once it has said so much: a cancel is on its way for a while. */
async function said(ksi: Client<KsiEvents>, count: number): Promise<string[]> {
  for (;;) {
    const log = await ksi.call("work:log");
    if (log.length >= count) return log;
  }
}

const options = { url, token, reconnectTimeout: 60 };
const ksi = new Client<KsiEvents>(way === "http" ? { ...options, WebSocket: null } : options);
export const described: KsiClient = ksi; // it is what the types say that a client is
const result = await CHECKS[what](ksi);
ksi.close();
console.log(JSON.stringify(result));
