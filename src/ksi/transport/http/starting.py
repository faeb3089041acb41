"""The start of HTTP, behind that of the Unix socket: starlette and uvicorn are loaded in a thread, and nobody waits."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from ksi.core.config import HttpSection
from ksi.core.errors import ConfigError
from ksi.core.home import Home
from ksi.core.threads import Threads
from ksi.kernel.services import ServiceRegistry
from ksi.transport.connection import Common
from ksi.transport.tokens import TokenStore

if TYPE_CHECKING:
    from ksi.transport.http.server import HttpServer

DELAY = 0.05
"""Seconds in which whoever waits for the Unix socket has the process to itself."""
_log = logging.getLogger("ksi.http")


class Http:
    """HTTP of one daemon: on its way, there, or not to be had."""

    def __init__(
        self,
        services: ServiceRegistry,
        tokens: TokenStore,
        section: HttpSection,
        home: Home,
        common: Common,
        threads: Threads,
    ) -> None:
        """``common`` is what the connections of the Unix socket share: these have the same bounds, all together."""
        self._services = services
        self._tokens = tokens
        self._section = section
        self._home = home
        self._common = common
        self._threads = threads
        self._server: HttpServer | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the daemon goes on meanwhile, and also where it fails, for the Unix socket serves."""
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> None:
        try:
            await asyncio.sleep(DELAY)
            server = await self._threads.run("blocking", self._loaded)
            await server.start()
            self._server = server
        except ConfigError as error:
            _log.warning("no HTTP: %s", error.message)
            self._say(error.message)
        except Exception as error:  # noqa: BLE001  # the door of a task that nobody awaits
            _log.exception("no HTTP")
            self._say(type(error).__name__)

    def _say(self, reason: str) -> None:
        """Why there is none, where others look for its address."""
        self._home.http_file.write_bytes(msgspec.json.encode({"error": reason, "pid": os.getpid()}))

    def _loaded(self) -> HttpServer:
        # Here and not above: a third of a second that the first answer on the Unix socket does not wait for.
        from ksi.transport.http.assembly import server_of

        self._tokens.default(self._home.token_file, f"uid:{os.getuid()}")
        return server_of(self._services, self._tokens, self._section, self._home, self._common)

    async def close(self, grace: float) -> None:
        """End what runs, at most ``grace`` seconds long."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._server is not None:
            await self._server.close(grace)
        self._home.http_file.unlink(missing_ok=True)
