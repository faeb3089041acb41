/** Frames of the wire protocol, as they are sent and as they come. */

export interface Request {
  id?: number;
  event?: string;
  data?: unknown;
  stream?: true;
  resume?: string;
  credit?: number;
  cancel?: true;
  event_id?: string;
  correlation_id?: string;
  timeout?: number;
}

export interface WireError {
  code: string;
  message: string;
  details?: Record<string, unknown>;
}

/** `seq` tells a chunk: a frame with `at` alone says only where a stream begins. */
export interface Frame {
  id?: number | null;
  ok?: boolean;
  data?: unknown;
  error?: WireError;
  seq?: number;
  at?: string;
  end?: boolean;
  gap?: Record<string, unknown>;
}
