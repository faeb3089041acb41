"""From what a caller names (a path, or a URL) to the endpoint behind it."""

from __future__ import annotations

from pathlib import Path

from ksi.client.link import Endpoint
from ksi.client.unix import UnixEndpoint


def endpoint_of(where: str | Path, *, name: str | None, token: str | None, reconnect_timeout: float) -> Endpoint:
    """The endpoint of a URL (http, https, ws, wss), or of the Unix socket at a path."""
    # The imports stand here because most clients come over the socket, and httpx alone takes ten times as long to
    # import as all of such a client.
    match str(where).partition("://")[0]:
        case "http" | "https":
            from ksi.client.http import HttpEndpoint

            return HttpEndpoint(str(where), name=name, token=token, reconnect_timeout=reconnect_timeout)
        case "ws" | "wss":
            from ksi.client.websocket import WebSocketEndpoint

            return WebSocketEndpoint(str(where), name=name, token=token)
        case _:
            return UnixEndpoint(Path(where), name=name, token=token)
