"""The HTTP server: listens, and closes in the daemon's order. uvicorn's own server, with its signals, stays out."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path

import msgspec
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ksi.core.config import HttpSection
from ksi.core.errors import ConfigError
from ksi.core.home import Home
from ksi.transport import unix
from ksi.transport.http.app import App
from ksi.transport.http.binding import BACKLOG, WILDCARDS, bound
from ksi.transport.http.protocol import Bounds, HttpConnection
from ksi.transport.http.websocket import WebSockets

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than the pools of most clients keep theirs."""
ABORT_GRACE = 1.0
"""Seconds that a request has to end once its connection is gone."""
_log = logging.getLogger("ksi.http")


class HttpServer:
    """Serves ``app`` on a loopback port, and on a Unix socket where one is configured."""

    def __init__(self, app: App, state: ServerState, sockets: WebSockets, section: HttpSection, home: Home) -> None:
        self._sockets = sockets
        self._section = section
        self._home = home
        self._bounds = Bounds(
            connections_max=section.connections_max,
            header_timeout=section.header_timeout,
            body_timeout=section.body_timeout,
        )
        self.state = state
        self._config = UvicornConfig(
            app,
            http=HttpToolsProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._config.load()
        self._listeners: list[asyncio.Server] = []
        self.url = ""

    async def start(self) -> None:
        """Listen, and say where in the home's ``http.json``.

        Raises:
            ConfigError: It can not listen there; the message says why.
        """
        section, loop = self._section, asyncio.get_running_loop()
        context = _tls(section)
        listening = bound(section.host, section.port)
        listener = await loop.create_server(self._connection, sock=listening, ssl=context, backlog=BACKLOG)
        self._listeners.append(listener)
        if section.socket is not None:
            await self._listen_on(self._home.path / section.socket)
        self.url = _url(section, listening.getsockname()[1])
        self._announce()

    async def _listen_on(self, path: Path) -> None:
        try:
            listening = unix.bound(path)
        except ConfigError:
            self._listeners.pop().close()
            raise
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self._connection, sock=listening, backlog=BACKLOG))

    def _connection(self) -> HttpConnection:
        return HttpConnection(self._config, self.state, self._bounds, self._sockets)

    def _announce(self) -> None:
        file = self._home.http_file
        file.write_bytes(msgspec.json.encode({"url": self.url, "pid": os.getpid()}))
        _log.info("HTTP: %s", self.url)

    @property
    def _open(self) -> list[HttpConnection]:
        return [connection for connection in self.state.connections if isinstance(connection, HttpConnection)]

    async def close(self, grace: float) -> None:
        """Accept no more, answer what is in flight, close; after ``grace`` seconds the rest is cut off."""
        self._home.http_file.unlink(missing_ok=True)
        for listener in self._listeners:
            listener.close()
        if self._section.socket is not None:
            (self._home.path / self._section.socket).unlink(missing_ok=True)
        for connection in self._open:
            connection.shutdown()
        await asyncio.gather(self._sockets.close(grace), self._close_requests(grace))

    async def _close_requests(self, grace: float) -> None:
        """Let what is under way end and be written; who takes too long loses its connection."""
        await _ended(set(self.state.tasks), grace)
        closing = {asyncio.ensure_future(connection.close()) for connection in self._open}
        await _ended(closing, grace if not self.state.tasks else 0.0)
        for connection in self._open:
            connection.abort()
        for task in await _ended(set(self.state.tasks), ABORT_GRACE):
            task.cancel()
        for task in closing:
            task.cancel()


async def _ended(tasks: set[asyncio.Task[None]], grace: float) -> set[asyncio.Task[None]]:
    """Wait for the end of ``tasks``; the answer is those that have not ended."""
    return (await asyncio.wait(tasks, timeout=grace))[1] if tasks else set()


def _url(section: HttpSection, port: int) -> str:
    """Where a client on this machine finds it, under a name that it answers to."""
    host = section.host
    if host in WILDCARDS:
        host = next(iter(section.hosts), "localhost")
    return f"{'http' if section.certificate is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"


def _tls(section: HttpSection) -> ssl.SSLContext | None:
    if section.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(section.certificate, section.certificate_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate can not be read: {error}", where="http.certificate") from None
    return context
