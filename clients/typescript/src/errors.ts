import type { WireError } from "./frames.js";

/** An error of the daemon, or of the way to it; `code` is stable, `details` holds its facts. */
export class KsiError extends Error {
  readonly code: string;
  readonly details: Record<string, unknown>;

  constructor(error: WireError) {
    super(error.message);
    this.name = "KsiError";
    this.code = error.code;
    this.details = error.details ?? {};
  }
}

/** Nobody answers, or the connection was lost and what was asked must not be asked twice. */
export function connectionError(message: string): KsiError {
  return new KsiError({ code: "connection_error", message });
}
