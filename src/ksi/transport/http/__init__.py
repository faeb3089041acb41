"""HTTP on the same door: requests, streams as SSE or NDJSON, WebSocket, probes and metrics."""
